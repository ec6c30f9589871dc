"""Is one method, or one version of a scenario, better than another: paired differences, per dataset and seed.

A pair is two finished runs on the same dataset with the same seed (so the same class order, images and shots). The
difference of a dataset is the mean over its pairs; that of all datasets the mean over seeds of the average over them,
of the seeds that are finished on each. Intervals and p are Student's, see `statistics`. A table asks one question: its
p are corrected for all its comparisons, and its notes name who is better or worse where one is shown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.reports.measures import compared_by
from lamm_cl.reports.statistics import ENOUGH, LEVEL, Interval, holm, interval
from lamm_cl.reports.table import Column, Label, Line, Number, Table
from lamm_cl.results.record import Record
from lamm_cl.results.runs import Key, Runs, runs_in

COLUMNS = (
    *(Column("difference"), Column("low"), Column("high"), Column("p (Holm)", digits=4)),
    *(Column(name, digits=0) for name in ("pairs", "wins", "ties", "losses")),
)
Pairs = Mapping[str, Mapping[Key, float]]  # dataset -> seed -> difference


@dataclass(frozen=True)
class Comparison:
    """`changes`: how the compared scenarios, cards and codes differ, one sentence a piece; a table for each number of
    shots and measure, first of the averages over the datasets, then of single ones."""

    changes: tuple[str, ...]
    tables: tuple[Table, ...]


def compare(results: Sequence[Path], baseline: str | None = None) -> Comparison:
    """One folder: its other methods minus the baseline (default: the scenario's first). Several: each method minus the
    same in the first folder, or with a baseline minus that method of the first folder.

    Raises UserError, naming the field, for folders that were not tested alike, or an unknown baseline.
    """
    folders = [runs_in(folder) for folder in results]
    for folder, path in zip(folders[1:], results[1:], strict=True):
        _check_alike(results[0], folders[0], path, folder)
    first = folders[0][0]
    if baseline is None and len(folders) == 1:
        baseline = first.methods[0]
    if baseline is not None and baseline not in first.methods:
        known = ", ".join(first.methods)
        raise UserError(f"--baseline: no runs of '{baseline}'{did_you_mean(baseline, first.methods)}; one of {known}")
    changes = [change for folder in folders[1:] for change in _changes(first, folder[0])]
    at_shots = zip(*folders, strict=True)
    return Comparison(tuple(changes), tuple(table for runs in at_shots for table in _tables(runs, baseline)))


def paired(ours: Runs, method: str, theirs: Runs, other: str, metric: Callable[[Record], float]) -> Pairs:
    """dataset -> metric of ours minus theirs, for each seed that both have finished, in the order of the seeds."""
    pairs = {}
    for dataset in (d for d in theirs.datasets if d in ours.datasets):
        a, b = ours.values(dataset, method, metric), theirs.values(dataset, other, metric)
        pairs[dataset] = {key: a[key] - b[key] for key in sorted(a) if key in b}
    return {d: each for d, each in pairs.items() if each and not np.isnan([*each.values()]).any()}


def averaged(pairs: Pairs) -> dict[Key, float]:
    """seed -> average over the datasets, for the seeds that all of them have."""
    first, *others = pairs.values()
    return {key: float(np.mean([each[key] for each in pairs.values()])) for key in first if all(key in o for o in others)}


def _tables(compared: Sequence[Runs], baseline: str | None) -> list[Table]:
    """A question each: a measure on average over the datasets, then on each of them."""
    first, names = compared[0], _names(compared)
    against = first.name(baseline) if baseline else "the same method"
    against += f" in {names[0]}" if len(compared) > 1 else ""
    averages, singles = [], []
    for name, metric in compared_by(first).items():
        on_average, single = [], []
        for i, method, other in _opponents(compared, baseline):
            shown = compared[i].name(method) if len(compared) == 1 else f"{compared[i].name(method)} ({names[i]})"
            pairs = paired(compared[i], method, first, other, metric)
            labels = (Label(name, name), Label(method, shown))
            single += [(labels, Label(d, d), {d: each}) for d, each in pairs.items()]
            on_average += [(labels, Label("average", "average"), pairs)] if len(pairs) > 1 else []
        averages += [_table(name, "on average over the datasets", against, on_average, first)] if on_average else []
        singles += [_table(name, "per dataset", against, single, first)] if single else []
    if not (found := averages + singles):
        raise UserError(
            f"{first.scenario}, {first.shots} shots: nothing to compare: no two runs share dataset and seed"
        )
    scope = (("scenario", ", ".join(dict.fromkeys(names))), ("shots", str(first.shots)))
    missing = [f"{name}: {note}" for name, runs in zip(names, compared, strict=True) for note in runs.missing()]
    found[0] = replace(found[0], notes=(*found[0].notes, *missing))  # once for all
    return [replace(table, scope=scope) for table in found]


Compared = tuple[tuple[Label, Label], Label, Pairs]  # measure and method; dataset, or average; what is averaged


def _table(measure: str, where: str, against: str, rows: Sequence[Compared], first: Runs) -> Table:
    """One question's: all its comparisons are corrected together, and told in its notes."""
    found = [_interval(pairs) for _, _, pairs in rows]
    corrected = holm([each.p for each in found])
    lines = [
        Line((*labels, place), _numbers(each, p, pairs, len(first.keys)), group=f"{labels[0].key} {place.key}")
        for (labels, place, pairs), each, p in zip(rows, found, corrected, strict=True)
    ]
    told: dict[str, list[str]] = {f"better than {against}": [], f"worse than {against}": [], "no difference shown": []}
    better, worse, alike = told.values()
    for (labels, place, _), each, p in zip(rows, found, corrected, strict=True):
        name = labels[1].shown if where != "per dataset" else f"{labels[1].shown} on {place.shown}"
        if p < LEVEL:  # and so the interval excludes zero
            change = f"{each.mean:+.2f}".replace("-", "−")
            (better if each.mean > 0 else worse).append(f"{name} ({change})")
        else:
            alike.append(name)
    notes = [f"{what}: {', '.join(who)}" for what, who in told.items() if who]
    title = f"{measure}, {where}: difference to {against} (points) with its 95 % paired t interval; "
    title += f"p after Holm's correction over the {len(rows)} comparisons of this table; wins, ties, losses in runs"
    if len(rows) == 1:
        title = title.replace("after Holm's correction over the 1 comparisons of this table", "of this one comparison")
    heads = ("measure", "method", "dataset")
    return Table("comparison", title, (), heads, COLUMNS, tuple(lines), (*notes, *_rests_on(found)))


def _interval(pairs: Pairs) -> Interval:
    """Of the average over the datasets; without an interval where no seed is finished on all of them."""
    if complete := averaged(pairs):
        return interval(complete)
    mean = float(np.mean([np.mean([*each.values()]) for each in pairs.values()]))
    return replace(interval({}), mean=mean)


def _rests_on(found: Sequence[Interval]) -> list[str]:
    """What the intervals of a table rest on, where that is little."""
    notes = []
    if (fewest := min(each.pairs for each in found)) < ENOUGH:
        counted = f"{fewest} pair{'s' * (fewest != 1)}, one a{'n' * (found[0].over == 'order')} {found[0].over}"
        notes.append(f"rests on {counted}: with fewer than {ENOUGH} an interval holds only if differences are normal")
    if any(np.isnan(each.low) for each in found):
        notes.append(f"no interval: of a single pair, and of fewer than {ENOUGH} that all differ by the same")
    return notes


def _opponents(compared: Sequence[Runs], baseline: str | None) -> list[tuple[int, str, str]]:
    """(folder, its method, the first folder's method that it is measured against)."""
    each = [(i, method) for i, runs in enumerate(compared) for method in runs.methods]
    if baseline is None:
        return [(i, method, method) for i, method in each if i and method in compared[0].methods]
    return [(i, method, baseline) for i, method in each if (i, method) != (0, baseline)]


def _names(compared: Sequence[Runs]) -> list[str]:
    """What to call each folder's runs."""
    scenarios = [runs.scenario for runs in compared]
    if len(set(scenarios)) == len(scenarios):
        return scenarios
    return [f"{name}, folder {i}" for i, name in enumerate(scenarios, start=1)]


def _numbers(found: Interval, p: float, pairs: Pairs, expected: int) -> tuple[Number, ...]:
    every = np.array([difference for each in pairs.values() for difference in each.values()])
    counts = [found.pairs, (every > 0).sum(), (every == 0).sum(), (every < 0).sum()]
    exact = [Number(float(n), np.nan, 0, 0) for n in (found.low, found.high, p, *counts)]
    return (Number(found.mean, np.nan, min(map(len, pairs.values())), expected), *exact)


# What must be the same, and what may differ


def _check_alike(path: Path, first: Sequence[Runs], other_path: Path, other: Sequence[Runs]) -> None:
    """Raises UserError with the first field in which what was tested differs."""

    def differ(field: str, one: object, two: object) -> UserError:
        return UserError(f"{path} and {other_path} cannot be compared: {field}: {one} and {two}")

    if (mine := [r.shots for r in first]) != (theirs := [r.shots for r in other]):
        raise differ("shots", mine, theirs)
    for one, two in zip(first, other, strict=True):
        if one.spaces != two.spaces:
            raise differ("label_spaces", ", ".join(one.spaces), ", ".join(two.spaces))
        if not (shared := [d for d in one.datasets if d in two.datasets]):
            raise differ("datasets", ", ".join(one.datasets), ", ".join(two.datasets))
        a, b = _any(one, one.datasets), _any(two, two.datasets)
        if a.backbone.hash != b.backbone.hash:
            raise differ("backbone", *(f"{r.backbone.architecture}:{r.backbone.weights}" for r in (a, b)))
        for dataset in shared:
            a, b = (_any(runs, [dataset]) for runs in (one, two))
            seen, now = a.dataset, b.dataset
            for field, same in (("fingerprint", a.same_images(b)), ("experiences", seen.experiences == now.experiences)):
                if not same:
                    raise differ(f"{dataset}: {field} of the test images", getattr(seen, field), getattr(now, field))
            if sum(seen.test_images) != sum(now.test_images):
                raise differ(f"{dataset}: test_images", sum(seen.test_images), sum(now.test_images))


def _any(runs: Runs, datasets: Sequence[str]) -> Record:
    return next(r for (dataset, _), seeds in runs.records.items() if dataset in datasets for r in seeds.values())


def _changes(old: Runs, new: Runs) -> list[str]:
    """What changed in the scenario, the cards of the methods both have, and the code."""
    a, b = _any(old, old.datasets), _any(new, new.datasets)
    found = [f"scenario: {each}" for each in _differences(a.scenario, b.scenario)]
    for method in (m for m in old.methods if m in new.methods):
        found += [f"card {method}: {each}" for each in _differences(old.of(method)[0].card, new.of(method)[0].card)]
    code = [{"commit": r.measured.commit, "versions": r.measured.versions} for r in (a, b)]
    return found + [f"code: {each}" for each in _differences(*code)]


def _differences(old: Mapping, new: Mapping) -> list[str]:
    """ "order: dataset, now reversed", for every leaf that differs; hashes follow from the rest."""
    a, b = _leaves(old), _leaves(new)
    keys = [key for key in dict.fromkeys([*a, *b]) if key != "hash" and a.get(key) != b.get(key)]
    return [f"{key}: {a.get(key, 'absent')}, now {b.get(key, 'absent')}" for key in keys]


def _leaves(facts: Mapping, path: str = "") -> dict[str, object]:
    leaves: dict[str, object] = {}
    for key, value in facts.items():
        leaves |= _leaves(value, f"{path}{key}.") if isinstance(value, Mapping) and value else {f"{path}{key}": value}
    return leaves
