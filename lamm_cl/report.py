"""Records -> tables, in the layout of the papers.

A builder turns the runs of a results folder into a Table: columns, rows, cells with mean, standard deviation and number
of seeds. A renderer turns Tables into text and computes nothing; another output format is another renderer. Standard
deviations are the sample's (ddof = 1) over seeds. Averages over datasets are taken seed by seed, over the seeds that
are finished on every dataset shown.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rich.box
import rich.table
from rich.text import Text

from lamm_cl import metrics
from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.files import write_atomic
from lamm_cl.records import Record, Runs, csv_lines, csv_text, runs_in

BEST, SECOND = 1, 2


@dataclass(frozen=True)
class Number:
    """One value per seed, summed up. Mean NaN: undefined, or no finished run; std NaN: fewer than two seeds."""

    mean: float
    std: float
    seeds: int
    expected: int
    rank: int = 0  # BEST or SECOND of its column and group, else 0


@dataclass(frozen=True)
class Label:
    """A name in a row's head: the key in records.csv, and how people write it."""

    key: str
    shown: str


@dataclass(frozen=True)
class Column:
    """`better`: +1 or -1 if more or less is better, 0 if nothing wins; `digits` after the decimal point.

    `once`: rows of one first label share the number; people are shown it once, CSV has it on every row.
    """

    key: str
    better: int = 0
    digits: int = 2
    once: bool = False


@dataclass(frozen=True)
class Line:
    """One row. Cells of one `group` compete for best and second; published numbers do not compete."""

    labels: tuple[Label, ...]
    numbers: tuple[Number, ...]
    group: str = ""
    published: bool = False


@dataclass(frozen=True)
class Table:
    """`scope`: what all rows share (scenario, shots); `heads` name the labels' columns, before the numbers' columns."""

    kind: str
    title: str
    scope: tuple[tuple[str, str], ...]
    heads: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Published:
    """A paper's class-incremental result: per set, dataset -> accuracy in %, own label space, after the last set."""

    method: str
    source: str
    sets: tuple[Mapping[str, float], ...]
    degradation: float | None = None


def published(card: Mapping) -> list[Published]:
    """The class-incremental table in a card's published numbers, if it has one: what `tables` takes."""
    table = card.get("published", {}).get("table2_class_incremental")
    if table is None:
        return []
    names = [key for key in table if key.startswith("set")]
    sets = tuple(dict(zip(table["columns"], table[f"set{j}"], strict=True)) for j in range(1, len(names) + 1))
    return [Published(card["name"], table["source"], sets, table.get("average", {}).get("degradation"))]


def tables(results: Sequence[Path], kind: str = "degradation", papers: Sequence[Published] = ()) -> list[Table]:
    """The tables of one kind: for each results folder, for each number of shots (few-shot: one for all shots).

    Rows of `papers` appear in degradation tables, where a dataset is shared. Raises UserError for an unknown kind, a
    folder without finished runs, or runs that the kind does not fit.
    """
    if kind not in KINDS:
        raise UserError(f"--kind: no table '{kind}'{did_you_mean(kind, KINDS)}; one of {', '.join(KINDS)}")
    return [table for folder in results for table in _tables(runs_in(folder), kind, papers)]


def write_tables(results: Path, papers: Sequence[Published] = ()) -> list[Path]:
    """Write results/tables/: degradation.{csv,md,tex}, degradation_{std,seeds,per_dataset,per_dataset_std}.csv.

    Values are in %, mean over seeds; `_std` holds standard deviations, `_seeds` how many seeds each mean is over. With
    several numbers of shots, the CSV files begin with a column `shots`, the others hold one table for each. The same
    records give the same bytes. Raises UserError for a scenario that was not scored in the own label space.
    """
    folder = runs_in(results)
    shown = _tables(folder, "degradation", papers)
    per_dataset = _tables(folder, "degradation-per-dataset")
    contents = {
        "degradation.csv": to_csv(shown),
        "degradation_std.csv": to_csv(shown, "std"),
        "degradation_seeds.csv": to_csv(shown, "seeds"),
        "degradation_per_dataset.csv": to_csv(per_dataset),
        "degradation_per_dataset_std.csv": to_csv(per_dataset, "std"),
        "degradation.md": to_markdown(shown),
        "degradation.tex": to_latex(shown),
    }
    for name, content in contents.items():
        write_atomic(results / "tables" / name, content)
    return [results / "tables" / name for name in contents]


