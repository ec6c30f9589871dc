"""The files that follow from the records of a results folder: records.csv and tables/."""

from collections.abc import Sequence
from pathlib import Path

from lamm_cl.files import write_atomic
from lamm_cl.reports.builders import fitting, of_kind
from lamm_cl.reports.renderers import over_orders, to_csv, to_latex, to_markdown
from lamm_cl.reports.table import Table
from lamm_cl.results.csv import records_csv
from lamm_cl.results.runs import Runs, records_in, runs_in, runs_of


def derived_files(results: Path) -> dict[str, str]:
    """All text that follows from the records of a results folder: name -> content of records.csv and of the tables."""
    records = records_in(results)
    if records and all(record.bound for record in records):  # what they stand beside is not finished
        return {"records.csv": records_csv(records)}
    tables = table_files(runs_of(records, results))
    return {"records.csv": records_csv(records)} | {f"tables/{name}": text for name, text in tables.items()}


def write_tables(results: Path, folder: Path | None = None) -> list[Path]:
    """Write `table_files` to `folder` (default: results/tables)."""
    folder = folder or results / "tables"
    contents = table_files(runs_in(results))
    for name, content in contents.items():
        write_atomic(folder / name, content, within=results if folder == results / "tables" else None)
    return [folder / name for name in contents]


def table_files(folder: Sequence[Runs]) -> dict[str, str]:
    """The files of results/tables: name -> content. The same records give the same bytes.

    degradation.{csv,md,tex} always, and incremental, base_to_new, few_shot, ... where they fit the runs; not cost, which
    every machine measures anew. Values are in %, mean over seeds; `_std` holds standard deviations, `_std_orders` those over
    class orders where there are several, `_seeds` how many runs each mean is over. With several numbers of shots, the CSV
    files begin with a column `shots`, the others hold one table for each.
    """
    shown = fitting(folder)
    degradation, per_dataset = (shown.get(kind) or of_kind(kind, folder) for kind in ("degradation", "degradation-per-dataset"))
    files = _files("degradation", degradation) | {
        "degradation_seeds.csv": to_csv(degradation, "seeds"),
        **_csv("degradation_per_dataset", per_dataset),
    }
    for kind, tables in shown.items():
        if not kind.startswith(("degradation", "cost")):
            files |= _files(kind.replace("-", "_"), tables)
    return files


def _files(stem: str, shown: Sequence[Table]) -> dict[str, str]:
    return _csv(stem, shown) | {f"{stem}.md": to_markdown(shown), f"{stem}.tex": to_latex(shown)}


def _csv(stem: str, shown: Sequence[Table]) -> dict[str, str]:
    files = {f"{stem}.csv": to_csv(shown), f"{stem}_std.csv": to_csv(shown, "std")}
    return files | ({f"{stem}_std_orders.csv": to_csv(shown, "orders")} if over_orders(shown) else {})
