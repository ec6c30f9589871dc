"""What the bench measured as entries of JSON, and as tables of Markdown between two marks of a page (docs/speed.md)."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from lamm_cl.bench.instruments import Measure
from lamm_cl.errors import UserError, shown
from lamm_cl.files import read_regular, write_atomic

BEGIN, END = "<!-- written by lamm-cl bench -->", "<!-- end of what lamm-cl bench writes -->"
KEYS = tuple(field.name for field in fields(Measure))
NUMBER, NOTHING = (int, float), type(None)
KINDS: tuple[tuple[type, ...], ...] = (
    (str,), NUMBER, (str,), (*NUMBER, NOTHING), (str, NOTHING), (bool, NOTHING), (str,), (str,)
)  # fmt: skip
TITLES = {
    "limit": "Share of the machine's limit",
    "text": "Text tower",
    "steps": "Training steps",
    "prompts": "Steps of later prompt learners",
    "images": "Images into the bank",
    "experiences": "Late experiences",
    "memory": "Memory",
    "growth": "More classes",
    "runs": "Whole runs",
    "start": "Start",
    "commands": "Whole commands",
    "heads": "Heads in closed form",
    "folders": "Folders of many runs",
    "counts": "Images encoded",
}


def figure(value: float) -> str:
    """Three digits, and no exponent where people read thousands."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def cells(m: Measure) -> list[str]:
    """what, value, ratio, target, met, against."""
    ratio = "" if m.ratio is None else f"{m.ratio:.3g}"
    return [m.name, f"{figure(m.value)} {m.unit}", ratio, m.target or "", {True: "yes", False: "no", None: ""}[m.met], m.note]


# --- entries ----------------------------------------------------------------------------------------------------------


def write(path: Path, found: Sequence[Measure]) -> None:
    write_atomic(path, json.dumps([asdict(m) for m in found], indent=1) + "\n")


def read(path: Path) -> list[Measure]:
    """What `write` wrote."""
    try:
        entries = json.loads(read_regular(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected what 'lamm-cl bench --json' writes") from None
    except ValueError:
        raise UserError(f"{path}: is not JSON; expected what 'lamm-cl bench --json' writes") from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: expected a list of measures, as 'lamm-cl bench --json' writes it")
    return [_entry(f"{path}: entry {i + 1}", each) for i, each in enumerate(entries)]


def _entry(where: str, entry: Any) -> Measure:
    if not isinstance(entry, dict) or set(entry) != set(KEYS):
        raise UserError(f"{where}: expected the keys {', '.join(KEYS)}, got {shown(entry)}")
    for key, kinds in zip(KEYS, KINDS, strict=True):
        value = entry[key]
        no_number = isinstance(value, float) and not math.isfinite(value) or isinstance(value, bool) and key != "met"
        if not isinstance(value, kinds) or no_number:
            raise UserError(f"{where}: {key}: {shown(value)} cannot be it")
    return Measure(**entry)


# --- tables -----------------------------------------------------------------------------------------------------------


def tables(found: Sequence[Measure]) -> str:
    """A table a group, in the order of the titles."""
    parts = list(_head(found))
    for group, title in TITLES.items():
        if mine := [m for m in found if m.group == group]:
            parts += [f"### {title}", *(_growth(mine) if group == "growth" else [_table(mine)])]
    return "\n\n".join(parts)


def _head(found: Sequence[Measure]) -> Iterator[str]:
    """When and where, and which targets were met."""
    yield from (f"{figure(m.value)} {m.unit}: {m.note}." for m in found if m.name == "bench" and m.note)
    promised = [m for m in found if m.target]
    missed = ", ".join(f"`{m.name}`" for m in promised if not m.met)
    if promised:
        yield f"Targets met: {sum(bool(m.met) for m in promised)} of {len(promised)}{f'; not met: {missed}' if missed else ''}."


def _table(mine: Sequence[Measure]) -> str:
    """Columns that say nothing are left out."""
    heads, rows = ["what", "value", "ratio", "target", "met", "beside it"], [cells(m) for m in mine]
    kept = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    return markdown([heads[i] for i in kept], [[row[i] for i in kept] for row in rows], numbers=2)


def _growth(mine: Sequence[Measure]) -> Iterator[str]:
    """A row a method, a column a number of classes: seconds, and memory, of a step."""
    found = {tuple(m.name.rsplit("_", 2)): f"{figure(m.value)} {m.unit}" for m in mine}
    methods, classes = (list(dict.fromkeys(name[i] for name in found)) for i in (0, 2))

    def cell(method: str, c: str) -> str:
        return ", ".join(found[method, what, c] for what in ("step", "memory") if (method, what, c) in found) or "-"

    rows = [[method, *(cell(method, c) for c in classes)] for method in methods]
    yield markdown(["a step of", *(f"{c} classes" for c in classes)], rows, numbers=len(classes))


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: int) -> str:
    """A table whose second and following `numbers` columns are numbers."""
    rule = ["---", *["---:"] * numbers, *["---"] * len(heads)][: len(heads)]
    lines = [heads, rule, *[[cell.replace("|", "\\|") for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rewrite(path: Path, found: Sequence[Measure]) -> None:
    """Put the tables between the marks of a page."""
    write_atomic(path, with_tables(path, found).encode(errors="surrogateescape"))


def with_tables(path: Path, found: Sequence[Measure]) -> str:
    """A page with these tables between its marks; UserError where it has no marks."""
    text = read_regular(path).decode(errors="surrogateescape")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{path}: has no place for tables; expected the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables(found)}\n\n{END}{after}"
