"""What a sweep costs: images and prompts counted from its runs; times follow from a speed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lamm_cl.config.lengths import Length, lengths
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
    """What a card asks for: in a step images through a tower in which something is learned, features from the bank, texts.

    each: texts for every image of its own;  observed: passes of the frozen tower over an experience's images, before it is
    learned;  again: whether they go through the learned tower once more behind it;  unseen: whether it is tested untrained;
    noisy: whether every epoch has a noisy view of the images from the bank;  replayed: of so many old classes with so many
    images each, how many images a memory shows again.
    """

    prompted: bool
    frozen: bool
    texts: bool
    each: bool = False
    observed: int = 0
    again: bool = False
    unseen: bool = True
    noisy: bool = False
    replayed: Callable[[int, float], float] = lambda classes, each: 0


@dataclass(frozen=True)
class Passes:
    """Images through the tower in one run: for the bank, by entry; forward with prompts, of which `trained` also backward."""

    bank: dict[tuple, int]
    prompted: int
    trained: int

    @property
    def encoded(self) -> int:
        return sum(self.bank.values())


def passes(run: Run, size: Sizes, asked: Asked) -> Passes:
    """Of one run whose bank is empty."""
    (n, _), counts, training = images_of(run, size), counts_of(run, size), run.card.training
    how_long = lengths_of(run, size, asked)
    trained = round(sum(each.images for each in how_long))
    own = run.dataset, run.shots, run.seed
    bank: dict[tuple, int] = {}
    if asked.frozen:
        augmented = training is not None and training.augmentation != "none"
        bank[run.dataset, "test"] = size.test
        if trained:
            bank[*own, augmented] = n * (max(each.epochs for each in how_long) if augmented else 1)
    if asked.observed:
        bank[*own, False] = n
    if asked.observed > 1:
        bank[*own, "views"] = n * (asked.observed - 1)
    if asked.noisy:
        bank[*own, "noisy"] = n * max(each.epochs for each in how_long)
    if not asked.prompted:
        return Passes(bank, 0, 0)
    return Passes(bank, trained + size.test * (len(counts) + asked.unseen) + n * asked.again, trained)


def counts_of(run: Run, size: Sizes) -> list[int]:
    """Classes of each experience."""
    return class_counts(run.stream.experiences, size.classes, run.dataset, size.chain)


def images_of(run: Run, size: Sizes) -> tuple[int, list[float]]:
    """Training images: in all, and of each experience."""
    n = size.train if run.shots == "full" else min(size.train, run.shots * size.classes)
    return n, [n * c / size.classes for c in counts_of(run, size)]


def lengths_of(run: Run, size: Sizes, asked: Asked) -> list[Length]:
    """Of each experience's training, on its own images and those that a memory shows again."""
    (n, images), counts = images_of(run, size), counts_of(run, size)
    each = n / size.classes
    shown = [mine + asked.replayed(sum(counts[:i]), each) for i, mine in enumerate(images)]
    return lengths(run.card.training, shown, each)


def work(runs: Iterable[Run], sizes: dict[str, Sizes], asked_by: Callable[[Card], Asked]) -> Work:
    """Of all the runs; asked_by: what a card asks for.

    Runs of a dataset share the features of its test images, those of a seed also its training's.
    """
    bank: dict[tuple, int] = {}
    prompted = prompts = 0
    for run in runs:
        size, training, asked = sizes[run.dataset], run.card.training, asked_by(run.card)
        found = passes(run, size, asked)
        prompted += found.prompted + BACKWARD * found.trained
        bank |= {entry: max(n, bank.get(entry, 0)) for entry, n in found.bank.items()}
        if training and asked.texts:
            counts = counts_of(run, size)
            seen = (run.card.label_space or run.scenario.train_label_space) == "seen"
            for i, (c, each) in enumerate(zip(counts, lengths_of(run, size, asked), strict=True)):
                in_play = sum(counts[: i + 1]) if seen else c
                prompts += each.steps * in_play * (training.batch if asked.each else 1)
    return Work(sum(bank.values()), prompted, prompts)
