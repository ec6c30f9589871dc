"""Records -> tables, in the layout of the papers.

A builder turns the runs of a results folder into a Table (table.py); renderers turn Tables into text and compute nothing.
Standard deviations are the sample's (ddof = 1) over seeds, and apart from that over class orders where there are several
(`statistics.spread`). Averages over datasets are taken seed by seed, over the seeds
that are finished on every dataset shown.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.reports import metrics
from lamm_cl.reports.chance import chance_average, chance_on
from lamm_cl.reports.measures import (
    ACCURACIES,
    CHAIN,
    COST,
    INCREMENTAL,
    LATER,
    busy,
    compared_by,
    in_chain,
    in_space,
    last_in,
    lost_in,
    mean_last_on,
    of_dataset,
)
from lamm_cl.reports.published import cite, cite_beside
from lamm_cl.reports.ranking import ranking
from lamm_cl.reports.standing import beside
from lamm_cl.reports.statistics import spread
from lamm_cl.reports.table import BOUND, CHANCE, Column, Label, Line, Number, Table, ranked
from lamm_cl.results.record import Record
from lamm_cl.results.runs import Key, Runs, Unfit, runs_in

MOST_SETS = 5  # with more experiences than this, people are shown a summary


def tables(results: Sequence[Path], kind: str = "degradation") -> list[Table]:
    """The tables of one kind: for each results folder, for each number of shots (few-shot: one for all shots).

    Raises UserError for an unknown kind, a folder without finished runs, or runs that the kind does not fit.
    """
    if kind not in KINDS:
        raise UserError(f"--kind: no table '{kind}'{did_you_mean(kind, KINDS)}; one of {', '.join(KINDS)}")
    return [table for folder in results for table in of_kind(kind, runs_in(folder))]


def of_kind(kind: str, folder: Sequence[Runs]) -> list[Table]:
    """The tables of one kind from the runs of one results folder (`records.runs_in`)."""
    if kind == "few-shot":
        return [ranked(few_shot(folder))]
    return [ranked(_BUILDERS[kind](runs)) for runs in folder]


def fitting(folder: Sequence[Runs]) -> dict[str, list[Table]]:
    """kind -> tables, of every kind that fits the runs of one results folder."""
    idle = {"few-shot"} if len(folder) == 1 else set()
    idle |= set() if _is_ablation(folder[0]) else {"ablation"}
    idle |= {"degradation", "degradation-per-dataset"} if all(runs.experiences == 1 for runs in folder) else set()
    shown = {}
    for kind in (kind for kind in KINDS if kind not in idle):
        try:
            shown[kind] = of_kind(kind, folder)
        except Unfit:
            continue
    return shown


def degradation(runs: Runs) -> Table:
    """Gao et al. (LAMM), AAAI 2024, Table 2: accuracy on each set after the last experience, what earlier ones lost.

    With more than MOST_SETS sets people are shown the first, the mean of those between, and the last.
    """
    T = runs.experiences
    whole = _of_sets(runs, {str(j): [j] for j in range(1, T + 1)})
    if T <= MOST_SETS:
        return whole
    between = f"2 to {T - 1}"
    table = _of_sets(runs, {"1": [1], between: [*range(2, T)], str(T): [T]})
    return replace(table, notes=(*table.notes, f"{between}: mean over these sets; each of them stands in the CSV"), whole=whole)


def _of_sets(runs: Runs, sets: Mapping[str, Sequence[int]]) -> Table:
    """Rows of one set each, or of the mean over several."""
    space, places = runs.space("own"), _places(runs)
    accuracy = {name: mean_last_on(members, space) for name, members in sets.items()}
    lines = []
    for method in runs.methods:
        lost = _average(runs, method, lost_in(space))
        for name, last in accuracy.items():
            numbers = (*(_place(runs, place, method, last) for place in places), lost)
            lines.append(Line((_method(runs, method), Label(name, name)), numbers, group=name))
    for name, last in accuracy.items():
        guessed = [_chance(runs, place, last) for place in places]
        lines.append(_chance_line((Label("chance", "chance"), Label(name, name)), (*guessed, np.nan)))
    what = f"accuracy (%) after the last experience, {space} label space; degradation of the earlier sets in points"
    columns = [*(Column(name, 1) for name in places), Column("degradation", 1, once=True)]
    table = _table("degradation", what, runs, ("method", "set"), columns, lines)

    def numbers(facts: Mapping, line: Line) -> dict[str, float]:
        j = line.labels[1].key
        if f"set{j}" not in facts:
            return {}
        each = dict(zip(facts["columns"], facts[f"set{j}"], strict=True))
        return each | {"average": facts["average"][f"set{j}"], "degradation": facts["average"]["degradation"]}

    return cite(table, runs, "table2_class_incremental", numbers, space)


def degradation_per_dataset(runs: Runs) -> Table:
    """How much each method degraded on each dataset, and on average."""
    space = runs.space("own")
    what = f"degradation (points), {space} label space: accuracy on the earlier sets now, minus when they were learned"
    return _by_dataset("degradation-per-dataset", what, runs, lost_in(space))


def incremental(runs: Runs) -> Table:
    """The metrics of class-incremental learning, per dataset and averaged, in both label spaces."""
    lines, sources = [], []
    for place in _places(runs):
        for space in runs.spaces:
            labels = (Label(place, place), Label(space, space))
            of_all = {name: in_space(metric, space) for name, (_, metric) in INCREMENTAL.items()}
            for method in runs.methods:
                numbers = tuple(_place(runs, place, method, metric) for metric in of_all.values())
                lines.append(Line((*labels, _method(runs, method)), numbers, group=f"{place} {space}"))
            lines += _bounds(runs, place) if runs.bounds and space == "joint" else []
            published, told = beside(runs, place, space)
            lines += published
            sources += told
            guessed = [_chance(runs, place, metric) if name in ACCURACIES else np.nan for name, metric in of_all.items()]
            lines.append(_chance_line((*labels, Label("chance", "chance")), guessed))
    columns = [Column(name, better) for name, (better, _) in INCREMENTAL.items()]
    what = "class-incremental learning: accuracies in %, differences in points"
    table = _table("incremental", what, runs, ("dataset", "label space", "method"), columns, lines)
    return replace(table, notes=(*table.notes, *dict.fromkeys(sources)))


def _bounds(runs: Runs, place: str) -> list[Line]:
    """What the methods reach with all classes at once: a last accuracy, and nothing that a stream is needed for."""
    last, lines = last_in("joint"), []
    for method in runs.bounds.methods:
        number = _place(runs.bounds, place, method, last)
        none = Number(np.nan, np.nan, number.seeds, number.expected)
        numbers = tuple(number if name == "last" else none for name in INCREMENTAL)
        lines.append(Line((Label(place, place), Label("joint", "joint"), _method(runs.bounds, method)), numbers, origin=BOUND))
    return lines


def base_to_new(runs: Runs) -> Table:
    """Zhou et al. (CoCoOp), CVPR 2022: learn the first half; test it and the unseen half, each among its own classes.

    The harmonic mean is that of the two means over seeds (and datasets), as in the papers, so it has no deviation.
    """
    if runs.experiences != 2 or "own" not in runs.spaces:
        found = f"{runs.experiences} in {' and '.join(runs.spaces)}"
        raise Unfit(f"{runs.scenario}: base-to-new: needs 2 experiences in the own label space; here are {found}")
    lines = []
    for place in _places(runs):
        for method in runs.methods:
            base, new = (_place(runs, place, method, lambda r, j=j: r.accuracy("own")[1, j]) for j in (0, 1))
            both = metrics.harmonic_mean(base.mean, new.mean)
            numbers = (base, new, Number(both, np.nan, min(base.seeds, new.seeds), base.expected))
            lines.append(Line((Label(place, place), _method(runs, method)), numbers, group=place))
        base, new = (_chance(runs, place, lambda r, j=j: r.accuracy("own")[1, j]) for j in (0, 1))
        guessed = (base, new, metrics.harmonic_mean(base, new))
        lines.append(_chance_line((Label(place, place), Label("chance", "chance")), guessed))
    columns = [Column(name, 1) for name in ("base", "new", "harmonic mean")]
    what = "base to new: accuracy (%) after the first experience, own label space"
    table = _table("base-to-new", what, runs, ("dataset", "method"), columns, lines)

    def numbers(facts: Mapping, line: Line) -> dict[str, float]:
        if line.labels[0].key != "average":
            return {}
        return {column.key: facts[column.key.replace(" ", "_")] for column in columns}

    return cite(table, runs, "base_to_new", numbers, "own")


def few_shot(folder: Sequence[Runs]) -> Table:
    """Accuracy on all classes after the last experience, against the number of training images per class.

    Gao et al. (LAMM), AAAI 2024, Table 3, with every dataset shown.
    """
    space = _shared_space(folder)
    methods = list(dict.fromkeys(method for runs in folder for method in runs.methods))
    places = list(dict.fromkeys(place for runs in folder for place in _places(runs)))
    lines = []
    for place in sorted(places, key="average".__eq__):
        for method in methods:
            numbers = tuple(_place(runs, place, method, last_in(space)) for runs in folder)
            name = next(_method(runs, method) for runs in folder if method in runs.methods)
            lines.append(Line((Label(place, place), name), numbers, group=place))
        guessed = [_chance(runs, place, last_in(space)) if place in _places(runs) else np.nan for runs in folder]
        lines.append(_chance_line((Label(place, place), Label("chance", "chance")), guessed))
    columns = [Column(str(runs.shots), 1) for runs in folder]
    what = f"last accuracy (%) by training images per class, {space} label space"
    table = _table("few-shot", what, folder[0], ("dataset", "method"), columns, lines)
    notes = tuple(f"{runs.shots} shots: {note}" for runs in folder for note in runs.missing())
    table = replace(table, scope=table.scope[:1], notes=notes)

    def numbers(facts: Mapping, line: Line) -> dict[str, float]:
        average = line.labels[0].key == "average"
        return dict(zip(map(str, facts["columns"]), facts["accuracy"], strict=True)) if average else {}

    at = {str(runs.shots): runs for runs in folder}
    return cite_beside(table, at.__getitem__, "table3_few_shot", numbers, space)


def ablation(runs: Runs) -> Table:
    """Methods as variants of the scenario's first: last accuracy on all classes, and the difference, seed by seed."""
    last = last_in(space := runs.space("joint"))
    table = _by_dataset("ablation", f"last accuracy (%), {space} label space", runs, last)
    first = runs.averages(runs.methods[0], last)
    lines = []
    for method, line in zip(runs.methods, table.lines, strict=True):
        each = runs.averages(method, last)
        difference = {seed: each[seed] - first[seed] for seed in each if seed in first}
        lines.append(replace(line, numbers=(*line.numbers, _number(runs, difference))))
    column = Column(f"minus {runs.name(runs.methods[0])}", 0)
    guessed = _chance_by_dataset(runs, last, (np.nan,))
    table = replace(table, columns=(*table.columns, column), lines=(*lines, guessed))

    def terms(facts: Mapping, line: Line) -> dict[str, float]:
        return {"average": facts["accuracy"]} if "accuracy" in facts else {}

    def initialisation(facts: Mapping, line: Line) -> dict[str, float]:
        at = dict(zip(facts["columns"], facts["accuracy"], strict=True)) if "accuracy" in facts else {}
        return {"average": at[runs.shots]} if runs.shots in at else {}

    table = cite_beside(table, lambda column: runs, "table4_loss_ablation", terms, space)
    return cite_beside(table, lambda column: runs, "table5_initialisation", initialisation, space)


