"""The counts of all records as one CSV file, results/<scenario>/records.csv."""

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lamm_cl.files import read_regular, write_atomic
from lamm_cl.results.record import LABEL_SPACES, Record
from lamm_cl.results.runs import records_in


class Row(NamedTuple):
    """One line of records.csv. `correct` and `accuracy` (in %) are None where the joint label space is undefined.

    `order` stands there where the scenario has several class orders.
    """

    scenario: str
    dataset: str
    method: str
    shots: int | str
    seed: int
    order: str
    label_space: str
    trained: int
    tested: int
    correct: int | None
    total: int
    accuracy: float | None


class RunKey(NamedTuple):
    """Which run of a scenario a row belongs to."""

    dataset: str
    method: str
    shots: int | str
    seed: int
    order: str = ""


def columns_of(found: Sequence[Row]) -> list[str]:
    """The columns that these rows fill."""
    return [name for name in Row._fields if name != "order" or any(row.order for row in found)]


def rows(records: Iterable[Record]) -> list[Row]:
    """The counts of the records, one a row, in a fixed order."""
    return [
        Row(
            *(record.run.scenario, record.run.dataset, record.run.method, record.run.shots, record.run.seed, record.run.order),
            *(count.label_space, count.trained, count.tested, count.correct, count.total),
            None if count.correct is None else 100 * count.correct / count.total,
        )
        for record in records
        for count in sorted(record.counts, key=lambda c: (LABEL_SPACES.index(c.label_space), c.trained, c.tested))
    ]


def write_records_csv(results: Path) -> Path:
    """Write results/records.csv anew from the records."""
    path = results / "records.csv"
    write_atomic(path, records_csv(records_in(results)))
    return path


def lost(results: Path, planned: Collection[RunKey] = ()) -> str:
    """What results/records.csv counts and no record beside it gives, in one line; "" if nothing: writing it anew would lose
    those counts. Where there are records, the `planned` runs are coming and count as there."""
    path = results / "records.csv"
    text = read_regular(path).decode(errors="replace") if path.exists() else ""
    if not text:
        return ""
    records = records_in(results)  # after the counts: a process that works here adds to both, the records first
    if (made := records_csv(records)) == text:
        return ""
    if not (counted := _counted(text)):
        return ""
    given = _counted(made)
    coming = {tuple(csv_text(str(each)) for each in key) for key in planned} if records else set()
    columns = [name for name in Row._fields if name in counted[0] and name not in ("correct", "total", "accuracy")]
    there = {tuple(row.get(name, "") for name in columns) for row in given}
    gone = [row for row in counted if tuple(row[name] for name in columns) not in there]
    if all(tuple(row.get(name, "") for name in RunKey._fields) in coming for row in gone):
        return ""
    return f"{path}: has {len(counted):,} counts, the records beside it give {len(given):,}: written anew it would lose the rest"


def _counted(text: str) -> list[dict[str, str]]:
    """The rows of a records.csv; none of a file that is something else."""
    try:
        found = list(csv.DictReader(io.StringIO(text), strict=True))
    except csv.Error:
        return []
    needed = [name for name in RunKey._fields if name != "order"]
    return [row for row in found if all(isinstance(row.get(name), str) for name in needed)]


def records_csv(records: Iterable[Record]) -> str:
    """The content of results/records.csv: it follows from the records."""
    found = rows(records)
    columns = columns_of(found)
    lines = [
        [csv_text(field) if isinstance(field, str) else field for field in (getattr(row, name) for name in columns[:-1])]
        + ["" if row.accuracy is None else f"{row.accuracy:.6f}"]
        for row in found
    ]
    return csv_lines([columns, *lines])


def csv_lines(lines: Iterable[Sequence]) -> str:
    """Lines as CSV (RFC 4180 quoting, one newline at the end of each line; None is empty)."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def csv_text(text: str) -> str:
    """A name that no spreadsheet takes for a formula: one that starts like a formula gets a leading apostrophe."""
    return "'" + text if text[:1] in tuple("=+-@\t\r\n") else text
