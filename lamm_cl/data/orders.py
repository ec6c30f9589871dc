"""Which classes arrive when: how many in each experience, and in which order."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lamm_cl.config.schema import OrderSeed, Scenario
from lamm_cl.data.dataset import Dataset, listed, spelled
from lamm_cl.errors import UserError, did_you_mean


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


def class_order(order: str | OrderSeed | tuple[str | int, ...], classes: int, names: Sequence[str] = (), where: str = ""
                ) -> list[int]:  # fmt: skip
    """The class ids by arrival.  A seed shuffles as the field does: numpy's RandomState(seed).permutation (iCaRL's 1993).

    A stored order names each class once, by its id or by its name.  names: of the classes, for that.
    """
    if isinstance(order, OrderSeed):
        return np.random.RandomState(order.seed).permutation(classes).tolist()
    if isinstance(order, str):
        return list(range(classes)) if order == "dataset" else list(reversed(range(classes)))
    return _stored(order, classes, names, f"{where}: order" if where else "order")


def _stored(order: tuple[str | int, ...], classes: int, names: Sequence[str], where: str) -> list[int]:
    """The ids that a list of ids or of names gives. UserError for anything but each class once."""
    if len({type(each) for each in order}) > 1:
        raise UserError(f"{where}: some entries are names and some are class ids; expected one of the two")
    ids = list(order) if isinstance(order[0], int) else _ids(order, names, where)
    if wrong := [each for each in ids if each >= classes]:
        raise UserError(f"{where}: no class {wrong[0]}; expected each of 0 to {classes - 1} once")
    if twice := [order[ids.index(each)] for each, often in Counter(ids).items() if often > 1]:
        raise UserError(f"{where}: {listed(twice)} twice; expected each of the {classes} classes once")
    if absent := sorted(set(range(classes)) - set(ids)):
        raise UserError(f"{where}: without {listed([names[i] for i in absent] if names else absent)}; expected each of the "
                        f"{classes} classes once")  # fmt: skip
    return ids


def _ids(order: Sequence[str], names: Sequence[str], where: str) -> list[int]:
    """The ids of names, in whichever case, with spaces or underscores."""
    known: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        known.setdefault(spelled(name).casefold(), []).append(i)
    found = [known.get(spelled(name).casefold(), []) for name in order]
    if unknown := [name for name, ids in zip(order, found) if not ids]:
        raise UserError(f"{where}: no class {unknown[0]!r}{did_you_mean(spelled(unknown[0]), names)}")
    if several := [name for name, ids in zip(order, found) if len(ids) > 1]:
        raise UserError(f"{where}: several classes are called {several[0]!r}; expected class ids, 0 to {len(names) - 1}")
    return [ids[0] for ids in found]


def check(scenario: Scenario, dataset: Dataset) -> None:
    """UserError where a dataset has other classes than the scenario's order and experiences speak of."""
    where = f"{scenario.name}: {dataset.name}"
    class_counts(scenario.experiences, len(dataset.classes), where)
    class_order(scenario.order, len(dataset.classes), dataset.classes, where)
