"""What a table is: columns, rows, cells with mean, standard deviation and number of seeds; best and second."""

from dataclasses import dataclass, replace

import numpy as np

MEASURED, PUBLISHED, DIFFERENCE = "measured", "published", "difference"  # where a row comes from
BOUND, CHANCE = "bound", "chance"
BEST, SECOND = 1, 2


@dataclass(frozen=True)
class Number:
    """One value per run, summed up: one for each seed, with several class orders one for each seed and order.

    Mean NaN: undefined, or no finished run.  std: over seeds, NaN with fewer than two;  orders: the same over class orders.
    """

    mean: float
    std: float
    seeds: int  # runs behind it, of
    expected: int
    rank: int = 0  # BEST or SECOND of its column and group, else 0
    orders: float = np.nan


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
    """One row. Measured cells of one `group` compete for best and second; rows that come from elsewhere do not."""

    labels: tuple[Label, ...]
    numbers: tuple[Number, ...]
    group: str = ""
    origin: str = MEASURED


@dataclass(frozen=True)
class Table:
    """`scope`: what all rows share (scenario, shots); `heads` name the labels' columns, before the numbers' columns.

    `whole`: the table that this one sums up for people; whoever reads it by machine gets that.
    """

    kind: str
    title: str
    scope: tuple[tuple[str, str], ...]
    heads: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    whole: "Table | None" = None


def ranked(table: Table) -> Table:
    """Mark best and second of each column within each group, by the mean as printed; equal means share the mark.

    Two rows at least must compete, and a mean over fewer seeds than another's does not.
    """
    lines = list(table.lines)
    for group in {line.group for line in lines}:
        rows = [i for i, line in enumerate(lines) if line.group == group and line.origin == MEASURED]
        for c, column in enumerate(table.columns):
            numbers = {i: lines[i].numbers[c] for i in rows if not np.isnan(lines[i].numbers[c].mean)}
            most = max((number.seeds for number in numbers.values()), default=0)
            means = {i: column.better * rounded(n.mean, column) for i, n in numbers.items() if n.seeds == most}
            if not column.better or len(means) < 2:
                continue
            ranks = {mean: rank for rank, mean in enumerate(sorted(set(means.values()), reverse=True), start=1)}
            for i, mean in means.items():
                if ranks[mean] <= SECOND:
                    marked = list(lines[i].numbers)
                    marked[c] = replace(marked[c], rank=ranks[mean])
                    lines[i] = replace(lines[i], numbers=tuple(marked))
    return replace(table, lines=tuple(lines))


def rounded(value: float, column: Column) -> float:
    """As printed; no negative zero."""
    return round(value, column.digits) + 0.0