def domain_generalisation(runs: Runs) -> Table:
    """Gao et al. (LAMM), AAAI 2024, Table 1: learned from one dataset, tested on it and on others with its classes.

    The average is over all the datasets, that one among them. A scenario says so by `train_on`; without it the datasets
    after the first must have (some of) its classes and no training images of their own.
    """
    source = runs.of(runs.methods[0])[0].scenario.get("train_on")
    if source is None:
        source = runs.datasets[0]
        classes = {d: {c for m in runs.methods for c in _classes(runs, d, m)} for d in runs.datasets}
        other = [d for d in runs.datasets[1:] if not classes[d] <= classes[source] or _trained_on(runs, d)]
        if other or len(runs.datasets) == 1:
            expected = f"train_on, or others with classes of {source} and no training images"
            found = f"{other[0]} is none" if other else "there are none"
            raise Unfit(f"{runs.scenario}: domain-generalisation: needs {expected}; {found}")
    last = last_in(space := runs.space("joint"))
    what = f"trained on {source}, tested on every dataset: last accuracy (%), {space} label space"
    table = _by_dataset("domain-generalisation", what, runs, last)
    table = replace(table, lines=(*table.lines, _chance_by_dataset(runs, last)))

    def numbers(facts: Mapping, line: Line) -> dict[str, float]:
        return dict(zip(facts["columns"], facts["accuracy"], strict=True))

    return cite(table, runs, "table1_domain_generalization", numbers, space)


