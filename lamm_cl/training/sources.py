"""Where a run's images come from: what a step brings (Images), and what a piece observes of an experience.

Pixels where something in the image tower is learned, frozen features from the bank where they are needed, or both: augmentation
is a function of (seed, epoch, sample), so they show the same crop.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from lamm_cl.data.dataset import Dataset, Split
from lamm_cl.learner.model import Learner
from lamm_cl.learner.shown import Images
from lamm_cl.towers.clip import FrozenCLIP
from lamm_cl.towers.features import FeaturesOnly
from lamm_cl.training.features import Augmentation, Features, Given, Noise, Pixels, onto
from lamm_cl.training.stream import Stream

FIELDS = {"unit": "frozen", "raw": "raw", "trunk": "trunk"}  # kind of feature -> where it stands in Images
EVAL_BATCH = 256


@dataclass
class Source:
    """What a step brings of one split, batch by batch."""

    pixels: Pixels | None
    features: Features | Given | None

    @property
    def device(self) -> torch.device:
        return (self.pixels or self.features).device

    def batches(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Images]:
        """Batches of samples, in order, all of the view of this epoch."""
        parts = {"pixels": self.pixels.batches(batches, epoch)} if self.pixels else {}
        if self.features:
            parts |= {FIELDS[kind]: self.features.batches(batches, epoch, kind) for kind in self.features.kinds}
        for ids in batches:
            yield Images(ids=onto(self.device, ids), **{name: next(part) for name, part in parts.items()})


@dataclass
class Sources:
    """train: as a training step sees the images, augmented as the card says;  test;  bank: how frozen features are found."""

    train: Source
    test: Source
    bank: "Bank"
    parts: Stream

    def observed_images(self, trained: bool) -> int:
        """How many passes of an image what was observed so far takes with an empty bank, those of steps and tests left out."""
        counted = (self.train.features, self.test.features) if trained else (self.test.features,)
        taken = {(part, *view) for (part, _, *view), each in self.bank.made.items() if each in counted}
        others = [each for (part, _, *view), each in self.bank.made.items() if (part, *view) not in taken]
        return sum(len(each.ids) * len(each.asked) for each in others if isinstance(each, Features))

    def observed(self, i: int) -> "Observed":
        """The training images of experience i through the frozen tower; nothing is encoded before it is asked for."""
        parts = self.parts
        val = Observed(self.bank, "val", parts.val[i], parts.val_targets[parts.val[i]]) if len(parts.val[i]) else None
        return Observed(self.bank, "train", parts.train[i], parts.train_targets[parts.train[i]], val=val)


@dataclass
class Bank:
    """Frozen features of the splits of a data set, in the bank under `folder`."""

    clip: FrozenCLIP | FeaturesOnly
    splits: dict[str, Split]
    ids: dict[str, Tensor]  # those of each split that this run ever asks for
    facts: dict[str, dict]  # what decides the features of each split, beside samples and augmentation
    folder: Path
    seed: int
    made: dict[tuple, Features | Given] = field(default_factory=dict)
    tell: Callable[[str], None] = lambda text: None  # hears for whom it waits

    def features(self, part: str, kinds: tuple[str, ...], augmentation: Augmentation | None = None,
                 noise: Noise | None = None) -> Features | Given:  # fmt: skip
        key = (part, kinds, augmentation, noise)
        if key not in self.made and isinstance(self.clip, FeaturesOnly):
            self.made[key] = Given(self.splits[part], self.clip, kinds)
        if key not in self.made:
            pixels = Pixels(self.splits[part], self.clip, augmentation, noise)
            self.made[key] = Features(pixels, self.ids[part], self.facts[part], self.folder, kinds, lambda text: self.tell(text))
        return self.made[key]


@dataclass
class Observed:
    """n images of one experience through the frozen tower, without augmentation or as an augmented view."""

    bank: Bank
    part: str
    ids: Tensor  # (n,)
    y: Tensor  # (n,) class ids by arrival
    augmentation: Augmentation | None = None
    epoch: int = 0
    val: "Observed | None" = None
    noise: Noise | None = None

    def __post_init__(self) -> None:
        self.y = onto(self.bank.clip.device, self.y)

    @cached_property
    def unit(self) -> Tensor:
        return self._features("unit")

    @cached_property
    def raw(self) -> Tensor:
        return self._features("raw")

    @cached_property
    def trunk(self) -> Tensor:
        return self._features("trunk")

    def _features(self, kind: str) -> Tensor:
        """With whatever else of the same view is asked for anyway: an image passes through the tower once."""
        mine = (self.part, self.augmentation, self.noise)
        made = [kinds for part, kinds, *view in self.bank.made if (part, *view) == mine]
        anew = ("unit",) if kind == "unit" else ("unit", "raw", "trunk") if kind == "trunk" else ("unit", "raw")
        anew = tuple(each for each in FIELDS if each in anew or any(each in kinds for kinds in made))
        kinds = next((kinds for kinds in made if kind in kinds), anew)
        return self.bank.features(self.part, kinds, self.augmentation, self.noise).batch(self.ids, self.epoch, kind)

    def view(self, k: int, scale: tuple[float, float] = (0.08, 1.0)) -> "Observed":
        return Observed(self.bank, self.part, self.ids, self.y, Augmentation(self.bank.seed, tuple(scale)), k)

    def noisy(self, k: int, std: float, clamp: bool = False) -> "Observed":
        noise = Noise(self.bank.seed, std, clamp)
        return Observed(self.bank, self.part, self.ids, self.y, epoch=k, noise=noise)

    def batches(self, size: int = EVAL_BATCH) -> Iterator[tuple[Images, Tensor]]:
        """(pixels, class ids), for pieces that look at the images through a tower that was changed."""
        pixels = Pixels(self.bank.splits[self.part], self.bank.clip, self.augmentation, self.noise)
        batches = self.ids.split(size)
        for ids, y, each in zip(batches, self.y.split(size), pixels.batches(batches, self.epoch), strict=True):
            yield Images(ids=onto(pixels.device, ids), pixels=each), y


def sources(model: Learner, dataset: Dataset, parts: Stream, augmentation: str, seed: int, facts: dict, cache: Path) -> Sources:
    """Where the images of all splits come from.  augmentation: of training steps, by its name in a card.

    facts: what decides frozen features, beside the data set and the split.
    """
    of_training = Augmentation(seed) if augmentation != "none" else None
    origin = {"train": dataset.train_fingerprint, "test": dataset.fingerprint, "val": dataset.fingerprint}
    splits = {"train": dataset.train, "test": dataset.test, "val": dataset.val or dataset.train}
    ids = {"train": torch.cat(parts.train), "test": torch.arange(len(dataset.test)), "val": torch.cat(parts.val)}
    if parts.val_part == "train":  # entries of the bank hold the images of steps alone: validation has its own
        splits["val"], origin["val"] = dataset.train, origin["train"]
    of_split = {part: facts | {"dataset": origin[part], "split": part if part != "val" else parts.val_part} for part in splits}
    bank = Bank(model.clip, splits, ids, of_split, cache / "features", seed)
    needs = model.needs
    kinds = tuple(kind for kind, field in FIELDS.items() if field in needs or (kind == "unit" and "pixels" not in needs))
    steps = {}
    for part, augmented in (("train", of_training), ("test", None)):
        pixels = Pixels(splits[part], model.clip, augmented) if "pixels" in needs else None
        steps[part] = Source(pixels, bank.features(part, kinds, augmented) if kinds else None)
    return Sources(steps["train"], steps["test"], bank, parts)
