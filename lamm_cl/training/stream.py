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

from lamm_cl.config.schema import Scenario
from lamm_cl.data.chains import same_classes
from lamm_cl.data.dataset import Dataset, check_learnable
from lamm_cl.data.fewshot import few_shot, few_shot_pair, too_few
from lamm_cl.data.orders import arrival, ranges_of
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
    chain: tuple[tuple[str, int], ...] = ()  # of a chain, by arrival, each data set and how many classes it has
    same: tuple[int, ...] = ()  # where classes of one name count as one: for each a number, by arrival


def split(scenario: Scenario, dataset: Dataset, shots: int | str, seed: int) -> Stream:
    where = f"{scenario.name}: {dataset.name}"
    C = len(dataset.classes)
    arrived = arrival(scenario, dataset)
    order = arrived.order
    experiences = ranges_of(arrived.counts)
    place = np.empty(C, dtype=np.int64)
    place[order] = np.arange(C)
    check_learnable(dataset, where)
    train_targets, test_targets = (torch.from_numpy(place[s.labels]) for s in (dataset.train, dataset.test))
    for part, targets in (("training", train_targets), ("test", test_targets)):
        empty = sorted(set(range(C)) - set(targets.tolist()))
        if empty:
            raise UserError(
                f"{where}: no {part} images of class {dataset.classes[order[empty[0]]]!r} ({len(empty)} such classes)"
            )
    k = None if shots == "full" else shots
    chosen = torch.from_numpy(np.concatenate([few_shot(p.train.labels, k, seed) + at for p, at in starts(dataset, "train")]))
    notes = (too_few(part.train.labels, part.classes, k) for part in dataset.parts)
    val, val_targets, val_part = validation(dataset, chosen, place, k, seed)
    return Stream(
        order,
        [dataset.classes[i] for i in order],
        experiences,
        [chosen[members(train_targets[chosen], classes)] for classes in experiences],
        [members(test_targets, classes) for classes in experiences],
        train_targets,
        test_targets,
        tuple(filter(None, notes)),
        [val[members(val_targets[val], classes)] for classes in experiences],
        val_targets,
        val_part,
        arrived.chain,
        same_classes(order, dataset) if scenario.same_names == "together" else (),
    )


def starts(dataset: Dataset, split: str) -> list[tuple[Dataset, int]]:
    """The data sets of a chain, or the one, and where the images of each begin in a split: what is chosen of one does not
    depend on the others."""
    sizes = [len(getattr(part, split)) for part in dataset.parts]
    return list(zip(dataset.parts, np.cumsum([0, *sizes]).tolist()))


def validation(dataset: Dataset, chosen: Tensor, arrived: np.ndarray, shots: int | None, seed: int
               ) -> tuple[Tensor, Tensor, str]:  # fmt: skip
    """Validation images -> sample ids, class ids by arrival of the split they are from, and its name: val or train.

    Of the data set's own split min(shots, 4) a class, as Dassl chooses them; where there is none, as many of the training
    images that were not chosen (none where all were).
    """
    if dataset.val is not None:
        each = [few_shot_pair(p.train.labels, p.val.labels, shots, seed)[1] + at for p, at in starts(dataset, "val")]
        return torch.from_numpy(np.concatenate(each)), torch.from_numpy(arrived[dataset.val.labels]), "val"
    targets = torch.from_numpy(arrived[dataset.train.labels])
    every = np.setdiff1d(np.arange(len(targets)), chosen.numpy())
    if shots is None or not len(every):
        return torch.empty(0, dtype=torch.int64), targets, "train"
    mine = []
    for part, at in starts(dataset, "train"):
        left = every[(every >= at) & (every < at + len(part.train))] - at
        mine.append(np.sort(left[few_shot(part.train.labels[left], min(shots, 4), derive(seed, "validation"))]) + at)
    return torch.from_numpy(np.concatenate(mine)), targets, "train"


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