def chain(runs: Runs) -> Table:
    """Zheng et al. (ZSCL), ICCV 2023, Tables 1 and 2: Transfer, Average and Last of every dataset of a chain, and their mean.

    In the own label space that is MTIL, where an image's dataset is told; in that of all classes X-TAIL (Xu et al., NeurIPS
    2024), where it is not. Transfer has no value for the dataset that is learned first.
    """
    chains = {d: of_chain for d in runs.datasets if (of_chain := _chain(runs, d))}
    spaces = [space for space in runs.spaces if space != "joint"]
    if not chains or not spaces:
        expected = "a chain of datasets, scored in the label space own or all"
        raise Unfit(f"{runs.scenario}: chain: needs {expected}; here are {', '.join(runs.datasets)} in {', '.join(runs.spaces)}")
    names = list(dict.fromkeys(name for those in chains.values() for name in those))
    lines = []
    for place, mine in chains.items():
        for space in spaces:
            for measure, metric in CHAIN.items():
                each = [of_dataset(metric, space, name) if name in mine else None for name in names]
                each.append(in_chain(metric, space))
                labels = (Label(place, place), Label(space, space), Label(measure, measure))
                for method in runs.methods:
                    none = _number(runs, {})
                    numbers = tuple(_number(runs, runs.values(place, method, one)) if one else none for one in each)
                    lines.append(Line((*labels, _method(runs, method)), numbers, group=f"{place} {space} {measure}"))
                guessed = [_chance(runs, place, one) if one else np.nan for one in each]
                lines.append(_chance_line((*labels, Label("chance", "chance")), guessed))
    columns = [Column(name, 1) for name in (*names, "average")]
    what = "chain of datasets: accuracy (%) on each before it is learned, over the whole chain, and after the last"
    return _table("chain", what, runs, ("chain", "label space", "measure", "method"), columns, lines)


