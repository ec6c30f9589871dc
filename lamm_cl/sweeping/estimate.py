"""What a sweep costs: images and prompts counted from its runs; times follow from a speed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lamm_cl.config.lengths import lengths
from lamm_cl.config.schema import Card
from lamm_cl.data.orders import class_counts
from lamm_cl.sweeping.plan import Run

BACKWARD = 2  # a backward pass costs two forward passes


@dataclass(frozen=True)
class Sizes:
    classes: int
    train: int
    test: int
    chain: tuple[int, ...] = ()  # classes of each dataset of a chain


@dataclass(frozen=True)
class Work:
    """Passes: `encoded` images for the feature bank, `prompted` images (a backward pass counts as two), trained prompts."""

    encoded: int
    prompted: int
    prompts: int

    def seconds(self, speed: "Speed") -> tuple[float, float, float]:
        return self.encoded / speed.images, self.prompted / speed.images, self.prompts / speed.prompts


@dataclass(frozen=True)
class Speed:
    """A second: images through the image tower, prompts through the text tower and back; D: the width of a feature."""

    images: float
    prompts: float
    D: int


@dataclass(frozen=True)
class Asked:
    """What a step of a card asks for: images through a tower in which something is learned, features from the bank, texts."""

    prompted: bool
    frozen: bool
    texts: bool
    each: bool = False  # texts for every image of its own


def work(runs: Iterable[Run], sizes: dict[str, Sizes], asked_by: Callable[[Card], Asked]) -> Work:
    """Of all the runs; asked_by: what a step of a card asks for.

    Runs of a dataset share the features of its test images, those of a seed also its training's.
    """
    bank: dict[tuple, int] = {}
    prompted = prompts = 0
    for run in runs:
        size, training = sizes[run.dataset], run.card.training
        n = size.train if run.shots == "full" else min(size.train, run.shots * size.classes)
        counts = class_counts(run.stream.experiences, size.classes, run.dataset, size.chain)
        images = [n * c / size.classes for c in counts]
        how_long = lengths(training, images, n / size.classes)
        asked = asked_by(run.card)
        if asked.prompted:
            prompted += round(sum(each.images for each in how_long)) * (1 + BACKWARD) + size.test * (len(counts) + 1)
        if asked.frozen:
            augmented = training is not None and training.augmentation != "none"
            bank[run.dataset, "test"] = size.test
            if training:
                draws = max(each.epochs for each in how_long) if augmented else 1
                bank[run.dataset, run.shots, run.seed, augmented] = max(
                    n * draws, bank.get((run.dataset, run.shots, run.seed, augmented), 0)
                )
        if training and asked.texts:
            seen = (run.card.label_space or run.scenario.train_label_space) == "seen"
            for i, (c, each) in enumerate(zip(counts, how_long, strict=True)):
                in_play = sum(counts[: i + 1]) if seen else c
                prompts += each.steps * in_play * (training.batch if asked.each else 1)
    return Work(sum(bank.values()), prompted, prompts)