def _tables(folder: list[Runs], kind: str, papers: Sequence[Published] = ()) -> list[Table]:
    if kind == "few-shot":
        return [_ranked(few_shot(folder))]
    options = {"papers": papers} if kind == "degradation" else {}
    return [_ranked(_BUILDERS[kind](runs, **options)) for runs in folder]


# Builders


def degradation(runs: Runs, papers: Sequence[Published] = ()) -> Table:
    """Gao et al. (LAMM), AAAI 2024, Table 2: accuracy on each set after the last experience, what earlier ones lost."""
    lines = []
    for method in runs.methods:
        lost = _average(runs, method, _degradation)
        for j in range(1, runs.experiences + 1):
            last = _last_on(j)
            each = [_number(runs, runs.values(d, method, last)) for d in runs.datasets]
            labels = (_method(runs, method), Label(str(j), str(j)))
            lines.append(Line(labels, (*each, _average(runs, method, last), lost), group=str(j)))
    cited = [(paper, _published(paper, runs.datasets)) for paper in papers]
    lines += [line for _, rows in cited for line in rows]
    what = "accuracy (%) after the last experience, own label space; degradation of the earlier sets in points"
    columns = [*(Column(name, 1) for name in (*runs.datasets, "average")), Column("degradation", 1, once=True)]
    table = _table("degradation", what, runs, ("method", "set"), columns, lines)
    sources = tuple(f"{paper.method} (published): {paper.source}" for paper, rows in cited if rows)
    return replace(table, notes=(*table.notes, *sources))


def degradation_per_dataset(runs: Runs) -> Table:
    """How much each method degraded on each dataset, and on average."""
    what = "degradation (points), own label space: accuracy on the earlier sets now, minus when they were learned"
    return _by_dataset("degradation-per-dataset", what, runs, _degradation)


def incremental(runs: Runs) -> Table:
    """The metrics of class-incremental learning, per dataset and averaged, in both label spaces."""
    lines = [
        Line(
            (Label(place, place), Label(space, space), _method(runs, method)),
            tuple(_place(runs, place, method, _in_space(metric, space)) for _, metric in _INCREMENTAL.values()),
            group=f"{place} {space}",
        )
        for place in _places(runs)
        for space in _spaces(runs)
        for method in runs.methods
    ]
    columns = [Column(name, better) for name, (better, _) in _INCREMENTAL.items()]
    what = "class-incremental learning: accuracies in %, differences in points"
    return _table("incremental", what, runs, ("dataset", "label space", "method"), columns, lines)


def base_to_new(runs: Runs) -> Table:
    """Zhou et al. (CoCoOp), CVPR 2022: learn the first half; test it and the unseen half, each among its own classes.

    The harmonic mean is that of the two means over seeds (and datasets), as in the papers, so it has no deviation.
    """
    if runs.experiences != 2:
        raise UserError(f"{runs.scenario}: a base-to-new table needs 2 experiences; here are {runs.experiences}")
    lines = []
    for place in _places(runs):
        for method in runs.methods:
            base, new = (_place(runs, place, method, lambda r, j=j: r.accuracy("own")[1, j]) for j in (0, 1))
            both = metrics.harmonic_mean(base.mean, new.mean)
            numbers = (base, new, Number(both, np.nan, min(base.seeds, new.seeds), base.expected))
            lines.append(Line((Label(place, place), _method(runs, method)), numbers, group=place))
    columns = [Column(name, 1) for name in ("base", "new", "harmonic mean")]
    what = "base to new: accuracy (%) after the first experience, own label space"
    return _table("base-to-new", what, runs, ("dataset", "method"), columns, lines)


