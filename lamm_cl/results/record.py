"""What a finished run says: counts, with everything needed to know what was counted.

Experiences are numbered from 1; trained = 0 is the untrained method. An image is scored against the classes of its own
experience (label space `own`), against all classes learned so far (`joint`; undefined for those not yet learned), or against
all classes of the stream (`all`).
"""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np

from lamm_cl.errors import UserError

FORMAT = 1
LABEL_SPACES = ("own", "joint", "all")
BOUNDS = ("joint",)
WORK = ("images encoded", "prompts forward", "prompts backward", "multiply-adds")
LARGEST = 2**53  # beyond it a float no longer holds every whole number
OF_BYTES = "bytes:"  # fingerprints of image files by their content begin so; those of earlier versions had names and sizes
# What may differ when a run is repeated: where its data and weights lay, words about them, and how its code was written.
NO_OUTCOME = {"measured": (), "code": (), "backbone": ("file",), "dataset": ("named", "images", "names_and_sizes", "notes")}


def bound_of(method: str) -> tuple[str, str]:
    """A run's method -> its card's key, and which bound it is: "gda@joint" learned all classes at once, "gda" in the stream."""
    card, _, bound = method.rpartition("@")
    return (card, bound) if card and bound in BOUNDS else (method, "")


@dataclass(frozen=True)
class RunFacts:
    """Which run: one method on one dataset with so many training images per class ("full": all) and one seed.

    `method` is the key of a card, or of a bound (`bound_of`). `order`: the class order's name where the scenario has several.
    """

    scenario: str
    version: int
    dataset: str
    method: str
    shots: int | str
    seed: int
    order: str = ""


@dataclass(frozen=True)
class BackboneFacts:
    architecture: str
    weights: str
    hash: str
    precision: str  # in which the frozen towers compute
    activation: str = ""  # QuickGELU or GELU
    file: str = ""  # sha256 of the weights' file, where it is known by its path
    linears: str = "plain"  # or "packed": how the frozen linear layers were computed


@dataclass(frozen=True)
class FeatureFacts:
    """What a dataset of features said of itself: the sha256 of its file, its own word on their origin, and what they were."""

    file: str
    origin: str
    learned_from: str  # the split
    dtype: str
    normalised: bool
    text: str | None  # type and length of the texts' features; null: there were none


@dataclass(frozen=True)
class ChainFacts:
    """Of a chain, by arrival: its datasets, and how many classes each has.

    same: a number for each class, the same for those that count as one; empty where every class counts for itself.
    """

    names: tuple[str, ...]
    classes: tuple[int, ...]
    same: tuple[int, ...] = ()


@dataclass(frozen=True)
class DatasetFacts:
    """What was seen when. Classes are in their order of arrival, T experiences."""

    fingerprint: str
    classes: tuple[str, ...]
    order: tuple[int, ...]  # the dataset's own class ids
    experiences: tuple[int, ...]  # (T,) number of classes
    train_images: tuple[int, ...]  # (T,)
    test_images: tuple[int, ...]  # (T,)
    test_per_class: tuple[int, ...]
    chosen: tuple[tuple[int, ...], ...]  # per experience, the ids of the training images
    notes: tuple[str, ...]
    features: FeatureFacts | None = None  # where the images came as features
    named: str = ""  # how the scenario or the command named it: a name, or the path of one's own
    images: tuple[int, ...] = ()  # in train and in test, all that lay there
    names_and_sizes: str = ""  # the fingerprint that earlier versions would have written
    chain: ChainFacts | None = None
    split: str = ""  # the name of the list that decided train and test; "": the dataset's own

    @property
    def told(self) -> tuple[str, ...]:
        """Class names for people: of one that several classes have, each with its dataset."""
        if self.chain is None:
            return self.classes
        often = Counter(name.casefold() for name in self.classes)
        of = [name for name, classes in zip(self.chain.names, self.chain.classes, strict=True) for _ in range(classes)]
        return tuple(f"{c} ({d})" if often[c.casefold()] > 1 else c for c, d in zip(self.classes, of, strict=True))


@dataclass(frozen=True)
class Count:
    """After `trained` experiences, `correct` of the `total` test images of experience `tested`; None is undefined."""

    trained: int
    tested: int
    label_space: str
    correct: int | None
    total: int
    correct_per_class: tuple[int, ...] | None


@dataclass(frozen=True)
class ModelFacts:
    trainable: tuple[int, ...]  # (T,) parameters that learn in each experience
    label_tokens: int | None
    kept_bytes: int | None = None  # carried from one experience to the next, at the end
    scores_unseen: bool = True  # False: no score before a class is learned, so `own` is undefined there too


