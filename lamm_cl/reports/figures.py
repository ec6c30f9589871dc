"""Records -> figures: curves, accuracy matrices, what was forgotten, what it cost. PNG, SVG and PDF.

The same records give the same bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lamm_cl.reports import palette
from lamm_cl.reports.chance import chance_average, chance_on
from lamm_cl.reports.confusion import plot_confusion
from lamm_cl.reports.curves import (
    Curve,
    at_any_shots,
    bounds_of,
    compared_at,
    curves_of,
    mean_std,
    seeds_behind,
    shots_of,
    space_of,
)
from lamm_cl.reports.drawing import (
    CHANCE_KEY,
    STYLE,
    UNLEARNED,
    WIDTH,
    cost_axis,
    draw_bound,
    draw_chance,
    draw_line,
    draw_ranks,
    experience_axis,
    legend_below,
    panels_for,
    save_figure,
    set_limits,
    shortened,
    wrapped,
    wrapped_note,
    write_changes,
)
from lamm_cl.reports.matrices import CELL, MATRICES, colour_bar, draw_matrix, matrix_panels, scale_of
from lamm_cl.reports.measures import effort_of, incremental_in, last_in
from lamm_cl.reports.ranking import ranking
from lamm_cl.results.record import Record, by_size
from lamm_cl.results.runs import Runs, Unfit, runs_in

MOST_CLASSES = 12  # in a panel of class drops
DROPS_PER_ROW = 3
MOST_NAMED = 6  # sets of a chain in a matrix
MOST_SETS = 3  # with more experiences than this, sets do not get a row of panels each
ALL_SETS = "accuracy on all\nsets learned (%)"


def plot_forgetting(
    results: Sequence[Path], out_stem: Path, label_space: str | None = None, shots: int | str | None = None
) -> list[Path]:
    """Accuracy of each set against the number of experiences learned: out_stem.png, .svg and .pdf.

    A column of panels per dataset, and one for their average; rows as in `_rows`. Bands are one standard deviation over
    seeds; the numbers at the right edge are the change since the set was learned. `shots`: which, if the records hold
    several (default: the most). `label_space`: default own, if scored.
    """
    compared = compared_at(results, shots)
    label_space = label_space or space_of(compared, "own")
    curves = curves_of(compared)
    T = max(runs.experiences for runs in compared)
    rows = _rows(T, label_space)
    numbered = T > 1 and len(compared) == 1 and len(curves) <= len(palette.KNOWN)
    with matplotlib.rc_context(STYLE):
        figure, grid = panels_for(_places(compared), list(rows), "experiences learned")
        lines = False
        for (place, row), axes in grid.items():
            learned, metric = rows[row]
            ends = []
            for curve in curves:
                mean, std = mean_std(curve.values(place, metric))
                draw_line(axes, curve, np.arange(mean.size), mean, std)
                ends += [(mean[-1], mean[-1] - mean[learned], curve.colour)] if mean.size > learned + 1 else []
            experience_axis(axes, T, learned)
            set_limits(axes)
            lines |= draw_chance(axes, np.arange(T + 1), _chance(compared, place, metric))
            if row != ALL_SETS and numbered:
                write_changes(axes, ends)
        note = f"{label_space} label space, {shots_of(compared)}, {seeds_behind(curves)}"
        note += "\nnumbers: change since the set was learned (points)" if numbered else ""
        key = [("set not yet learned", Patch(facecolor=UNLEARNED)), *([CHANCE_KEY] if lines else [])]
        legend_below(figure, curves, note, key)
        return save_figure(figure, out_stem)


def plot_incremental(
    results: Sequence[Path], out_stem: Path, label_space: str | None = None, shots: int | str | None = None
) -> list[Path]:
    """Accuracy on all classes learned so far against the number of experiences learned; joint label space, if scored.

    The mean of a curve is the average incremental accuracy.
    """
    compared = compared_at(results, shots)
    label_space = label_space or space_of(compared, "joint")
    curves = curves_of(compared)
    T = max(runs.experiences for runs in compared)
    learned = incremental_in(label_space)
    with matplotlib.rc_context(STYLE):
        figure, grid = panels_for(_places(compared), ["accuracy on classes\nlearned so far (%)"], "experiences learned")
        lines = False
        for (place, _), axes in grid.items():
            for curve in curves:
                mean, std = mean_std(curve.values(place, learned))
                draw_line(axes, curve, np.arange(1, mean.size + 1), mean, std)
                for bound in bounds_of(curve) if label_space == "joint" else ():
                    draw_bound(axes, curve, mean_std(bound.values(place, learned))[0], T)
            experience_axis(axes, T, 0, first=1)
            set_limits(axes)
            lines |= draw_chance(axes, np.arange(1, T + 1), _chance(compared, place, learned))
        note = f"{label_space} label space, {shots_of(compared)}, {seeds_behind(curves)}"
        if label_space == "joint" and any(bounds_of(curve) for curve in curves):
            note += "\nthin lines: the same methods on all classes at once"
        legend_below(figure, curves, note, [CHANCE_KEY] if lines else [])
        return save_figure(figure, out_stem)


def plot_class_drops(
    results: Sequence[Path], out_stem: Path, label_space: str | None = None, shots: int | str | None = None
) -> list[Path]:
    """Which classes are forgotten: of each dataset the dozen that lost most, on average over the methods.

    In points, since the class was learned; those of the last experience cannot lose. Raises Unfit where no class
    was counted.
    """
    compared = compared_at(results, shots)
    label_space = label_space or space_of(compared, "own")
    curves = curves_of(compared)
    drops = {place: _drops(curves, place, label_space) for place in _places(compared) if place}
    drops = {place: found for place, found in drops.items() if found}
    if not drops:
        raise Unfit(f"{results[0]}: class-drops: no counts per class, or nothing changed")
    with matplotlib.rc_context(STYLE | {"axes.grid.axis": "x"}):
        rows = -(-len(drops) // DROPS_PER_ROW)
        columns = -(-len(drops) // rows)
        figure = Figure((max(3.6, WIDTH * columns / DROPS_PER_ROW), 0.4 + 2.3 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(drops) :]:
            axes.set_axis_off()
        for axes, (place, found) in zip(grid.flat, drops.items(), strict=False):
            for i, (_, lost) in enumerate(found):
                for curve, points in zip(curves, lost, strict=True):
                    axes.plot(points, -i, **curve.style() | {"linestyle": "none"})
            axes.set_yticks(-np.arange(len(found)), [shortened(name) for name, _ in found])
            axes.axvline(0, color="#666666", linewidth=0.8, zorder=1)
            axes.set_title(wrapped(place))
            axes.set_xlabel("accuracy lost (points)")
        note = f"the classes that lost most since they were learned, {label_space} label space, {shots_of(compared)}, "
        legend_below(figure, curves, note + seeds_behind(curves).partition(",")[0])
        return save_figure(figure, out_stem)


def plot_cost(
    results: Sequence[Path], out_stem: Path, label_space: str | None = None, shots: int | str | None = None
) -> list[Path]:
    """Last accuracy, averaged over the datasets, against the parameters that learn and the work of a run.

    Multiply-adds, where every run counted them; else seconds, which say how busy the machine was.
    """
    compared = compared_at(results, shots)
    label_space = label_space or space_of(compared, "joint")
    curves = curves_of(compared)
    axes_of = dict([("trainable parameters", lambda record: record.model.trainable[-1]), effort_of(compared)])
    last = last_in(label_space)
    with matplotlib.rc_context(STYLE | {"axes.grid.axis": "both"}):
        figure = Figure((5.0, 2.3), layout="constrained")
        for axes, (name, cost) in zip(figure.subplots(1, 2, sharey=True), axes_of.items(), strict=True):
            points = []
            for curve in curves:
                (x, _), (y, error) = (mean_std(curve.values(None, metric)) for metric in (cost, last))
                if x.size:
                    points.append(float(x))
                    axes.errorbar(x, y, error, **curve.style() | {"linestyle": "none"}, elinewidth=0.8, clip_on=False)
            cost_axis(axes, points)
            axes.set_xlabel(name.replace(", ", "\n"))
        figure.axes[0].set_ylabel("last accuracy (%)")
        set_limits(figure.axes[0])
        note = f"average over datasets, {label_space} label space, {shots_of(compared)}, {seeds_behind(curves)}"
        legend_below(figure, curves, note.replace("band:", "bar:"))
        return save_figure(figure, out_stem)


def plot_matrix(
    results: Sequence[Path], out_stem: Path, label_space: str | None = None, shots: int | str | None = None
) -> list[Path]:
    """Accuracy matrices, mean over seeds: rows experiences learned, columns the set tested; hatched is undefined.

    A row of panels a method and a column a dataset; of one dataset, methods side by side. Colours reach from the least to the
    largest accuracy, in tens; numbers stand where they fit.
    """
    compared = compared_at(results, shots)
    label_space = label_space or space_of(compared, "own")
    curves = curves_of(compared)
    datasets = [place for place in _places(compared) if place]
    T = max(runs.experiences for runs in compared)
    names = [curve.name if len(compared) == 1 else f"{curve.name}, {curve.folder}" for curve in curves]
    values = [[curve.values(d, lambda record: record.accuracy(label_space)) for d in datasets] for curve in curves]
    scale = scale_of([mean_std(each)[0] for row in values for each in row])
    with matplotlib.rc_context(STYLE | MATRICES):
        figure, grid, size = matrix_panels(names, datasets, CELL * T)
        for row, cells in zip(grid, values, strict=True):
            for axes, each in zip(row, cells, strict=True):
                image = draw_matrix(axes, T, each, scale, size / T)
        for dataset, axes in ((d, axes) for row in grid for d, axes in zip(datasets, row, strict=True)):
            if sets := _sets(compared, dataset):
                axes.set_xticks(range(len(sets)), [shortened(each) for each in sets], rotation=40, ha="right")
        figure.supxlabel("set tested", fontsize=STYLE["axes.labelsize"])
        figure.supylabel("experiences learned", fontsize=STYLE["axes.labelsize"])
        colour_bar(figure, image, f"accuracy (%), {label_space} label space, {shots_of(compared)}")
        return save_figure(figure, out_stem)


def plot_few_shot(results: Sequence[Path], out_stem: Path, label_space: str | None = None) -> list[Path]:
    """Accuracy on all classes after the last experience against training images per class; a panel per dataset.

    Gao et al. (LAMM), AAAI 2024, Figure 3.
    """
    folders = [runs_in(folder) for folder in results]
    every = [runs for folder in folders for runs in folder]
    label_space = label_space or space_of(every, "joint")
    levels = sorted({runs.shots for runs in every}, key=by_size)
    curves = curves_of([at_any_shots(folder) for folder in folders])
    last = last_in(label_space)
    with matplotlib.rc_context(STYLE):
        figure, grid = panels_for(_places(every), ["accuracy (%)"], "images per class")
        lines = False
        for (place, _), axes in grid.items():
            for curve in curves:
                points = [
                    (levels.index(runs.shots), *mean_std(values))
                    for runs in folders[curve.source]
                    if (values := replace(curve, runs=runs).values(place, last))
                ]
                draw_line(axes, curve, *np.array(points, dtype=float).reshape(-1, 3).T)
            axes.set_xticks(range(len(levels)), [str(level) for level in levels])
            set_limits(axes)
            guessed = _chance(every, place, last)
            lines |= draw_chance(axes, np.arange(len(levels)), np.full(len(levels), np.nan if guessed is None else guessed))
        note = f"after the last experience, {label_space} label space, {seeds_behind(curves)}"
        legend_below(figure, curves, note, [CHANCE_KEY] if lines else [])
        return save_figure(figure, out_stem)


def plot_critical_difference(
    results: Sequence[Path], out_stem: Path, label_space: str | None = None, shots: int | str | None = None
) -> list[Path]:
    """Average ranks by last accuracy over the datasets; a bar joins methods that are not told apart (Nemenyi, 5 %).

    Demšar, JMLR 2006, Figure 1. Raises Unfit with fewer than 2 datasets or 3 methods.
    """
    compared = compared_at(results, shots)
    label_space = label_space or space_of(compared, "joint")
    curves = curves_of(compared)
    found = ranking([(curve.runs, curve.method) for curve in curves], last_in(label_space), "critical-difference")
    shown = [curve for curve in curves if (curve.runs, curve.method) in found.entries]
    names = [curve.name if len(compared) == 1 else f"{curve.name}, {curve.folder}" for curve in shown]
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure((5.0, 1.0 + 0.17 * len(shown)), layout="constrained")
        draw_ranks(figure.subplots(), found.ranks, names, [curve.colour for curve in shown])
        told = f"average rank by last accuracy, {label_space} label space, {shots_of(compared)}"
        left_out = [runs.name(method) for runs, method in found.left_out]
        told += f"; not on every dataset: {', '.join(map(shortened, left_out))}" if left_out else ""
        note = (told, *found.told([shortened(name) for name in names]))
        figure.supxlabel("\n".join(wrapped_note(line, figure) for line in note), fontsize=STYLE["font.size"])
        return save_figure(figure, out_stem)


FIGURES = {  # kind -> (what draws it, file name); the matrix last: where it is, the others are
    "forgetting": (plot_forgetting, "forgetting_curves"),
    "incremental": (plot_incremental, "incremental_curves"),
    "few-shot": (plot_few_shot, "few_shot"),
    "class-drops": (plot_class_drops, "class_drops"),
    "critical-difference": (plot_critical_difference, "critical_difference"),
    "cost": (plot_cost, "accuracy_cost"),
    "confusion": (plot_confusion, "confusion_matrix"),
    "matrix": (plot_matrix, "accuracy_matrix"),
}


def _places(compared: Sequence[Runs]) -> list[str | None]:
    """The datasets of all folders, and None, their average, if there are several and a method has them all."""
    datasets = list(dict.fromkeys(dataset for runs in compared for dataset in runs.datasets))
    averaged = any(runs.averages(method, lambda record: 0.0) for runs in compared for method in runs.methods)
    return [*datasets, None] if len(datasets) > 1 and averaged else datasets


def _chance(compared: Sequence[Runs], place: str | None, metric: Callable[[Record], np.ndarray]) -> np.ndarray | None:
    """The metric of guessing; None where folders, or the datasets of an average, have no one curve of it."""
    found = [runs for runs in compared if place is None or place in runs.datasets]
    each = [chance_average(runs, metric) if place is None else chance_on(runs, place, metric) for runs in found]
    same = each and all(np.array_equal(each[0], other, equal_nan=True) for other in each)
    return each[0] if same and not np.isnan(each[0]).all() else None


def _sets(compared: Sequence[Runs], place: str) -> tuple[str, ...]:
    """Of a chain in one order the names of its sets, if there is room for them; else they are numbered."""
    if len(compared) > 1 or compared[0].orders:
        return ()
    data = next(r.dataset for (name, _), found in compared[0].records.items() if name == place for r in found.values())
    return data.chain.names if data.chain and len(data.chain.names) <= MOST_NAMED else ()


def _rows(T: int, label_space: str) -> dict[str, tuple[int, Callable[[Record], np.ndarray]]]:
    """The rows of a forgetting figure: name -> (experience that teaches it, record -> accuracies after 0..T of them).

    A row per set for up to three experiences, else for Set 1 only, with one for all sets learned so far; in the joint
    label space that one takes the place of the last set, which would be a single point.
    """

    def on_set(j: int) -> Callable[[Record], np.ndarray]:
        return lambda record: record.accuracy(label_space)[:, j - 1]

    learned = incremental_in(label_space)

    def on_all(record: Record) -> np.ndarray:
        return np.array([np.nan, *learned(record)])

    each = range(1, T + 1) if T <= MOST_SETS else [1]
    rows = {f"accuracy on\nSet {j} (%)": (j, on_set(j)) for j in each}
    if T <= MOST_SETS and label_space == "own":
        return rows
    return dict([*rows.items()][: max(1, T - 1)]) | {ALL_SETS: (1, on_all)}


def _drops(curves: Sequence[Curve], place: str, label_space: str) -> list[tuple[str, list[float]]]:
    """(class, points lost by each curve), the classes that lost most first; empty where no class was counted.

    NaN for a curve without a finished run here, or with other classes than the first curve's.
    """
    names, lost = (), []
    for curve in curves:
        records = [*curve.runs.records.get((place, curve.method), {}).values()]
        names = names or (records[0].dataset.told if records else ())
        same = [record.class_drops(label_space) for record in records if record.dataset.told == names]
        lost.append(np.mean(same, axis=0) if same else np.full(len(names), np.nan))
    lost = np.array([each if len(each) else np.full(len(names), np.nan) for each in lost])
    defined = ~np.isnan(lost).all(axis=0)
    mean = np.full(len(names), -np.inf)
    mean[defined] = np.nanmean(lost[:, defined], axis=0)
    worst = [int(c) for c in np.argsort(-mean, kind="stable") if mean[c] != 0 and defined[c]][:MOST_CLASSES]
    return [(names[c], [float(x) for x in lost[:, c]]) for c in worst]