def few_shot(folder: list[Runs]) -> Table:
    """Accuracy on all classes after the last experience, against the number of training images per class."""
    methods = list(dict.fromkeys(method for runs in folder for method in runs.methods))
    places = list(dict.fromkeys(place for runs in folder for place in _places(runs)))
    lines = []
    for place in sorted(places, key="average".__eq__):
        for method in methods:
            numbers = tuple(_place(runs, place, method, _last_accuracy) for runs in folder)
            name = next(_method(runs, method) for runs in folder if method in runs.methods)
            lines.append(Line((Label(place, place), name), numbers, group=place))
    columns = [Column(str(runs.shots), 1) for runs in folder]
    what = "last accuracy (%) by training images per class, all classes compete"
    table = _table("few-shot", what, folder[0], ("dataset", "method"), columns, lines)
    notes = tuple(f"{runs.shots} shots: {note}" for runs in folder for note in runs.missing())
    return replace(table, scope=table.scope[:1], notes=notes)


def ablation(runs: Runs) -> Table:
    """Methods as variants of the scenario's first: last accuracy on all classes, and the difference, seed by seed."""
    table = _by_dataset("ablation", "last accuracy (%), all classes compete", runs, _last_accuracy)
    first = runs.averages(runs.methods[0], _last_accuracy)
    lines = []
    for method, line in zip(runs.methods, table.lines, strict=True):
        own = runs.averages(method, _last_accuracy)
        difference = {seed: own[seed] - first[seed] for seed in own if seed in first}
        lines.append(replace(line, numbers=(*line.numbers, _number(runs, difference))))
    column = Column(f"minus {runs.name(runs.methods[0])}", 0)
    return replace(table, columns=(*table.columns, column), lines=tuple(lines))


def cost(runs: Runs) -> Table:
    """What a run costs: parameters that learn in the last experience, and (on this machine) time, speed, memory."""
    lines = [
        Line(
            (Label(dataset, dataset), _method(runs, method)),
            tuple(_number(runs, runs.values(dataset, method, metric)) for _, metric in _COST.values()),
        )
        for dataset in runs.datasets
        for method in runs.methods
    ]
    columns = [Column(name, digits=digits) for name, (digits, _) in _COST.items()]
    machines = sorted({r.measured.device for by_seed in runs.records.values() for r in by_seed.values()})
    table = _table("cost", "cost of one run", runs, ("dataset", "method"), columns, lines)
    return replace(table, notes=(f"measured on: {', '.join(machines)}", *table.notes))


_BUILDERS = {
    "degradation": degradation,
    "degradation-per-dataset": degradation_per_dataset,
    "incremental": incremental,
    "base-to-new": base_to_new,
    "ablation": ablation,
    "cost": cost,
}
KINDS = (*_BUILDERS, "few-shot")


# Metrics of one record


def _degradation(record: Record) -> float:
    return metrics.degradation(record.accuracy("own"))


def _last_on(j: int) -> Callable[[Record], float]:
    """Accuracy on experience j after the last one, own label space; NaN where a dataset has fewer experiences."""

    def metric(record: Record) -> float:
        last = record.accuracy("own")[-1]
        return float(last[j - 1]) if j <= len(last) else float("nan")

    return metric


def _last_accuracy(record: Record) -> float:
    return metrics.last_accuracy(record.accuracy("joint"), record.dataset.test_images)


def _in_space(metric: Callable, space: str) -> Callable[[Record], float]:
    return lambda record: metric(record.accuracy(space), record.dataset.test_images)