@dataclass(frozen=True)
class Measured:
    """What another machine or another day may change, and nothing else.

    `work`: what the run had to compute, whatever lay in a cache and however busy the machine was: some of WORK; another
    version of the code may need less. `load`: how busy the machine was meanwhile, on average: running processes a core,
    this run's own among them. Both None: not counted.
    """

    seconds: dict
    images_per_second: float | None
    peak_memory_bytes: int | None
    device: str
    host: str
    versions: dict
    commit: str | None
    finished: str
    work: dict | None = None
    load: float | None = None


@dataclass(frozen=True)
class Record:
    """One finished run. `scenario` and `card` are the resolved YAML, with its hash."""

    run: RunFacts
    scenario: dict
    card: dict
    backbone: BackboneFacts
    dataset: DatasetFacts
    counts: tuple[Count, ...]
    model: ModelFacts
    measured: Measured
    files: dict
    code: dict = field(default_factory=dict)  # file -> hash, of the method and of what decides numbers

    def facts(self) -> dict:
        """Everything that must be the same when the run is repeated: all but `NO_OUTCOME`."""
        facts = {name: part for name, part in asdict(self).items() if NO_OUTCOME.get(name) != ()}
        for part in facts.keys() & NO_OUTCOME:
            facts[part] = {name: value for name, value in facts[part].items() if name not in NO_OUTCOME[part]}
        return facts

    def accuracy(self, label_space: str) -> np.ndarray:
        """R, (T+1, T) in %: row i after i experiences, column j-1 the test images of experience j; NaN is undefined."""
        if label_space not in self._accuracies:
            raise UserError(f"{self}: was not scored in the label space '{label_space}'")
        return self._accuracies[label_space]

    @property
    def bound(self) -> str:
        """Which bound it is, shown beside runs in the stream; "" for one of those."""
        return bound_of(self.run.method)[1]

    @property
    def spaces(self) -> tuple[str, ...]:
        """The label spaces it was scored in."""
        return tuple(self._accuracies)

    def class_drops(self, label_space: str) -> np.ndarray:
        """(C,) in points, classes by arrival: accuracy right after a class was learned minus after the last experience.

        NaN for a class without test images, or if the counts of each class were not kept.
        """
        sizes, T = self.dataset.experiences, len(self.dataset.experiences)
        kept = {
            (count.trained, count.tested): np.array(count.correct_per_class or [np.nan] * sizes[count.tested - 1])
            for count in self.counts
            if count.label_space == label_space and count.trained in (count.tested, T)
        }
        lost = np.concatenate([kept[j, j] - kept[T, j] for j in range(1, T + 1)])
        images = np.array(self.dataset.test_per_class, dtype=float)
        return 100 * lost / np.where(images > 0, images, np.nan)

    @cached_property
    def _accuracies(self) -> dict[str, np.ndarray]:
        T = len(self.dataset.experiences)
        matrices = {count.label_space: np.full((T + 1, T), np.nan) for count in self.counts}
        for count in self.counts:
            if count.correct is not None:
                matrices[count.label_space][count.trained, count.tested - 1] = 100 * count.correct / count.total
        for matrix in matrices.values():
            matrix.flags.writeable = False
        return matrices

    @property
    def place(self) -> str:
        """Its folder below runs/."""
        run = self.run
        return run_place(run.dataset, run.method, run.shots, run.seed, run.order)

    def same_images(self, other: "Record") -> bool:
        """Whether the images are those of another record, as far as the older of the two could tell."""
        one, two = self.dataset, other.dataset
        if one.fingerprint.startswith(OF_BYTES) == two.fingerprint.startswith(OF_BYTES):
            return one.fingerprint == two.fingerprint
        return (one.names_and_sizes or one.fingerprint) == (two.names_and_sizes or two.fingerprint)

    def __str__(self) -> str:
        run = self.run
        return f"{run.scenario}: {self.place}"


def run_place(dataset: str, method: str, shots: int | str, seed: int, order: str = "") -> str:
    """DATASET/METHOD/shotsK-seedS[-orderO], a run's folder below runs/."""
    return f"{dataset}/{method}/shots{shots}-seed{seed}" + (f"-order{order}" if order else "")


def order_name(order: str | dict | list) -> str:
    """What a class order of a scenario is called among several, by what it is, wherever in their list it stands: dataset,
    reversed, the number of a seed, or of a stored one the first digits of its sha256."""
    if isinstance(order, dict):
        return str(order.get("seed"))
    return order if isinstance(order, str) else hashlib.sha256(json.dumps(order).encode()).hexdigest()[:8]


def by_size(shots: int | str) -> tuple[bool, int]:
    """Sort key: 1, 2, 16, full."""
    return (True, 0) if isinstance(shots, str) else (False, shots)