def _chain(runs: Runs, dataset: str) -> tuple[str, ...]:
    """The datasets of a chain whose experiences they are, by arrival in the first run; () for anything else."""
    data = next(record.dataset for (name, _), found in runs.records.items() if name == dataset for record in found.values())
    return data.chain.names if data.chain and data.chain.classes == data.experiences else ()


def rank(runs: Runs) -> Table:
    """Average ranks over the datasets, and which of them the datasets tell apart: Demšar, JMLR 2006."""
    entries = [(runs, method) for method in runs.methods]
    found = {name: ranking(entries, metric, "ranks") for name, metric in compared_by(runs).items()}
    found = {name: each for name, each in found.items() if each.defined}
    of_all = next(iter(found.values()))
    seeds = min(len(runs.records[d, m]) for d in of_all.datasets for _, m in of_all.entries)
    lines = [
        Line((_method(runs, m),), tuple(Number(each.ranks.average[i], np.nan, seeds, len(runs.keys)) for each in found.values()))
        for i, (_, m) in enumerate(of_all.entries)
    ]
    what = f"average rank over {len(of_all.datasets)} datasets, 1 is the best; equal ones share the mean of their ranks"
    table = _table("ranks", what, runs, ("method",), [Column(name) for name in found], lines)
    names = [runs.name(method) for _, method in of_all.entries]
    told = [f"{name}: {sentence}" for name, each in found.items() for sentence in each.told(names)]
    return replace(table, notes=(*told, *table.notes))


def cost(runs: Runs) -> Table:
    """What a run costs: parameters that learn in the last experience, the work it had to do, and (on this machine, as busy
    as it was) time, speed, memory."""
    lines = [
        Line(
            (Label(place, place), _method(runs, method)),
            tuple(_place(runs, place, method, metric) for _, metric in COST.values()),
        )
        for place in _places(runs)
        for method in runs.methods
    ]
    undefined = {name for c, name in enumerate(COST) if all(np.isnan(line.numbers[c].mean) for line in lines)}
    kept = [c for c, name in enumerate(COST) if not (name in undefined and name in LATER)]
    lines = [replace(line, numbers=tuple(line.numbers[c] for c in kept)) for line in lines]
    columns = [Column(name, digits=COST[name][0]) for c, name in enumerate(COST) if c in kept]
    records = [r for by_seed in runs.records.values() for r in by_seed.values()]
    machines = sorted({r.measured.device for r in records})
    told = f"seconds are those of this machine, {busy(records)}; they are no method's cost on another, or a busier one"
    table = _table("cost", "cost of one run", runs, ("dataset", "method"), columns, lines)
    return replace(table, notes=(f"measured on: {', '.join(machines)}", told, *table.notes))