_INCREMENTAL = {  # column -> (which direction is better, metric)
    "average incremental": (1, metrics.average_incremental_accuracy),
    "last": (1, metrics.last_accuracy),
    "forgetting": (-1, lambda R, _: metrics.forgetting(R)),
    "backward transfer": (1, lambda R, _: metrics.backward_transfer(R)),
    "zero-shot retention": (1, lambda R, _: metrics.zero_shot_retention(R)),  # NaN in the joint space, by NaNs in R
}
_COST = {  # column -> (digits, metric)
    "trainable parameters": (0, lambda r: r.model.trainable[-1]),
    "label tokens": (0, lambda r: np.nan if r.model.label_tokens is None else r.model.label_tokens),
    "seconds": (1, lambda r: sum(r.measured.seconds.values())),
    "images/s": (0, lambda r: np.nan if r.measured.images_per_second is None else r.measured.images_per_second),
    "peak memory (MiB)": (
        0,
        lambda r: np.nan if r.measured.peak_memory_bytes is None else r.measured.peak_memory_bytes / 2**20,
    ),
}


# From values to cells


def _number(runs: Runs, by_seed: Mapping[int, float]) -> Number:
    values = list(by_seed.values())
    mean = float(np.mean(values)) if values else np.nan
    std = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
    return Number(mean, std, len(values), len(runs.seeds))


def _average(runs: Runs, method: str, metric: Callable[[Record], float]) -> Number:
    return _number(runs, runs.averages(method, metric))


def _place(runs: Runs, place: str, method: str, metric: Callable[[Record], float]) -> Number:
    """The number on a dataset, or on average over all of them."""
    if place == "average":
        return _average(runs, method, metric)
    return _number(runs, runs.values(place, method, metric))


def _places(runs: Runs) -> list[str]:
    return [*runs.datasets, *(["average"] if len(runs.datasets) > 1 else [])]


def _spaces(runs: Runs) -> list[str]:
    """The label spaces that every record has, own first."""
    found = [{c.label_space for c in r.counts} for by_seed in runs.records.values() for r in by_seed.values()]
    return sorted(set.intersection(*found), reverse=True)


def _method(runs: Runs, method: str) -> Label:
    return Label(method, runs.name(method))


def _by_dataset(kind: str, what: str, runs: Runs, metric: Callable[[Record], float]) -> Table:
    """A row per method, a column per dataset, and their average."""
    lines = [
        Line((_method(runs, m),), tuple(_place(runs, p, m, metric) for p in (*runs.datasets, "average")))
        for m in runs.methods
    ]
    columns = [Column(name, 1) for name in (*runs.datasets, "average")]
    return _table(kind, what, runs, ("method",), columns, lines)


def _table(
    kind: str, what: str, runs: Runs, heads: tuple[str, ...], columns: Iterable[Column], lines: Iterable[Line]
) -> Table:
    scope = (("scenario", runs.scenario), ("shots", str(runs.shots)))
    return Table(kind, what, scope, heads, tuple(columns), tuple(lines), tuple(runs.missing()))


def _published(paper: Published, datasets: tuple[str, ...]) -> list[Line]:
    """The paper's rows on the datasets at hand; its averages only if it has exactly these datasets."""
    sets = [{_folded(name): accuracy for name, accuracy in accuracies.items()} for accuracies in paper.sets]
    folded = [_folded(dataset) for dataset in datasets]
    if not any(name in accuracies for accuracies in sets for name in folded):
        return []
    same = all(set(accuracies) == set(folded) for accuracies in sets)
    lost = paper.degradation if same and paper.degradation is not None else np.nan
    name = f"{paper.method} (published)"
    lines = []
    for j, accuracies in enumerate(sets, start=1):
        average = np.mean([*accuracies.values()]) if same else np.nan
        values = (*(accuracies.get(dataset, np.nan) for dataset in folded), average, lost)
        numbers = tuple(Number(float(value), np.nan, 0, 0) for value in values)
        lines.append(Line((Label(name, name), Label(str(j), str(j))), numbers, published=True))
    return lines


def _folded(dataset: str) -> str:
    """Papers write OxfordPets for oxford_pets."""
    return "".join(c for c in dataset.casefold() if c.isalnum())


