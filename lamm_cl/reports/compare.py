"""Is one method, or one version of a scenario, better than another: paired differences, per dataset and seed.

A pair is two finished runs on the same dataset with the same seed (so the same class order, images and shots). The
difference of a dataset is the mean over its pairs, that of all datasets the mean of theirs. The interval is the 95 %
percentile interval of a bootstrap that draws pairs anew within each dataset (stratified as in Agarwal et al., NeurIPS
2021): what other seeds on the same datasets would give. It needs two seeds on every dataset it covers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.reports import metrics
from lamm_cl.reports.table import Column, Label, Line, Number, Table
from lamm_cl.results.record import Record
from lamm_cl.results.runs import Runs, runs_in

DRAWS = 10_000
COVERED = (2.5, 97.5)  # percentiles
COLUMNS = (
    *(Column("difference"), Column("low"), Column("high")),
    *(Column(name, digits=0) for name in ("wins", "ties", "losses")),
)
Pairs = Mapping[str, np.ndarray]  # dataset -> differences, one per seed


@dataclass(frozen=True)
class Comparison:
    """`changes`: how the compared scenarios, cards and codes differ, one sentence a piece; one table per shots."""

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
    return Comparison(tuple(changes), tuple(_table(runs, baseline) for runs in at_shots))


def measures(runs: Runs) -> dict[str, Callable[[Record], float]]:
    """What is compared: name -> metric of a record; more is better in each."""
    found: dict[str, Callable[[Record], float]] = {}
    for space in runs.spaces:
        of_all = {"last": metrics.last_accuracy, "average incremental": metrics.average_incremental_accuracy}
        for name, metric in of_all.items():
            found[f"{name}, {space}"] = lambda r, f=metric, s=space: f(r.accuracy(s), r.dataset.test_images)
        found[f"degradation, {space}"] = lambda r, s=space: metrics.backward_transfer(r.accuracy(s))
    return found


def paired(ours: Runs, method: str, theirs: Runs, other: str, metric: Callable[[Record], float]) -> Pairs:
    """dataset -> metric of ours minus theirs, for each seed that both have finished, in the order of the seeds."""
    pairs = {}
    for dataset in (d for d in theirs.datasets if d in ours.datasets):
        a, b = ours.values(dataset, method, metric), theirs.values(dataset, other, metric)
        pairs[dataset] = np.array([a[seed] - b[seed] for seed in sorted(a) if seed in b])
    return {dataset: each for dataset, each in pairs.items() if each.size and not np.isnan(each).any()}


def interval(pairs: Pairs) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over datasets of the mean over pairs; NaN if a dataset has a single pair."""
    if not pairs or min(map(len, pairs.values())) < 2:
        return np.nan, np.nan
    rng = np.random.default_rng(0)  # the same records give the same interval
    means = [each[rng.integers(len(each), size=(DRAWS, len(each)))].mean(axis=1) for each in pairs.values()]
    low, high = np.percentile(np.mean(means, axis=0), COVERED)
    return float(low), float(high)


def _table(compared: Sequence[Runs], baseline: str | None) -> Table:
    first, names = compared[0], _names(compared)
    lines = []
    for name, metric in measures(first).items():
        for i, method, other in _opponents(compared, baseline):
            shown = compared[i].name(method) if len(compared) == 1 else f"{compared[i].name(method)} ({names[i]})"
            pairs = paired(compared[i], method, first, other, metric)
            places = {dataset: {dataset: each} for dataset, each in pairs.items()}
            places |= {"average": pairs} if len(pairs) > 1 else {}
            for place, of_place in places.items():
                labels = (Label(name, name), Label(method, shown), Label(place, place))
                lines.append(Line(labels, _numbers(of_place, len(first.seeds)), group=f"{name} {place}"))
    if not lines:
        raise UserError(
            f"{first.scenario}, {first.shots} shots: nothing to compare: no two runs share dataset and seed"
        )
    against = first.name(baseline) if baseline else "the same method"
    against += f" in {names[0]}" if len(compared) > 1 else ""
    title = f"difference to {against} (points) with its 95 % bootstrap interval; wins, ties, losses in runs"
    scope = (("scenario", ", ".join(dict.fromkeys(names))), ("shots", str(first.shots)))
    notes = [f"{name}: {note}" for name, runs in zip(names, compared, strict=True) for note in runs.missing()]
    return Table("comparison", title, scope, ("measure", "method", "dataset"), COLUMNS, tuple(lines), tuple(notes))


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


def _numbers(pairs: Pairs, expected: int) -> tuple[Number, ...]:
    mean = float(np.mean([each.mean() for each in pairs.values()]))
    low, high = interval(pairs)
    every = np.concatenate([*pairs.values()])
    seeds = min(map(len, pairs.values()))
    counts = [(every > 0).sum(), (every == 0).sum(), (every < 0).sum()]
    exact = [Number(float(n), np.nan, 0, 0) for n in (low, high, *counts)]
    return (Number(mean, np.nan, seeds, expected), *exact)


# What must be the same, and what may differ


def _check_alike(path: Path, first: Sequence[Runs], other_path: Path, other: Sequence[Runs]) -> None:
    """Raises UserError with the first field in which what was tested differs."""

    def differ(field: str, one: object, two: object) -> UserError:
        return UserError(f"{path} and {other_path} cannot be compared: {field}: {one} and {two}")

    if (a := [r.shots for r in first]) != (b := [r.shots for r in other]):
        raise differ("shots", a, b)
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
            same_images, a, b = a.same_images(b), a.dataset, b.dataset
            for field, same in (("fingerprint", same_images), ("experiences", a.experiences == b.experiences)):
                if not same:
                    raise differ(f"{dataset}: {field} of the test images", getattr(a, field), getattr(b, field))
            if sum(a.test_images) != sum(b.test_images):
                raise differ(f"{dataset}: test_images", sum(a.test_images), sum(b.test_images))


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
