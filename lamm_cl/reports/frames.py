"""Records and tables as pandas DataFrames, for scripts and notebooks."""

from collections.abc import Iterable, Sequence

import pandas as pd

from lamm_cl.reports.table import BOUND, MEASURED, Table
from lamm_cl.results.csv import Row, columns_of, rows
from lamm_cl.results.record import Record


def of_records(records: Iterable[Record]) -> pd.DataFrame:
    """One row a count, as records.csv; correct is of whole numbers that may be missing."""
    found = rows(records)
    frame = pd.DataFrame(found, columns=list(Row._fields))[columns_of(found)]
    return frame.astype({"correct": "Int64", "total": "int64", "accuracy": "float64"})


def of_tables(tables: Sequence[Table], value: str) -> pd.DataFrame:
    """The measured numbers of tables of one kind: value: mean, std, orders, seeds.

    What differs among the tables' scopes leads the index, as in the CSV files; of a summary, the whole table.
    """
    tables = [table.whole or table for table in tables]
    varying = [key for i, (key, first) in enumerate(tables[0].scope) if any(t.scope[i][1] != first for t in tables)]
    heads, index, lines = [*varying, *tables[0].heads], [], []
    for table in tables:
        scope = [dict(table.scope)[key] for key in varying]
        for line in (line for line in table.lines if line.origin in (MEASURED, BOUND)):
            index.append((*scope, *(label.key for label in line.labels)))
            lines.append({column.key: getattr(n, value) for column, n in zip(table.columns, line.numbers, strict=True)})
    columns = list(dict.fromkeys(column.key for table in tables for column in table.columns))
    at = pd.MultiIndex.from_tuples(index, names=heads) if len(heads) > 1 else pd.Index([i for i, in index], name=heads[0])
    return pd.DataFrame(lines, index=at, columns=columns)