_BUILDERS = {
    "degradation": degradation,
    "degradation-per-dataset": degradation_per_dataset,
    "incremental": incremental,
    "base-to-new": base_to_new,
    "ablation": ablation,
    "domain-generalisation": domain_generalisation,
    "chain": chain,
    "ranks": rank,
    "cost": cost,
}
KINDS = (*_BUILDERS, "few-shot")


def _number(runs: Runs, by_key: Mapping[Key, float]) -> Number:
    values = list(by_key.values())
    mean = float(np.mean(values)) if values else np.nan
    over_orders = spread(by_key, 1) if runs.orders else np.nan
    return Number(mean, spread(by_key, 0), len(values), len(runs.keys), orders=over_orders)


def _average(runs: Runs, method: str, metric: Callable[[Record], float]) -> Number:
    return _number(runs, runs.averages(method, metric))


def _place(runs: Runs, place: str, method: str, metric: Callable[[Record], float]) -> Number:
    """The number on a dataset, or on average over all of them."""
    if place == "average":
        return _average(runs, method, metric)
    return _number(runs, runs.values(place, method, metric))


def _chance(runs: Runs, place: str, metric: Callable[[Record], float]) -> float:
    """The metric of guessing, on a dataset or on average over all of them."""
    return float(chance_average(runs, metric) if place == "average" else chance_on(runs, place, metric))


def _chance_line(labels: tuple[Label, ...], values: Iterable[float]) -> Line:
    return Line(labels, tuple(Number(value, np.nan, 0, 0) for value in values), origin=CHANCE)


def _chance_by_dataset(runs: Runs, metric: Callable[[Record], float], more: tuple[float, ...] = ()) -> Line:
    """The row below those of `_by_dataset`."""
    guessed = [_chance(runs, place, metric) for place in _places(runs)]
    return _chance_line((Label("chance", "chance"),), (*guessed, *more))


def _places(runs: Runs) -> list[str]:
    return [*runs.datasets, *(["average"] if len(runs.datasets) > 1 else [])]


def _shared_space(folder: Sequence[Runs]) -> str:
    """joint, if all runs at all numbers of shots were scored in it."""
    found = [runs.space("joint") for runs in folder]
    return "joint" if all(space == "joint" for space in found) else folder[0].space("own")


def _method(runs: Runs, method: str) -> Label:
    return Label(method, runs.name(method))


def _by_dataset(kind: str, what: str, runs: Runs, metric: Callable[[Record], float]) -> Table:
    """A row per method, a column per dataset, and of several their average."""
    places = _places(runs)
    lines = [Line((_method(runs, m),), tuple(_place(runs, p, m, metric) for p in places)) for m in runs.methods]
    columns = [Column(name, 1) for name in places]
    return _table(kind, what, runs, ("method",), columns, lines)


def _table(kind: str, what: str, runs: Runs, heads: tuple[str, ...], columns: Iterable[Column], lines: Iterable[Line]) -> Table:
    scope = (("scenario", runs.scenario), ("shots", str(runs.shots)))
    return Table(kind, what, scope, heads, tuple(columns), tuple(lines), (*runs.missing(), *_without_texts(runs)))


def _without_texts(runs: Runs) -> list[str]:
    """Why methods that read texts are absent, where they are."""
    found = [dataset for dataset in runs.datasets if any(_no_text(runs, dataset, method) for method in runs.methods)]
    return [f"{', '.join(found)}: features without class texts; methods that read texts cannot run there"] if found else []


def _no_text(runs: Runs, dataset: str, method: str) -> bool:
    given = [record.dataset.features for record in runs.records.get((dataset, method), {}).values()]
    return any(features is not None and features.text is None for features in given)


def _is_ablation(runs: Runs) -> bool:
    """Several variants of one card: methods that extend another in the scenario's overrides."""
    overrides = runs.of(runs.methods[0])[0].scenario.get("overrides", {})
    extends = [overrides.get(method, {}).get("extends") for method in runs.methods]
    return len(extends) > 1 and extends[0] is not None and all(each == extends[0] for each in extends)


def _classes(runs: Runs, dataset: str, method: str) -> tuple[str, ...]:
    found = runs.records.get((dataset, method), {})
    return next(iter(found.values())).dataset.classes if found else ()


def _trained_on(runs: Runs, dataset: str) -> bool:
    found = [runs.records.get((dataset, method), {}) for method in runs.methods]
    return any(sum(record.dataset.train_images) for by_seed in found for record in by_seed.values())
