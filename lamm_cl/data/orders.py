"""Which classes arrive when: how many in each experience, and in which order."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from lamm_cl.config.schema import OrderSeed, Scenario
from lamm_cl.data.dataset import Dataset, listed, spelled
from lamm_cl.errors import UserError, did_you_mean


def class_counts(experiences: str | int | tuple[int, ...], classes: int, where: str, chain: Sequence[int] = ()) -> list[int]:
    """How many classes each experience brings.  halves: ceil(n/2), the rest; T: as even as can be, the larger ones first.

    datasets: those of each dataset of a chain.
    """
    if experiences == "datasets":
        if not chain:
            raise UserError(f"{where}: experiences: datasets: this is a single dataset; expected a chain, as [[A, B, C]]")
        return list(chain)
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


def ranges_of(counts: Sequence[int]) -> list[range]:
    """The classes of experiences that bring so many each, by arrival."""
    return [range(end - count, end) for end, count in zip(accumulate(counts), counts)]


@dataclass(frozen=True)
class Arrival:
    """order: the dataset's class ids;  counts: how many each experience brings;  chain: by arrival, the name of each dataset of
    a chain and how many classes it has."""

    order: list[int]
    counts: list[int]
    chain: tuple[tuple[str, int], ...] = ()


def arrival(scenario: Scenario, dataset: Dataset) -> Arrival:
    """Of a chain the datasets arrive in the scenario's order, each with its classes as it has them.  UserError where a dataset
    has other classes than the order and the experiences speak of."""
    where, C = f"{scenario.name}: {dataset.name}", len(dataset.classes)
    if not dataset.chain:
        counts = class_counts(scenario.experiences, C, where)
        return Arrival(class_order(scenario.order, C, dataset.classes, where), counts)
    sizes = [len(part.classes) for part in dataset.chain]
    starts = np.cumsum([0, *sizes]).tolist()
    mine = class_order(scenario.order, len(sizes), [part.name for part in dataset.chain], where, of="dataset")
    counts = class_counts(scenario.experiences, C, where, [sizes[i] for i in mine])
    order = [c for i in mine for c in range(starts[i], starts[i] + sizes[i])]
    return Arrival(order, counts, tuple((dataset.chain[i].name, sizes[i]) for i in mine))


def class_order(order: str | OrderSeed | tuple[str | int, ...], classes: int, names: Sequence[str] = (), where: str = "",
                of: str = "class") -> list[int]:  # fmt: skip
    """The class ids by arrival.  A seed shuffles as the field does: numpy's RandomState(seed).permutation (iCaRL's 1993).

    A stored order names each class once, by its id or by its name.  names: of the classes, for that.  of: what is ordered.
    """
    if isinstance(order, OrderSeed):
        return np.random.RandomState(order.seed).permutation(classes).tolist()
    if isinstance(order, str):
        return list(range(classes)) if order == "dataset" else list(reversed(range(classes)))
    return _stored(order, classes, names, f"{where}: order" if where else "order", of)


def _stored(order: tuple[str | int, ...], classes: int, names: Sequence[str], where: str, of: str) -> list[int]:
    """The ids that a list of ids or of names gives. UserError for anything but each class once."""
    if len({type(each) for each in order}) > 1:
        raise UserError(f"{where}: some entries are names and some are class ids; expected one of the two")
    ids = list(order) if isinstance(order[0], int) else _ids(order, names, where, of)
    every = f"expected each of the {classes} {of}{'es' if of == 'class' else 's'} once"
    if wrong := [each for each in ids if each >= classes]:
        raise UserError(f"{where}: no {of} {wrong[0]}; expected each of 0 to {classes - 1} once")
    if twice := [order[ids.index(each)] for each, often in Counter(ids).items() if often > 1]:
        raise UserError(f"{where}: {listed(twice)} twice; {every}")
    if absent := sorted(set(range(classes)) - set(ids)):
        raise UserError(f"{where}: without {listed([names[i] for i in absent] if names else absent)}; {every}")
    return ids


def _ids(order: Sequence[str], names: Sequence[str], where: str, of: str) -> list[int]:
    """The ids of names, in whichever case, with spaces or underscores."""
    known: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        known.setdefault(spelled(name).casefold(), []).append(i)
    found = [known.get(spelled(name).casefold(), []) for name in order]
    if unknown := [name for name, ids in zip(order, found) if not ids]:
        raise UserError(f"{where}: no {of} {unknown[0]!r}{did_you_mean(spelled(unknown[0]), names)}")
    if several := [name for name, ids in zip(order, found) if len(ids) > 1]:
        raise UserError(f"{where}: several classes are called {several[0]!r}; expected class ids, 0 to {len(names) - 1}")
    return [ids[0] for ids in found]
