"""Tables -> text: CSV, JSON, Markdown, LaTeX, HTML, the terminal.

A renderer computes nothing (builders.py does); another output format is another function here. Names are shown as they
are in every format, and are markup in none.
"""

import html
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import rich.box
import rich.table
from rich.text import Text

from lamm_cl.reports.table import BEST, BOUND, MEASURED, SECOND, Column, Number, Table, rounded
from lamm_cl.results.csv import csv_lines, csv_text

# What fits a page of LaTeX: wider and longer tables are broken into several.
MOST_COLUMNS, MOST_ROWS = 13, 48
WIDE = 8  # columns; more stand closer together


def to_csv(tables: Sequence[Table], value: str = "mean") -> str:
    """One CSV of the measured numbers, bare: their `mean`, `std`, `orders` (over class orders) or `seeds`; undefined is empty.

    What differs among the tables' scopes leads as columns of its own; of a summary, the whole table.
    """
    tables = [table.whole or table for table in tables]
    varying = [key for i, (key, first) in enumerate(tables[0].scope) if any(t.scope[i][1] != first for t in tables)]
    columns = list(dict.fromkeys(column.key for table in tables for column in table.columns))
    lines = [[csv_text(head) for head in (*varying, *tables[0].heads, *columns)]]
    for table in tables:
        scope = [csv_text(dict(table.scope)[key]) for key in varying]
        for line in (line for line in table.lines if line.origin in (MEASURED, BOUND)):
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
        texts = [marks.get(c.rank, "{}").format(c.mean) + "".join(f" ± {each}" for each in c.spreads) + c.seeds for c in cells]
        lines.append([*(_markdown_text(label) for label in labels), *texts])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "".join(f"- {_markdown_text(note)}\n" for note in table.notes)
    return f"{_markdown_text(_caption(table))}\n\n{body}\n" + (f"\n{notes}" if notes else "")


def to_latex(tables: Sequence[Table]) -> str:
    """Floats to \\input, in booktabs' style: best bold, second underlined; none wider than the line."""
    return "% needs \\usepackage{booktabs,graphicx}\n" + "\n".join(_latex(table) for table in tables)


def _latex(table: Table) -> str:
    """One float, or several where there are too many columns or rows for one."""
    rows, whole = _shown(table), _shown(table, every=True)
    blocks = [
        ([whole[top], *rows[top + 1 : top + MOST_ROWS]], slice(left, left + MOST_COLUMNS))  # no float begins without labels
        for top in range(0, len(rows), MOST_ROWS)
        for left in range(0, len(table.columns), MOST_COLUMNS)
    ]
    first = ". ".join(_latex_text(text) for text in (_caption(table), *table.notes)) + "."
    captions = [first] + [f"{_latex_text(_caption(table))} (continued)."] * (len(blocks) - 1)
    return "\n".join(_float(table, *block, caption) for block, caption in zip(blocks, captions, strict=True))


def _float(table: Table, rows: "list[_Row]", columns: slice, caption: str) -> str:
    marks = {BEST: "\\textbf{{{}}}", SECOND: "\\underline{{{}}}"}
    body = []
    for labels, cells in rows:
        shown = cells[columns]
        deviations = ["".join(f"$_{{\\pm {each}}}$" for each in c.spreads).replace("–", "\\textrm{--}") for c in shown]
        means = [marks.get(c.rank, "{}").format(c.mean.replace("−", "$-$").replace("–", "--")) for c in shown]
        texts = [mean + std + c.seeds for mean, std, c in zip(means, deviations, shown, strict=True)]
        rule = ["\\midrule"] if labels[0] and labels[1:] and body else []
        body += [*rule, " & ".join([*(_latex_stack(label, 40, "l") for label in labels), *texts]) + " \\\\"]
    keys = [column.key for column in table.columns[columns]]
    return "\n".join(
        [
            "\\begin{table}[tp]",
            "\\centering",
            f"\\caption{{{caption}}}",
            *(["\\setlength{\\tabcolsep}{3pt}"] if len(keys) > WIDE else []),
            "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
            f"\\begin{{tabular}}{{{'l' * len(table.heads)}{'r' * len(keys)}}}",
            "\\toprule",
            " & ".join([*map(_latex_text, table.heads), *(_latex_stack(key, 16, "r") for key in keys)]) + " \\\\",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}}",
            "\\end{table}\n",
        ]
    )


LONG = ' class="long"'  # a name that may be broken into lines


def to_html(tables: Sequence[Table]) -> str:
    """<table> elements, one after another: best <strong>, second <u>, each number with data-value for who sorts."""
    return "\n".join(_html(table) for table in tables)


def _html(table: Table) -> str:
    text = lambda name: html.escape(_plain(name))  # noqa: E731
    heads = "".join(f'<th scope="col">{text(head)}</th>' for head in table.heads)
    heads += "".join(f'<th scope="col" class="number">{text(column.key)}</th>' for column in table.columns)
    rows = []
    for line, (labels, cells) in zip(table.lines, _shown(table, every=True), strict=True):
        names = "".join(f'<th scope="row"{LONG * (len(label) > 30)}>{html.escape(label)}</th>' for label in labels)
        numbers = "".join(map(_html_cell, line.numbers, cells))
        rows.append(f'<tr class="{line.origin}">{names}{numbers}</tr>')
    notes = "".join(f"<li>{text(note)}</li>" for note in table.notes)
    body = "\n".join(rows)
    return (
        f'<table data-kind="{table.kind}">\n<caption>{text(_caption(table))}</caption>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n"
        + (f'<ul class="notes">{notes}</ul>\n' if notes else "")
    )