def _ranked(table: Table) -> Table:
    """Mark best and second of each column within each group, by the mean as printed; equal means share the mark.

    Two rows at least must compete, and a mean over fewer seeds than another's does not.
    """
    lines = list(table.lines)
    for group in {line.group for line in lines}:
        rows = [i for i, line in enumerate(lines) if line.group == group and not line.published]
        for c, column in enumerate(table.columns):
            numbers = {i: lines[i].numbers[c] for i in rows if not np.isnan(lines[i].numbers[c].mean)}
            most = max((number.seeds for number in numbers.values()), default=0)
            means = {i: column.better * _rounded(n.mean, column) for i, n in numbers.items() if n.seeds == most}
            if not column.better or len(means) < 2:
                continue
            ranks = {mean: rank for rank, mean in enumerate(sorted(set(means.values()), reverse=True), start=1)}
            for i, mean in means.items():
                if ranks[mean] <= SECOND:
                    marked = list(lines[i].numbers)
                    marked[c] = replace(marked[c], rank=ranks[mean])
                    lines[i] = replace(lines[i], numbers=tuple(marked))
    return replace(table, lines=tuple(lines))


# Renderers


def to_csv(tables: Sequence[Table], value: str = "mean") -> str:
    """One CSV of the measured numbers, bare: their `mean`, `std` or `seeds`; undefined is empty.

    What differs among the tables' scopes leads as columns of its own.
    """
    varying = [key for i, (key, first) in enumerate(tables[0].scope) if any(t.scope[i][1] != first for t in tables)]
    columns = list(dict.fromkeys(column.key for table in tables for column in table.columns))
    lines = [[csv_text(head) for head in (*varying, *tables[0].heads, *columns)]]
    for table in tables:
        scope = [csv_text(dict(table.scope)[key]) for key in varying]
        for line in (line for line in table.lines if not line.published):
            cells = {c.key: _bare(n, c, value) for c, n in zip(table.columns, line.numbers, strict=True)}
            labels = [csv_text(label.key) for label in line.labels]
            lines.append([*scope, *labels, *(cells.get(column, "") for column in columns)])
    return csv_lines(lines)


def to_markdown(tables: Sequence[Table]) -> str:
    """GitHub's tables, one after another: best bold, second underlined."""
    return "\n".join(_markdown(table) for table in tables)


def _markdown(table: Table) -> str:
    marks = {BEST: "**{}**", SECOND: "<u>{}</u>"}
    heads = [*table.heads, *(column.key for column in table.columns)]
    lines = [[_markdown_text(head) for head in heads], ["---"] * len(table.heads) + ["---:"] * len(table.columns)]
    for labels, cells in _shown(table):
        texts = [marks.get(c.rank, "{}").format(c.mean) + (c.std and f" ± {c.std}") + c.seeds for c in cells]
        lines.append([*(_markdown_text(label) for label in labels), *texts])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "".join(f"- {_markdown_text(note)}\n" for note in table.notes)
    return f"{_markdown_text(_caption(table))}\n\n{body}\n" + (f"\n{notes}" if notes else "")


