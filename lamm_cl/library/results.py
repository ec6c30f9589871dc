"""What is read from results: counts and tables as pandas DataFrames, figures, comparisons, the page.

RESULTS is everywhere the folder of a scenario, as "results/demo", or a pack of one; several may be given in a list.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pandas import DataFrame

    from lamm_cl.reports.compare import Comparison
    from lamm_cl.results.record import Record

Results = str | Path | Sequence[str | Path]


def records(results: "str | Path | Iterable[Record]") -> "DataFrame":
    """All counts, one a row: scenario, dataset, method, shots, seed, label_space (own, joint), trained (experiences learned,
    0: none), tested (from 1), correct and total (images), accuracy (%).

    results: a folder or pack, or the records that `run` gave.  correct (whole numbers, Int64) and accuracy are missing where a
    class has no score yet.  Raises UserError where there are no records, or damaged ones.

    >>> import lamm_cl
    >>> frame = lamm_cl.records("results/demo")
    >>> own = frame.query("label_space == 'own' and trained == 2")
    >>> own.groupby("method").accuracy.mean().round(0).to_dict()  # %
    {'zero-shot': 46.0}
    """
    from lamm_cl.reports.frames import of_records
    from lamm_cl.results.runs import records_in
    from lamm_cl.results.stored import nothing_in

    if not isinstance(results, str | Path):
        return of_records(results)
    found = records_in(Path(results))
    if not found:
        raise nothing_in(Path(results))
    return of_records(found)


def table(results: Results, kind: str = "degradation", value: Literal["mean", "std", "orders", "seeds"] = "mean"
          ) -> "DataFrame":  # fmt: skip
    """A table of `lamm-cl table`, measured rows alone: labels as the index, a column a number.

    value: the mean over seeds (%, or points), its standard deviation (the sample's), that over class orders where there are
    several, or how many runs it is over; NaN is undefined. kind: degradation, degradation-per-dataset, incremental, base-to-
    new, few-shot, ablation, domain-generalisation, ranks, cost. Raises UserError for a kind that is unknown or does not fit
    the runs.

    >>> import lamm_cl
    >>> float(lamm_cl.table("results/demo", "incremental").loc[("digits", "own", "zero-shot"), "last"].round())
    46.0
    """
    from lamm_cl.errors import UserError, did_you_mean
    from lamm_cl.reports.builders import tables
    from lamm_cl.reports.frames import of_tables

    if value not in (known := ("mean", "std", "orders", "seeds")):
        raise UserError(f"no table value {value!r}{did_you_mean(value, known)}; one of {', '.join(known)}")
    return of_tables(tables(_paths(results), kind), value)


def compare(results: Results, baseline: str | None = None) -> "Comparison":
    """Whether a difference is one: `.changes` (sentences: how folders differ) and `.tables`, as `lamm-cl compare` prints them.

    One folder: its other methods minus the baseline (default: the scenario's first).  Several: each method minus the same one
    in the first.  Raises UserError for folders that were not tested alike.

    >>> import lamm_cl
    >>> lamm_cl.compare(["results/demo", "results/demo"]).changes  # nothing differs
    ()
    """
    from lamm_cl.reports.compare import compare as compared

    return compared(_paths(results), baseline)


def report(results: Results, output: str | Path | None = None) -> Path:
    """Write the page of `lamm-cl report`, one HTML file -> its path (default: RESULTS/report.html).

    Needs the extra lamm-cl[report]; UserError says so.

    >>> import lamm_cl
    >>> lamm_cl.report("results/demo").as_posix()
    'results/demo/report.html'
    """
    from lamm_cl.reports.page import page

    paths = _paths(results)
    return Path(page.write_page(paths, Path(output or paths[0] / "report.html")))


def plot_forgetting(results: Results, stem: str | Path, label_space: str | None = None, shots: int | str | None = None
                    ) -> list[Path]:  # fmt: skip
    """Accuracy (%) of each set against the number of experiences learned -> stem.png, .svg, .pdf, as all figures.

    label_space: own or joint (default: the figure's).  shots: which, if there are several (default: the most).
    Raises UserError where the runs do not fit the figure; so do all figures.

    >>> import lamm_cl
    >>> [path.name for path in lamm_cl.plot_forgetting("results/demo", "figures/curves")]
    ['curves.png', 'curves.svg', 'curves.pdf']
    """
    return _drawn("forgetting", results, stem, label_space=label_space, shots=shots)


def plot_incremental(results: Results, stem: str | Path, label_space: str | None = None, shots: int | str | None = None
                     ) -> list[Path]:  # fmt: skip
    """Accuracy (%) on all classes learned so far against the number of experiences learned."""
    return _drawn("incremental", results, stem, label_space=label_space, shots=shots)


def plot_matrix(results: Results, stem: str | Path, label_space: str | None = None, shots: int | str | None = None
                ) -> list[Path]:  # fmt: skip
    """Accuracy matrices (%): a row for each number of experiences learned, a column for each set tested."""
    return _drawn("matrix", results, stem, label_space=label_space, shots=shots)


def plot_class_drops(results: Results, stem: str | Path, label_space: str | None = None, shots: int | str | None = None
                     ) -> list[Path]:  # fmt: skip
    """Which classes were forgotten: those that lost most since they were learned (points)."""
    return _drawn("class-drops", results, stem, label_space=label_space, shots=shots)


def plot_cost(results: Results, stem: str | Path, label_space: str | None = None, shots: int | str | None = None
              ) -> list[Path]:  # fmt: skip
    """Last accuracy (%) against parameters that learn and the work of a run."""
    return _drawn("cost", results, stem, label_space=label_space, shots=shots)


def plot_confusion(results: Results, stem: str | Path, label_space: str | None = None, shots: int | str | None = None
                   ) -> list[Path]:  # fmt: skip
    """Which classes are taken for which after the last experience (% of a class's images), of runs that kept predictions."""
    return _drawn("confusion", results, stem, label_space=label_space, shots=shots)


def plot_critical_difference(results: Results, stem: str | Path, label_space: str | None = None,
                             shots: int | str | None = None) -> list[Path]:  # fmt: skip
    """Average ranks over datasets, and which methods are not told apart (Nemenyi, 5 %)."""
    return _drawn("critical-difference", results, stem, label_space=label_space, shots=shots)


def plot_few_shot(results: Results, stem: str | Path, label_space: str | None = None) -> list[Path]:
    """Last accuracy (%) against training images a class."""
    return _drawn("few-shot", results, stem, label_space=label_space)


def _drawn(kind: str, results: Results, stem: str | Path, **options: object) -> list[Path]:
    from lamm_cl.reports.figures import FIGURES

    draw: Callable[..., list[Path]] = FIGURES[kind][0]
    return draw(_paths(results), Path(stem), **options)


def _paths(results: Results) -> list[Path]:
    return [Path(results)] if isinstance(results, str | Path) else [Path(each) for each in results]
