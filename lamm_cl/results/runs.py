"""What finished runs leave in results/.

    results/<scenario>/runs/<dataset>/<method>/shots<k>-seed<s>/record.json      one Record, the only truth; with several class
                                                                                 orders shots<k>-seed<s>-order<o>
    results/<scenario>/records.pack                                              all records in one file (results/pack.py)
    results/<scenario>/records.csv                                               the counts of all records, one a row
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath

import numpy as np

from lamm_cl.errors import UserError
from lamm_cl.results.record import LABEL_SPACES, OF_BYTES, Record, bound_of, by_size, order_name
from lamm_cl.results.stored import loaded, nothing_in

CHAIN = " + "  # between the datasets of a chain, where a record names them as the scenario did
Key = int | tuple[int, str]  # of a run among those of its method and dataset: a seed, or (seed, order) with several orders


def key_of(record: Record) -> Key:
    return (record.run.seed, record.run.order) if record.run.order else record.run.seed


def told_key(key: Key) -> str:
    """For people: "1", or "1 in order 1993"."""
    return f"{key[0]} in order {key[1]}" if isinstance(key, tuple) else str(key)


class Unfit(UserError):
    """The runs are not what a kind of table or figure is about."""


def records_in(results: Path) -> list[Record]:
    """The finished runs of one results folder or pack, sorted by dataset, method, shots and seed; empty if none is finished.

    Raises UserError if the folder is absent, or holds broken records, one run twice, or more than one scenario.
    """
    return [record for _, record in loaded(results)]


@dataclass(frozen=True)
class Runs:
    """The finished runs of one results folder at one number of shots: what one table, or one line style, is about.

    Datasets and methods are in the scenario's order, those without any finished run left out; `seeds` and `orders` are the
    ones that the scenario names, finished or not. `orders` is empty where the scenario has one.
    """

    scenario: str
    shots: int | str
    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    records: dict[tuple[str, str], dict[Key, Record]]  # (dataset, method) -> seed, or (seed, order) -> record
    bounds: "Runs | None" = None  # those of the same methods that are bounds, if any is finished
    orders: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[Key, ...]:
        """What each method is to be run with on each dataset."""
        return tuple((seed, order) for order in self.orders for seed in self.seeds) if self.orders else self.seeds

    @property
    def experiences(self) -> int:
        """T; the largest, should the datasets differ."""
        return max(len(record.dataset.experiences) for by_seed in self.records.values() for record in by_seed.values())

    @cached_property
    def spaces(self) -> tuple[str, ...]:
        """The label spaces that every run was scored in, own first."""
        found = [record.spaces for by_seed in self.records.values() for record in by_seed.values()]
        return tuple(space for space in LABEL_SPACES if all(space in each for each in found))

    def space(self, preferred: str) -> str:
        """The label space to tell numbers in: the preferred one if every run was scored in it, else the other.

        Raises UserError if the runs have none in common.
        """
        if not self.spaces:
            raise UserError(f"{self.scenario}: some runs were scored in one label space, some in the other only")
        return preferred if preferred in self.spaces else self.spaces[0]

    def of(self, method: str) -> list[Record]:
        """The finished runs of a method."""
        return [r for dataset in self.datasets for r in self.records.get((dataset, method), {}).values()]

    def values(self, dataset: str, method: str, metric: Callable[[Record], np.ndarray | float]) -> dict:
        """key -> metric of the run, for the finished ones."""
        return {key: metric(record) for key, record in self.records.get((dataset, method), {}).items()}

    def averages(self, method: str, metric: Callable[[Record], np.ndarray | float]) -> dict:
        """key -> average over all datasets, for the seeds (and orders) that are finished on every dataset.

        None of an array where datasets differ in their number of experiences.
        """
        each = [self.values(dataset, method, metric) for dataset in self.datasets]
        if len({np.shape(value) for values in each for value in values.values()}) > 1:
            return {}
        return {key: np.mean([values[key] for values in each], axis=0) for key in self.keys if all(key in v for v in each)}

    def name(self, method: str) -> str:
        """The card's name for people ("CoOp"); the method's key where two cards share a name."""
        names = {m: str(self.of(m)[0].card.get("name", m)) for m in self.methods}
        card, bound = bound_of(method)
        name = card if list(names.values()).count(names[method]) > 1 else names[method]
        return f"{name} ({bound})" if bound else name

    def missing(self) -> list[str]:
        """What the scenario promises and no record holds, one sentence a piece."""
        listed = next(iter(next(iter(self.records.values())).values())).scenario
        records = [r for by_seed in self.records.values() for r in by_seed.values()]
        absent = [x for x in listed.get("datasets", ()) if _kept(x, records) not in self.datasets]
        absent += [x for x in listed.get("methods", ()) if x not in self.methods]
        gaps: dict = {}  # seeds -> dataset -> methods
        for d in self.datasets:
            for m in self.methods:
                seeds = ", ".join(told_key(key) for key in self.keys if key not in self.records.get((d, m), {}))
                gaps.setdefault(seeds, {}).setdefault(d, []).append(m)
        gaps.pop("", None)
        notes = [f"no finished run of {x}" for x in absent]
        for seeds, where in gaps.items():
            if sum(map(len, where.values())) == len(self.datasets) * len(self.methods) > 1:
                where = {"all datasets": ["all methods"]}
            for d, methods in where.items():
                named = "all methods" if len(methods) == len(self.methods) > 1 else ", ".join(methods)
                notes.append(f"{d}, {named}: seed {seeds} not finished")
        return notes


def runs_in(results: Path) -> list[Runs]:
    """The finished runs of one results folder, one Runs per number of shots, fewest first.

    Raises UserError if nothing is finished, or if runs that would be compared differ in what they were tested on.
    """
    return runs_of(records_in(results), results)


def runs_of(records: list[Record], results: Path) -> list[Runs]:
    """As `runs_in`, of the records that were read from `results`."""
    if not records:
        raise nothing_in(results)
    check_comparable(results, records)
    if all(record.bound for record in records):
        raise UserError(f"{results}: no finished run but bounds, which are shown beside others")
    by_shots: dict = {}
    for record in records:
        by_shots.setdefault(record.run.shots, []).append(record)
    return [
        _runs(by_shots[shots])
        for shots in sorted(by_shots, key=by_size)
        if not all(record.bound for record in by_shots[shots])
    ]


def _runs(records: list[Record]) -> Runs:
    stream, beside = ([record for record in records if bool(record.bound) is bound] for bound in (False, True))
    runs = _of_a_kind(stream)
    if not beside:
        return runs
    bounds = _of_a_kind(beside)
    listed = [bound for method in runs.methods for bound in bounds.methods if bound_of(bound)[0] == method]
    methods = _in_order({*bounds.methods}, listed)
    return replace(runs, bounds=replace(bounds, datasets=runs.datasets, methods=methods))


def _of_a_kind(records: list[Record]) -> Runs:
    cells: dict = {}
    for record in records:
        cells.setdefault((record.run.dataset, record.run.method), {})[key_of(record)] = record
    scenario = records[0].scenario
    datasets = [_kept(name, records) for name in scenario.get("datasets", ())]
    named = [order_name(order) for order in scenario.get("orders", ())]
    return Runs(
        records[0].run.scenario,
        records[0].run.shots,
        _in_order({dataset for dataset, _ in cells}, datasets),
        _in_order({method for _, method in cells}, scenario.get("methods", ())),
        tuple(sorted({s for r in records for s in (r.run.seed, *r.scenario.get("seeds", ()))})),
        cells,
        orders=_in_order({r.run.order for r in records} | {*named}, named) if records[0].run.order else (),
    )


def _kept(name: str | Sequence[str], records: Sequence[Record]) -> str:
    """What records call the dataset that a scenario lists by a path, in another spelling, or as a chain; the name, if none has
    it."""
    if not isinstance(name, str):
        joined = "+".join(_kept(each, records) for each in name)
        if joined in {record.run.dataset for record in records}:
            return joined
        name = CHAIN.join(name)
    called = {record.dataset.named: record.run.dataset for record in records}
    path = PurePath(name)
    last = path.stem if path.suffix in (".json", ".csv", ".npz") else path.name
    spelled = {_plain(record.run.dataset): record.run.dataset for record in records}
    return called.get(name) or spelled.get(_plain(last), name)


def _plain(name: str) -> str:
    """Case and hyphens do not tell datasets apart."""
    return re.sub("[-_ ]", "", name.casefold())


def _in_order(found: set[str], listed: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(found, key=lambda name: (listed.index(name) if name in listed else len(listed), name)))


def check_comparable(results: Path, records: list[Record]) -> None:
    """Averaging over runs of different things would be silent nonsense: name the first field that differs."""
    rules = [  # what must agree, among runs with the same ...
        # a model of one's own shares no frozen weights with other methods, and begins from other ones with each seed
        ("backbone hash", lambda r: r.backbone.hash or r.backbone.architecture, lambda r: r.backbone.hash == "" and r.run.method),
        ("class order", lambda r: r.dataset.order, lambda r: (r.run.dataset, r.run.order)),
        ("number of class orders", lambda r: bool(r.run.order), lambda r: ()),
        ("experiences", lambda r: r.dataset.experiences, lambda r: (r.run.dataset, r.run.order, r.bound)),
        ("card hash", lambda r: r.card.get("hash"), lambda r: (r.run.dataset, r.run.method)),
    ]
    for name, value, group in rules:
        first: dict = {}
        for record in records:
            other = first.setdefault(group(record), record)
            if value(record) != value(other):
                raise _unlike(results, record, other, name)
    seen: dict[tuple[str, bool], Record] = {}  # the first of each dataset with a fingerprint of either kind
    for record in records:
        data = record.run.dataset
        seen.setdefault((data, record.dataset.fingerprint.startswith(OF_BYTES)), record)
        for other in (seen.get((data, kind), record) for kind in (True, False)):
            if not record.same_images(other):
                raise _unlike(results, record, other, "dataset fingerprint")


def _unlike(results: Path, one: Record, other: Record, field: str) -> UserError:
    return UserError(f"{results}: '{one}' and '{other}' differ in {field}; they cannot share a table")