def _html_cell(number: Number, cell: "_Cell") -> str:
    mark = {BEST: "strong", SECOND: "u"}.get(cell.rank)
    mean = f"<{mark}>{cell.mean}</{mark}>" if mark else cell.mean
    std = "".join(f'<span class="std"> ± {each}</span>' for each in cell.spreads)
    seeds = f'<span class="seeds">{cell.seeds}</span>' if cell.seeds else ""
    value = "" if np.isnan(number.mean) else f' data-value="{number.mean:.6g}"'
    return f"<td{value}>{mean}{std}{seeds}</td>"


def to_json(tables: Sequence[Table]) -> str:
    """A list of tables with all that they say, rows of every origin among it; of a summary, the whole table. Numbers are not
    rounded, undefined is null."""
    return json.dumps([_facts(table.whole or table) for table in tables], ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _facts(table: Table) -> dict[str, object]:
    keys = [column.key for column in table.columns]
    rows = [
        {
            "origin": line.origin,
            **{head: label.key for head, label in zip(table.heads, line.labels, strict=True)},
            "numbers": {key: _number_facts(number) for key, number in zip(keys, line.numbers, strict=True)},
        }
        for line in table.lines
    ]
    return {"kind": table.kind, "title": table.title, **dict(table.scope), "heads": table.heads, "columns": keys, "rows": rows,
            "notes": table.notes}  # fmt: skip


def _number_facts(number: Number) -> dict[str, object]:
    defined = {name: value for name in ("mean", "std") if not np.isnan(value := getattr(number, name))}
    return {"mean": None, **defined, **({"seeds": number.seeds} if number.expected else {})}


RENDERERS = {"md": to_markdown, "csv": to_csv, "json": to_json, "tex": to_latex, "html": to_html}


def to_terminal(table: Table) -> rich.table.Table:
    """For rich's console: best bold, second underlined. Names are shown as they are, never read as markup."""
    styles = {BEST: "bold", SECOND: "underline"}
    notes = "\n".join(_plain(note) for note in table.notes)
    caption = Text(notes) if notes else None
    shown = rich.table.Table(title=Text(_plain(_caption(table))), caption=caption, box=rich.box.SIMPLE_HEAD)
    for head in table.heads:
        shown.add_column(Text(_plain(head)), overflow="fold")
    for column in table.columns:
        shown.add_column(Text(_plain(column.key)), justify="right", overflow="fold")
    for i, (labels, cells) in enumerate(_shown(table)):
        if labels[0] and labels[1:] and i:
            shown.add_section()
        texts = [((c.mean, styles.get(c.rank, "")), ("".join(f" ±{each}" for each in c.spreads), "dim"), c.seeds) for c in cells]
        shown.add_row(*(Text(label) for label in labels), *(Text.assemble(*parts) for parts in texts))
    return shown


@dataclass(frozen=True)
class _Cell:
    """A number as text: "81.20", its deviations over seeds and class orders ("1.05",), " (2/3 seeds)" or ""."""

    mean: str
    spreads: tuple[str, ...]
    seeds: str
    rank: int


_Row = tuple[list[str], list[_Cell]]


def _shown(table: Table, every: bool = False) -> list[_Row]:
    """Labels and cells of each row as plain text; a label stands once for the rows that share it (the last: always),
    unless `every` row is to stand for itself."""
    shown, before = [], ()
    for line in table.lines:
        labels = [_plain(label.shown) for label in line.labels]
        repeated = [not every and labels[: i + 1] == list(before[: i + 1]) for i in range(len(labels) - 1)]
        cells = [
            _Cell("", (), "", 0) if column.once and repeated[0] else _cell(number, column)
            for number, column in zip(line.numbers, table.columns, strict=True)
        ]
        shown.append((["" if r else label for r, label in zip([*repeated, False], labels, strict=True)], cells))
        before = tuple(labels)
    return shown


def _cell(number: Number, column: Column) -> _Cell:
    if np.isnan(number.mean):
        return _Cell("–", (), "", 0)
    mean = f"{rounded(number.mean, column):,.{column.digits}f}".replace("-", "−")
    each = ["–" if np.isnan(deviation) else f"{deviation:,.{column.digits}f}" for deviation in (number.std, number.orders)]
    spreads = each[: 2 if not np.isnan(number.orders) else 1 if not np.isnan(number.std) else 0]
    word = "runs" if len(spreads) > 1 else "seeds"
    seeds = f" ({number.seeds}/{number.expected} {word})" if 0 < number.seeds < number.expected else ""
    return _Cell(mean, tuple(spreads), seeds, number.rank)


def _bare(number: Number, column: Column, value: str) -> str:
    if value == "seeds":
        return str(number.seeds)
    number_itself = {"mean": number.mean, "std": number.std, "orders": number.orders}[value]
    return "" if np.isnan(number_itself) else f"{rounded(number_itself, column):.{column.digits}f}"


def _caption(table: Table) -> str:
    scope = ", ".join(_plain(f"{v} shots" if k == "shots" else v) for k, v in table.scope)
    numbers = [number for line in table.lines for number in line.numbers]
    told = "; mean ± standard deviation over seeds" if not all(np.isnan(number.std) for number in numbers) else ""
    told = "; mean ± standard deviation over seeds ± over class orders" if over_orders([table]) else told
    return f"{scope}: {table.title}{told}"


def over_orders(tables: Sequence[Table]) -> bool:
    """Whether any number has a deviation over class orders."""
    return not all(np.isnan(number.orders) for table in tables for line in table.lines for number in line.numbers)


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


def _latex_stack(text: str, width: int, side: str) -> str:
    """A long name in several lines."""
    lines = [_latex_text(line) for line in textwrap.wrap(_plain(text), width)] or [""]
    stacked = " \\\\ ".join(lines)
    return stacked if len(lines) == 1 else f"\\shortstack[{side}]{{{stacked}}}"