def to_latex(tables: Sequence[Table]) -> str:
    """Floats to \\input, in booktabs' style: best bold, second underlined."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex(table) for table in tables)


def _latex(table: Table) -> str:
    marks = {BEST: "\\textbf{{{}}}", SECOND: "\\underline{{{}}}"}
    body = []
    for labels, cells in _shown(table):
        deviations = [f"$_{{\\pm {c.std}}}$" if c.std else "" for c in cells]
        means = [marks.get(c.rank, "{}").format(c.mean.replace("−", "$-$").replace("–", "--")) for c in cells]
        texts = [mean + std + c.seeds for mean, std, c in zip(means, deviations, cells, strict=True)]
        rule = ["\\midrule"] if labels[0] and labels[1:] and body else []
        body += [*rule, " & ".join([*(_latex_text(label) for label in labels), *texts]) + " \\\\"]
    heads = [*table.heads, *(column.key for column in table.columns)]
    caption = " ".join(f"{_latex_text(text)}." for text in (_caption(table), *table.notes))
    return "\n".join(
        [
            "\\begin{table}[t]",
            "\\centering",
            f"\\caption{{{caption}}}",
            f"\\begin{{tabular}}{{{'l' * len(table.heads)}{'r' * len(table.columns)}}}",
            "\\toprule",
            " & ".join(_latex_text(head) for head in heads) + " \\\\",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}\n",
        ]
    )


def to_terminal(table: Table) -> rich.table.Table:
    """For rich's console: best bold, second underlined. Names are shown as they are, never read as markup."""
    styles = {BEST: "bold", SECOND: "underline"}
    notes = "\n".join(_plain(note) for note in table.notes)
    caption = Text(notes) if notes else None
    shown = rich.table.Table(title=Text(_caption(table)), caption=caption, box=rich.box.SIMPLE_HEAD)
    for head in table.heads:
        shown.add_column(Text(_plain(head)), overflow="fold")
    for column in table.columns:
        shown.add_column(Text(_plain(column.key)), justify="right", overflow="fold")
    for i, (labels, cells) in enumerate(_shown(table)):
        if labels[0] and labels[1:] and i:
            shown.add_section()
        texts = [((c.mean, styles.get(c.rank, "")), (c.std and f" ±{c.std}", "dim"), c.seeds) for c in cells]
        shown.add_row(*(Text(label) for label in labels), *(Text.assemble(*parts) for parts in texts))
    return shown


# What renderers share


@dataclass(frozen=True)
class _Shown:
    """A number as text: "81.20", "1.05" or "", " (2/3 seeds)" or ""."""

    mean: str
    std: str
    seeds: str
    rank: int


def _shown(table: Table) -> list[tuple[list[str], list[_Shown]]]:
    """Labels and cells of each row as plain text; a label stands once for the rows that share it (the last: always)."""
    shown, before = [], ()
    for line in table.lines:
        labels = [_plain(label.shown) for label in line.labels]
        repeated = [labels[: i + 1] == list(before[: i + 1]) for i in range(len(labels) - 1)]
        cells = [
            _Shown("", "", "", 0) if column.once and repeated[0] else _cell(number, column)
            for number, column in zip(line.numbers, table.columns, strict=True)
        ]
        shown.append((["" if r else label for r, label in zip([*repeated, False], labels, strict=True)], cells))
        before = tuple(labels)
    return shown


def _cell(number: Number, column: Column) -> _Shown:
    seeds = f" ({number.seeds}/{number.expected} seeds)" if 0 < number.seeds < number.expected else ""
    if np.isnan(number.mean):
        return _Shown("–", "", seeds, 0)
    mean = f"{_rounded(number.mean, column):,.{column.digits}f}".replace("-", "−")
    std = "" if np.isnan(number.std) else f"{number.std:,.{column.digits}f}"
    return _Shown(mean, std, seeds, number.rank)


def _bare(number: Number, column: Column, value: str) -> str:
    if value == "seeds":
        return str(number.seeds)
    number_itself = {"mean": number.mean, "std": number.std}[value]
    return "" if np.isnan(number_itself) else f"{_rounded(number_itself, column):.{column.digits}f}"


def _rounded(value: float, column: Column) -> float:
    return round(value, column.digits) + 0.0  # no negative zero


def _caption(table: Table) -> str:
    scope = ", ".join(_plain(f"{v} shots" if k == "shots" else v) for k, v in table.scope)
    return f"{scope}: {table.title}; mean ± standard deviation over seeds"


def _plain(text: str) -> str:
    """One line without control characters."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def _markdown_text(text: str) -> str:
    text = _plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|~" else c for c in text)


def _latex_text(text: str) -> str:
    words = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    words |= {"<": "\\textless{}", ">": "\\textgreater{}", '"': "''", "|": "\\textbar{}"}
    words |= {"±": "$\\pm$", "−": "$-$", "–": "--"}
    return "".join(words.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in _plain(text))
