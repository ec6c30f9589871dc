"""Scenario and data set -> streams of experiences (Avalanche).  Classes are renumbered by arrival.

Avalanche's traps are met here, each with a test: `num_experiences` silently drops classes that do not divide evenly and `seed`
reseeds torch's global generator, so the class counts and the order are always passed instead.
"""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
from dataclasses import dataclass, field

import numpy as np
import torch
from avalanche.benchmarks import CLScenario, class_incremental_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from lamm_cl.config.schema import OrderSeed, Scenario
from lamm_cl.data.dataset import Dataset
from lamm_cl.data.fewshot import few_shot, few_shot_pair, too_few
from lamm_cl.errors import UserError
from lamm_cl.seeds import derive


@dataclass(frozen=True)
class Stream:
    """Which images and classes arrive when.  Class ids are positions in `order`, sample ids positions in the split."""

    order: list[int]  # the data set's class ids by arrival
    names: list[str]  # by arrival
    experiences: list[range]  # the classes of each
    train: list[Tensor]  # sample ids of each experience, shots applied
    test: list[Tensor]
    train_targets: Tensor  # class ids by arrival, of every sample of the split
    test_targets: Tensor
    notes: tuple[str, ...] = ()
    val: list[Tensor] = field(default_factory=list)  # sample ids for choosing among settings, never tested on
    val_targets: Tensor | None = None
    val_part: str = "val"  # the split they are from: the data set's own, or what is left of train


def class_counts(experiences: str | int | tuple[int, ...], classes: int, where: str) -> list[int]:
    """How many classes each experience brings.  halves: ceil(n/2), the rest; T: as even as can be, the larger ones first."""
    if isinstance(experiences, tuple):
        if sum(experiences) != classes:
            raise UserError(
                f"{where}: experiences: {list(experiences)} adds up to {sum(experiences)}, but there are {classes} classes"
            )
        return list(experiences)
    T = 2 if experiences == "halves" else experiences
    if T > classes:
        raise UserError(f"{where}: experiences: {experiences}: {T} experiences, but there are only {classes} classes")
    return [classes // T + (i < classes % T) for i in range(T)]


def class_order(order: str | OrderSeed | tuple[int, ...], classes: int, where: str = "order") -> list[int]:
    """The class ids by arrival.  A seed shuffles as the field does: numpy's RandomState(seed).permutation (iCaRL's 1993)."""
    if isinstance(order, tuple):
        if sorted(order) != list(range(classes)):
            raise UserError(f"{where}: order: a list of {len(order)} label ids; expected each of 0 to {classes - 1} once")
        return list(order)
    if isinstance(order, OrderSeed):
        return np.random.RandomState(order.seed).permutation(classes).tolist()
    return list(range(classes)) if order == "dataset" else list(reversed(range(classes)))


def split(scenario: Scenario, dataset: Dataset, shots: int | str, seed: int) -> Stream:
    where = f"{scenario.name}: {dataset.name}"
    C = len(dataset.classes)
    order = class_order(scenario.order, C, where)
    counts = class_counts(scenario.experiences, C, where)
    ends = np.cumsum(counts).tolist()
    experiences = [range(end - count, end) for end, count in zip(ends, counts)]
    arrival = np.empty(C, dtype=np.int64)
    arrival[order] = np.arange(C)
    if not len(dataset.train):
        others = "learn its classes from another dataset, with train_on in the scenario, as in lamm-table1"
        raise UserError(f"{where}: has test images only; {others}")
    train_targets, test_targets = (torch.from_numpy(arrival[s.labels]) for s in (dataset.train, dataset.test))
    for part, targets in (("training", train_targets), ("test", test_targets)):
        empty = sorted(set(range(C)) - set(targets.tolist()))
        if empty:
            raise UserError(
                f"{where}: no {part} images of class {dataset.classes[order[empty[0]]]!r} ({len(empty)} such classes)"
            )
    k = None if shots == "full" else shots
    chosen = torch.from_numpy(few_shot(dataset.train.labels, k, seed))
    note = too_few(dataset.train.labels, dataset.classes, k)
    val, val_targets, val_part = validation(dataset, chosen, arrival, k, seed)
    return Stream(
        order,
        [dataset.classes[i] for i in order],
        experiences,
        [chosen[members(train_targets[chosen], classes)] for classes in experiences],
        [members(test_targets, classes) for classes in experiences],
        train_targets,
        test_targets,
        (note,) if note else (),
        [val[members(val_targets[val], classes)] for classes in experiences],
        val_targets,
        val_part,
    )


def validation(dataset: Dataset, chosen: Tensor, arrival: np.ndarray, shots: int | None, seed: int
               ) -> tuple[Tensor, Tensor, str]:  # fmt: skip
    """Validation images -> sample ids, class ids by arrival of the split they are from, and its name: val or train.

    Of the data set's own split min(shots, 4) a class, as Dassl chooses them; where there is none, as many of the training
    images that were not chosen (none where all were).
    """
    if dataset.val is not None:
        _, mine = few_shot_pair(dataset.train.labels, dataset.val.labels, shots, seed)
        return torch.from_numpy(mine), torch.from_numpy(arrival[dataset.val.labels]), "val"
    targets = torch.from_numpy(arrival[dataset.train.labels])
    left = np.setdiff1d(np.arange(len(targets)), chosen.numpy())
    if shots is None or not len(left):
        return torch.empty(0, dtype=torch.int64), targets, "train"
    mine = left[few_shot(dataset.train.labels[left], min(shots, 4), derive(seed, "validation"))]
    return torch.from_numpy(np.sort(mine)), targets, "train"


def members(targets: Tensor, classes: range) -> Tensor:
    """Positions whose target is one of the classes, in order."""
    return ((targets >= classes.start) & (targets < classes.stop)).nonzero().squeeze(1)


class Samples(TorchDataset):
    """(sample id, class id) pairs: what Avalanche carries; features and pixels stay with their source."""

    def __init__(self, ids: Tensor, targets: Tensor):
        self.ids, self.targets = ids, targets[ids].tolist()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.ids[i], self.targets[i]


def benchmark(stream: Stream) -> CLScenario:
    """Avalanche's train and test streams.  Every experience carries its sample ids, `samples`, and their class ids, `targets`."""
    sides = {"train": (stream.train, stream.train_targets), "test": (stream.test, stream.test_targets)}
    datasets = {name: as_classification_dataset(Samples(torch.cat(ids), targets)) for name, (ids, targets) in sides.items()}
    counts = [len(classes) for classes in stream.experiences]
    made = class_incremental_benchmark(datasets, class_order=list(range(len(stream.order))), num_classes_per_exp=counts)
    for experiences, (ids, targets) in zip((made.train_stream, made.test_stream), sides.values()):
        for experience, mine in zip(experiences, ids):
            experience.samples, experience.targets = mine, targets[mine]
    return made
