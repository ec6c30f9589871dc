"""Our streams for everybody: Avalanche benchmarks whose samples are images or features, not our sample ids.

Items are (x, class id by arrival, task label 0).  Every experience also carries its sample ids, `samples`, and their class ids,
`targets`, and task labels, as Avalanche's DER and LwF ask for them.
"""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from avalanche.benchmarks import CLScenario, benchmark_from_datasets, with_classes_timeline
from avalanche.benchmarks.scenarios.task_aware import with_task_labels
from avalanche.benchmarks.utils import DataAttribute
from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms.functional import pil_to_tensor

from lamm_cl.config.schema import Backbone, Scenario
from lamm_cl.data.dataset import Dataset, Split
from lamm_cl.data.images import open_image
from lamm_cl.errors import UserError
from lamm_cl.sweeping.plan import in_order
from lamm_cl.towers.clip import FrozenCLIP
from lamm_cl.towers.devices import device as resolved
from lamm_cl.towers.features import FeaturesOnly
from lamm_cl.training import stream
from lamm_cl.training.features import Features, Pixels
from lamm_cl.training.run import backbone_on, dataset_of, facts_of_features

Transform = Callable[..., Tensor]


@dataclass(frozen=True)
class Origin:
    """Where a benchmark comes from: what a model for it, or a record of it, must know."""

    scenario: Scenario
    named: str  # the dataset, as it was asked for
    shots: int | Literal["full"]
    seed: int
    dataset: Dataset
    parts: stream.Stream
    cache: Path
    device: str
    backbone: Backbone | None = None  # whose features the items are; None: they are images
    order: str = ""  # of several in the scenario, this one

    def __deepcopy__(self, memo: dict) -> "Origin":
        return self  # facts; a copied model shares them


class Benchmark(CLScenario):
    """Avalanche's `train_stream` and `test_stream`, with what one needs to know of them.

    Items are (x, y, 0): x an image (3, H, W) or features (D,), y the class id by arrival: experience 1 has 0, 1, ...
    """

    def __init__(self, made: CLScenario, origin: Origin):
        super().__init__([made.train_stream, made.test_stream])
        self.origin = origin

    @property
    def class_names(self) -> list[str]:
        """By arrival: `class_names[y]`."""
        return list(self.origin.parts.names)

    @property
    def class_order(self) -> list[int]:
        """The dataset's own class ids, by arrival."""
        return list(self.origin.parts.order)

    @property
    def n_classes(self) -> int:
        """Classes of all experiences: the width of a head."""
        return len(self.origin.parts.names)

    @property
    def experiences(self) -> list[range]:
        """The class ids of each experience."""
        return list(self.origin.parts.experiences)


@dataclass
class Items(TorchDataset):
    """(x, class id by arrival) pairs of some samples of a split."""

    ids: list[int]
    targets: list[int]
    get: Callable[[int], Tensor]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.get(self.ids[i]), self.targets[i]


def aware(items: Items) -> TaskAwareSupervisedClassificationDataset:
    """As Avalanche's strategies take them: (x, y, task label)."""
    labels = [DataAttribute(items.targets, "targets"),
              DataAttribute([0] * len(items), "targets_task_labels", use_in_getitem=True)]  # fmt: skip
    return TaskAwareSupervisedClassificationDataset([items], data_attributes=labels)


@dataclass(frozen=True)
class OfImages:
    """Sample id -> transformed image."""

    split: Split
    transform: Transform

    def __call__(self, i: int) -> Tensor:
        return self.transform(open_image(self.split.images[i]))

    def __deepcopy__(self, memo: dict) -> "OfImages":
        return self


@dataclass(frozen=True)
class OfFeatures:
    """Sample id -> unit features (D,)."""

    at: dict[int, int]
    unit: Tensor

    def __call__(self, i: int) -> Tensor:
        return self.unit[self.at[i]]

    def __deepcopy__(self, memo: dict) -> "OfFeatures":
        return self


def plain(image: Image) -> Tensor:
    """A Pillow image -> (3, H, W) in 0..1, as it is: nothing is resized."""
    return pil_to_tensor(image).float() / 255


def origin_of(scenario: Scenario, named: str, shots: int | Literal["full"], seed: int, *, data_root: Path | None, cache: Path,
              device: str = "cpu", backbone: Backbone | None = None, order: str = "") -> Origin:  # fmt: skip
    dataset = dataset_of(scenario, named, data_root, cache)
    parts = stream.split(in_order(scenario, order), dataset, shots, seed)
    return Origin(scenario, named, shots, seed, dataset, parts, cache, device, backbone, order)


def benchmark(origin: Origin, transform: Transform | None = None, test_transform: Transform | None = None) -> Benchmark:
    """Of features where the origin names a backbone, else of images."""
    parts, dataset = origin.parts, origin.dataset
    sides = {"train": (dataset.train, parts.train, parts.train_targets), "test": (dataset.test, parts.test, parts.test_targets)}
    if origin.backbone is None and dataset.features is not None:
        raise UserError(f"{dataset.name}: holds features, not images; name the scenario's backbone to get them")
    if origin.backbone is not None and transform is not None:
        raise UserError("transform: is for images; features of a backbone are those of its own preprocessing")
    made = {}
    for name, (split, ids, targets) in sides.items():
        if origin.backbone is None:
            mine = transform if name == "train" else test_transform or transform
            get: Callable[[int], Tensor] = OfImages(split, mine or plain)
        else:
            get = OfFeatures({i: at for at, i in enumerate(torch.cat(ids).tolist())}, features(origin, name))
        made[name] = [aware(Items(chosen.tolist(), targets[chosen].tolist(), get)) for chosen in ids]
    # an experience's items in the order of its samples: class_incremental_benchmark would sort them by class
    found = Benchmark(with_task_labels(with_classes_timeline(benchmark_from_datasets(**made))), origin)
    for name, experiences in (("train", found.train_stream), ("test", found.test_stream)):
        _, ids, targets = sides[name]
        for experience, chosen in zip(experiences, ids):
            experience.samples, experience.targets = chosen, targets[chosen]
    return found


def features(origin: Origin, part: str) -> Tensor:
    """(N, D) unit features of the training images chosen, or of all test images, experience by experience; from the bank."""
    ids = torch.cat(origin.parts.train if part == "train" else origin.parts.test)
    split = origin.dataset.train if part == "train" else origin.dataset.test
    frozen = frozen_of(origin)
    if isinstance(frozen, FeaturesOnly):
        raw = torch.from_numpy(split.images)[ids].float()
        return torch.nn.functional.normalize(raw, dim=-1)
    fingerprint = origin.dataset.train_fingerprint if part == "train" else origin.dataset.fingerprint
    facts = facts_of_features(frozen) | {"dataset": fingerprint, "split": part}
    return Features(Pixels(split, frozen), ids, facts, origin.cache / "features").batch(ids, 0).cpu()


def frozen_of(origin: Origin) -> FrozenCLIP | FeaturesOnly:
    """The CLIP whose features the items are, or the scenario's."""
    return backbone_on(origin.backbone or origin.scenario.backbone, resolved(origin.device))
