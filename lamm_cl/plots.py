"""Records -> figures: curves, accuracy matrices, what was forgotten, what it cost. PNG, SVG and PDF.

One style for all: drawn at the size of a page, so that 7 pt stays 7 pt; every method keeps its colour, marker and line
style in every figure (they differ in shape, too: the figures survive greyscale and colour blindness). Matplotlib's
objects are used without pyplot and without changing its settings; the same records give the same bytes.
"""

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lamm_cl import metrics, palette
from lamm_cl.errors import UserError
from lamm_cl.files import write_atomic
from lamm_cl.records import Record, Runs, Unfit, by_size, runs_in

STYLE = {
    "font.size": 7.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 8,
    "legend.title_fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid.axis": "y",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.2,
    "text.parse_math": False,  # a name may hold a $
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
    "svg.hashsalt": "lamm-cl",  # without it the ids inside an SVG change from run to run
}
DOTTED, DASHED, DASH_DOT, DASH_DOT_DOT = (0, (1, 1)), (0, (4, 1.2)), (0, (4, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1))
DASHES = (DOTTED, "-", DASHED, DASH_DOT, DASH_DOT_DOT, "-", DASHED, DASH_DOT)
SOURCE_DASHES = ("-", DASHED, DOTTED, DASH_DOT)  # with several results folders, dashes tell the folders apart
PANELS_PER_ROW = 5
WIDTH = 7.0  # inches: the text of a two-column page
SMALL = 6.5  # pt: the numbers inside panels
UNLEARNED = "#f1f1f1"
MOST_CLASSES = 12  # in a panel of class drops
DROPS_PER_ROW = 3
MOST_SETS = 3  # with more experiences than this, sets do not get a row of panels each
ALL_SETS = "accuracy on all\nsets learned (%)"
Values = list[np.ndarray]  # one array per finished seed


@dataclass(frozen=True)
class Curve:
    """How one method of one results folder is drawn, everywhere in a figure."""

    runs: Runs
    source: int  # which results folder
    folder: str  # and its name
    name: str  # of the method
    colour: str
    marker: str
    dashes: object
    method: str

    def style(self) -> dict:
        """Matplotlib's words for it; the first results folder has filled markers, the others hollow ones."""
        hollow = {"markerfacecolor": "white"} if self.source else {}
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dashes, **hollow}

    def values(self, place: str | None, metric: Callable[[Record], np.ndarray]) -> Values:
        """The metric on a dataset, or averaged over all of them (None), for each finished seed."""
        by_seed = self.runs.values(place, self.method, metric) if place else self.runs.averages(self.method, metric)
        return [np.asarray(value) for value in by_seed.values()]


def plot_forgetting(
    results: Sequence[Path], out_stem: Path, label_space: str | None = None, shots: int | str | None = None
) -> list[Path]:
    """Accuracy of each set against the number of experiences learned: out_stem.png, .svg and .pdf.

    A column of panels per dataset, and one for their average; rows as in `_rows`. Bands are one standard deviation over
    seeds; the numbers at the right edge are the change since the set was learned. `shots`: which, if the records hold
    several (default: the most). `label_space`: default own, if scored.
    """
    compared = _compared(results, shots)
    label_space = label_space or _space(compared, "own")
    curves = _curves(compared)
    T = max(runs.experiences for runs in compared)
    rows = _rows(T, label_space)
    numbered = T > 1 and len(compared) == 1 and len(curves) <= len(palette.KNOWN)
    with matplotlib.rc_context(STYLE):
        figure, grid = _panels(_places(compared), list(rows), "experiences learned")
        for (place, row), axes in grid.items():
            learned, metric = rows[row]
            ends = []
            for curve in curves:
                mean, std = _mean_std(curve.values(place, metric))
                _line(axes, curve, np.arange(mean.size), mean, std)
                ends += [(mean[-1], mean[-1] - mean[learned], curve.colour)] if mean.size > learned + 1 else []
            _experience_axis(axes, T, learned)
            _limits(axes)
            if row != ALL_SETS and numbered:
                _write_changes(axes, ends)
        note = f"{label_space} label space, {_shots(compared)}, {_seeds(curves)}"
        note += "\nnumbers: change since the set was learned (points)" if numbered else ""
        _legend(figure, curves, note, [("set not yet learned", Patch(facecolor=UNLEARNED))])
        return _save(figure, out_stem)


def plot_incremental(
    results: Sequence[Path], out_stem: Path, label_space: str | None = None, shots: int | str | None = None
) -> list[Path]:
    """Accuracy on all classes learned so far against the number of experiences learned; joint label space, if scored.

    The mean of a curve is the average incremental accuracy.
    """
    compared = _compared(results, shots)
    label_space = label_space or _space(compared, "joint")
    curves = _curves(compared)
    T = max(runs.experiences for runs in compared)

    def learned(record: Record) -> np.ndarray:
        return metrics.incremental(record.accuracy(label_space), record.dataset.test_images)

    with matplotlib.rc_context(STYLE):
        figure, grid = _panels(_places(compared), ["accuracy on classes\nlearned so far (%)"], "experiences learned")
        for (place, _), axes in grid.items():
            for curve in curves:
                mean, std = _mean_std(curve.values(place, learned))
                _line(axes, curve, np.arange(1, mean.size + 1), mean, std)
            _experience_axis(axes, T, 0, first=1)
            _limits(axes)
        _legend(figure, curves, f"{label_space} label space, {_shots(compared)}, {_seeds(curves)}")
        return _save(figure, out_stem)


def plot_class_drops(
    results: Sequence[Path], out_stem: Path, label_space: str | None = None, shots: int | str | None = None
) -> list[Path]:
    """Which classes are forgotten: of each dataset the dozen that lost most, on average over the methods.

    In points, since the class was learned; those of the last experience cannot lose. Raises Unfit where no class
    was counted.
    """
    compared = _compared(results, shots)
    label_space = label_space or _space(compared, "own")
    curves = _curves(compared)
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
            axes.set_yticks(-np.arange(len(found)), [_shortened(name) for name, _ in found])
            axes.axvline(0, color="#666666", linewidth=0.8, zorder=1)
            axes.set_title(_wrapped(place))
            axes.set_xlabel("accuracy lost (points)")
        note = f"the classes that lost most since they were learned, {label_space} label space, {_shots(compared)}, "
        _legend(figure, curves, note + _seeds(curves).partition(",")[0])
        return _save(figure, out_stem)


def plot_cost(
    results: Sequence[Path], out_stem: Path, label_space: str | None = None, shots: int | str | None = None
) -> list[Path]:
    """Last accuracy, averaged over the datasets, against the parameters that learn and the seconds of a run."""
    compared = _compared(results, shots)
    label_space = label_space or _space(compared, "joint")
    curves = _curves(compared)
    axes_of = {
        "trainable parameters": lambda record: record.model.trainable[-1],
        "seconds a run": lambda record: sum(record.measured.seconds.values()),
    }

    def last(record: Record) -> float:
        return metrics.last_accuracy(record.accuracy(label_space), record.dataset.test_images)

    with matplotlib.rc_context(STYLE | {"axes.grid.axis": "both"}):
        figure = Figure((5.0, 2.3), layout="constrained")
        for axes, (name, cost) in zip(figure.subplots(1, 2, sharey=True), axes_of.items(), strict=True):
            points = []
            for curve in curves:
                (x, _), (y, error) = (_mean_std(curve.values(None, metric)) for metric in (cost, last))
                if x.size:
                    points.append(float(x))
                    axes.errorbar(x, y, error, **curve.style() | {"linestyle": "none"}, elinewidth=0.8)
            _cost_axis(axes, points)
            axes.set_xlabel(name)
        figure.axes[0].set_ylabel("last accuracy (%)")
        _limits(figure.axes[0])
        note = f"average over datasets, {label_space} label space, {_shots(compared)}, {_seeds(curves)}"
        _legend(figure, curves, note.replace("band:", "bar:"))
        return _save(figure, out_stem)


def plot_matrix(
    results: Sequence[Path], out_stem: Path, label_space: str | None = None, shots: int | str | None = None
) -> list[Path]:
    """Accuracy matrices, mean over seeds: rows experiences learned, columns the set tested; hatched is undefined."""
    compared = _compared(results, shots)
    label_space = label_space or _space(compared, "own")
    curves = _curves(compared)
    datasets = [place for place in _places(compared) if place]
    T = max(runs.experiences for runs in compared)
    with matplotlib.rc_context(STYLE | {"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        size = max(0.9, min(1.6, WIDTH / (len(datasets) + 1)))
        figure = Figure((size * len(datasets) + 1.2, 0.85 * size * len(curves) + 0.6), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
        grid = figure.subplots(len(curves), len(datasets), squeeze=False, sharex="col", sharey=True)
        for curve, row in zip(curves, grid, strict=True):
            for dataset, axes in zip(datasets, row, strict=True):
                image = _matrix(axes, T, curve.values(dataset, lambda record: record.accuracy(label_space)))
            name = curve.name if len(compared) == 1 else f"{curve.name}, {curve.folder}"
            row[0].set_ylabel(_wrapped(name), fontsize=STYLE["axes.titlesize"])
        for dataset, axes in zip(datasets, grid[0], strict=True):
            axes.set_title(_wrapped(dataset))
        figure.supxlabel("set tested", fontsize=STYLE["axes.labelsize"])
        figure.supylabel("experiences learned", fontsize=STYLE["axes.labelsize"])
        bar = figure.colorbar(image, ax=grid, fraction=0.03, aspect=min(60, 8 * len(curves)), pad=0.02)
        bar.set_label(f"accuracy (%), {label_space} label space, {_shots(compared)}")
        return _save(figure, out_stem)


def plot_few_shot(results: Sequence[Path], out_stem: Path, label_space: str | None = None) -> list[Path]:
    """Accuracy on all classes after the last experience against training images per class; a panel per dataset.

    Gao et al. (LAMM), AAAI 2024, Figure 3.
    """
    folders = [runs_in(folder) for folder in results]
    every = [runs for folder in folders for runs in folder]
    label_space = label_space or _space(every, "joint")
    levels = sorted({runs.shots for runs in every}, key=by_size)
    curves = _curves([_at_any_shots(folder) for folder in folders])

    def last(record: Record) -> float:
        return metrics.last_accuracy(record.accuracy(label_space), record.dataset.test_images)

    with matplotlib.rc_context(STYLE):
        figure, grid = _panels(_places(every), ["accuracy (%)"], "images per class")
        for (place, _), axes in grid.items():
            for curve in curves:
                points = [
                    (levels.index(runs.shots), *_mean_std(values))
                    for runs in folders[curve.source]
                    if (values := replace(curve, runs=runs).values(place, last))
                ]
                _line(axes, curve, *np.array(points, dtype=float).reshape(-1, 3).T)
            axes.set_xticks(range(len(levels)), [str(level) for level in levels])
            _limits(axes)
        _legend(figure, curves, f"after the last experience, {label_space} label space, {_seeds(curves)}")
        return _save(figure, out_stem)


FIGURES = {  # kind -> (what draws it, file name); the matrix last: where it is, the others are
    "forgetting": (plot_forgetting, "forgetting_curves"),
    "incremental": (plot_incremental, "incremental_curves"),
    "few-shot": (plot_few_shot, "few_shot"),
    "class-drops": (plot_class_drops, "class_drops"),
    "cost": (plot_cost, "accuracy_cost"),
    "matrix": (plot_matrix, "accuracy_matrix"),
}


# What is compared


def _compared(results: Sequence[Path], shots: int | str | None) -> list[Runs]:
    """The runs of each results folder at one number of shots. Raises UserError where a folder has none at it."""
    compared = []
    for folder in results:
        found = {runs.shots: runs for runs in runs_in(folder)}
        if shots is not None and shots not in found:
            raise UserError(f"{folder}: no runs with {shots} shots; there are {', '.join(map(str, found))}")
        compared.append(found[shots] if shots is not None else list(found.values())[-1])
    return compared


def _at_any_shots(folder: list[Runs]) -> Runs:
    """All methods of a folder, also those that were not run at its most shots: for names and styles."""
    methods = dict.fromkeys(method for runs in folder for method in runs.methods)
    return replace(
        folder[-1], methods=tuple(methods), records={k: v for runs in folder for k, v in runs.records.items()}
    )


def _curves(compared: Sequence[Runs]) -> list[Curve]:
    """One per method and results folder, in the stable order of the methods that gives them colour and marker."""
    methods = {method for runs in compared for method in runs.methods}
    scenarios = [runs.scenario for runs in compared]
    curves = []
    for i, method in enumerate(palette.ordered(methods)):
        for source, runs in enumerate(compared):
            if method not in runs.methods:
                continue
            folder = runs.scenario if scenarios.count(runs.scenario) == 1 else f"{runs.scenario} (folder {source + 1})"
            dashes = SOURCE_DASHES[source % len(SOURCE_DASHES)] if len(compared) > 1 else DASHES[i % len(DASHES)]
            look = (palette.colour(i), palette.marker(i), dashes)
            curves.append(Curve(runs, source, folder, runs.name(method), *look, method))
    return curves


def _places(compared: Sequence[Runs]) -> list[str | None]:
    """The datasets of all folders, and None, their average, if there are several and a method has them all."""
    datasets = list(dict.fromkeys(dataset for runs in compared for dataset in runs.datasets))
    averaged = any(runs.averages(method, lambda record: 0.0) for runs in compared for method in runs.methods)
    return [*datasets, None] if len(datasets) > 1 and averaged else datasets


def _rows(T: int, label_space: str) -> dict[str, tuple[int, Callable[[Record], np.ndarray]]]:
    """The rows of a forgetting figure: name -> (experience that teaches it, record -> accuracies after 0..T of them).

    A row per set for up to three experiences, else for Set 1 only, with one for all sets learned so far; in the joint
    label space that one takes the place of the last set, which would be a single point.
    """

    def on_set(j: int) -> Callable[[Record], np.ndarray]:
        return lambda record: record.accuracy(label_space)[:, j - 1]

    def on_all(record: Record) -> np.ndarray:
        return np.array([np.nan, *metrics.incremental(record.accuracy(label_space), record.dataset.test_images)])

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
        names = names or (records[0].dataset.classes if records else ())
        same = [record.class_drops(label_space) for record in records if record.dataset.classes == names]
        lost.append(np.mean(same, axis=0) if same else np.full(len(names), np.nan))
    lost = np.array([each if len(each) else np.full(len(names), np.nan) for each in lost])
    defined = ~np.isnan(lost).all(axis=0)
    mean = np.full(len(names), -np.inf)
    mean[defined] = np.nanmean(lost[:, defined], axis=0)
    worst = [int(c) for c in np.argsort(-mean, kind="stable") if mean[c] != 0 and defined[c]][:MOST_CLASSES]
    return [(names[c], [float(x) for x in lost[:, c]]) for c in worst]


def _space(compared: Sequence[Runs], preferred: str) -> str:
    """The preferred label space, if all was scored in it."""
    found = [runs.space(preferred) for runs in compared]
    return preferred if all(space == preferred for space in found) else found[0]


def _mean_std(values: Values) -> tuple[np.ndarray, np.ndarray]:
    """Over seeds; the deviation (ddof = 1) of a single seed is drawn as none. Empty where there is no value."""
    if not values:
        return np.empty(0), np.empty(0)
    return np.mean(values, axis=0), np.std(values, axis=0, ddof=1) if len(values) > 1 else np.zeros_like(values[0])


def _seeds(curves: Sequence[Curve]) -> str:
    """How many seeds stand behind the curves: "mean of 3 seeds, ..."."""
    counts = {len(by_seed) for curve in curves for by_seed in curve.runs.records.values()}
    number = str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return "1 seed" if number == "1" else f"mean of {number} seeds, band: one standard deviation"


def _shots(compared: Sequence[Runs]) -> str:
    return " or ".join(dict.fromkeys(str(runs.shots) for runs in compared)) + " shots"


# What is drawn


def _panels(
    places: Sequence[str | None], rows: Sequence[str], x_label: str
) -> tuple[Figure, dict[tuple[str | None, str], Axes]]:
    """A column of panels per place, a row per name; long lists of places are broken into bands of such rows."""
    bands = -(-len(places) // PANELS_PER_ROW)
    columns = -(-len(places) // bands)
    width = {1: 3.6, 2: 5.0}.get(columns, WIDTH)
    titles = max(_lines(_wrapped(place or "")) for place in places)
    figure = Figure((width, 0.3 + bands * (0.1 + 0.15 * titles + 1.35 * len(rows))), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.03)
    axes = figure.subplots(bands * len(rows), columns, squeeze=False)
    for unused in range(len(places), bands * columns):
        for r in range(len(rows)):
            axes[unused // columns * len(rows) + r, unused % columns].set_axis_off()
    grid = {}
    for i, place in enumerate(places):
        for r, row in enumerate(rows):
            panel = grid[place, row] = axes[i // columns * len(rows) + r, i % columns]
            if r == 0:
                panel.set_title(_wrapped(place or "average"), fontstyle="normal" if place else "italic")
            if i % columns == 0:
                panel.set_ylabel(row)
            if r == len(rows) - 1:
                panel.set_xlabel(x_label)
    return figure, grid


def _line(axes: Axes, curve: Curve, x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> None:
    if not len(x):  # no finished run here
        return
    axes.plot(x, mean, **curve.style(), markevery=max(1, len(x) // 6), clip_on=False, zorder=3)
    axes.fill_between(x, mean - std, mean + std, color=curve.colour, alpha=0.15, linewidth=0)


def _experience_axis(axes: Axes, T: int, learned: int, first: int = 0) -> None:
    """first..T, in whole numbers; grey while the set is not yet learned."""
    axes.set_xlim(first - 0.04 * T, 1.04 * T)
    axes.axvspan(-0.04 * T, learned, color=UNLEARNED, linewidth=0, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))


def _cost_axis(axes: Axes, costs: list[float]) -> None:
    """Logarithmic, with room for the methods that cost nothing."""
    smallest, largest = min((x for x in costs if x > 0), default=1.0), max([*costs, 1.0])
    axes.set_xscale("symlog", linthresh=smallest / 3, linscale=0.2)
    axes.set_xlim(-smallest / 12 if min(costs, default=1) <= 0 else smallest / 2, 2 * largest)
    powers = 10.0 ** np.arange(np.ceil(np.log10(smallest / 2)), np.ceil(np.log10(2 * largest)))
    ticks = [0.0, *powers] if min(costs, default=1) <= 0 else [*powers]
    units = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))
    names = [next((f"{x / size:g}{unit}" for size, unit in units if x >= size), f"{x:g}") for x in ticks]
    axes.set_xticks(ticks, names)
    axes.minorticks_off()


def _limits(axes: Axes) -> None:
    """Never so close that noise looks like a difference, never beyond what an accuracy can be by much."""
    low, high = axes.get_ylim()
    middle, half = (low + high) / 2, max((high - low) / 2, 5)
    low, high = max(middle - half, -2), min(middle + half, 102)
    places = MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True).tick_values(low, high)
    axes.set_yticks([place for place in places if low <= place <= high and 0 <= place <= 100])
    axes.set_ylim(low, high)


def _write_changes(axes: Axes, ends: list[tuple[float, float, str]]) -> None:
    """(height, change, colour) -> the change beside the line's end, moved up or down where two would overlap."""
    low, high = axes.get_ylim()
    gap = 0.095 * (high - low)
    heights: list[float] = []
    ordered = sorted(end for end in ends if not np.isnan(end[0]))
    for height, *_ in ordered:
        heights.append(max(height, heights[-1] + gap) if heights else height)
    over = max(0.0, heights[-1] - high) if heights else 0.0
    for i in reversed(range(len(heights))):  # what was pushed out at the top comes back down
        heights[i] = min(heights[i], (heights[i + 1] if i + 1 < len(heights) else heights[i] - over + gap) - gap)
    for height, (_, change, colour) in zip(heights, ordered, strict=True):
        text = f"{change + 0.0:+.1f}".replace("-", "−") if round(change, 1) else "0.0"
        axes.annotate(
            *(text, (1, height)),
            **{"xycoords": ("axes fraction", "data"), "xytext": (4, 0), "textcoords": "offset points"},
            **{"color": colour, "fontsize": SMALL, "va": "center", "ha": "left"},
        )


def _matrix(axes: Axes, T: int, values: Values) -> AxesImage:
    """One heat map of (T+1, T) cells, hatched where there is no value; returns the image, for the colour bar."""
    mean, _ = _mean_std(values)
    matrix = np.full((T + 1, T), np.nan)
    if values:
        matrix[: len(mean), : len(mean) - 1] = mean
    axes.patch.set(hatch="////", edgecolor="#b5b5b5", linewidth=0)
    image = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=100, aspect="auto", interpolation="none")
    axes.set_xticks(_ticks(T), [str(j + 1) for j in _ticks(T)])
    axes.set_yticks(_ticks(T + 1))
    axes.tick_params(length=0)
    if T <= 5:  # the numbers fit
        for (i, j), accuracy in np.ndenumerate(matrix):
            if not np.isnan(accuracy):
                colour = "black" if accuracy > 60 else "white"
                axes.text(j, i, f"{accuracy:.1f}", ha="center", va="center", color=colour, fontsize=SMALL)
    return image


def _ticks(n: int) -> list[int]:
    """At most six of 0..n-1, evenly spaced from 0."""
    return list(range(0, n, -(-n // 6)))


def _legend(figure: Figure, curves: Sequence[Curve], note: str, key: Sequence[tuple[str, Artist]] = ()) -> None:
    """Below everything, so that it covers nothing: methods, results folders if there are several, then `key`."""
    entries = {_wrapped(curve.name, 40): Line2D([], [], **curve.style()) for curve in reversed(curves)}
    entries = dict(reversed(entries.items()))
    if len({curve.source for curve in curves}) > 1:
        neutral = {curve.source: replace(curve, colour="black", marker="o") for curve in curves}
        for _, curve in sorted(neutral.items()):
            entries[_wrapped(curve.folder, 40)] = Line2D([], [], **curve.style())
    entries |= dict(key)
    inches = [0.65 + 0.065 * max(map(len, name.split("\n"))) for name in entries]
    rows = next(
        n for n in range(1, 99) if n >= len(inches) or sum(map(max, _chunks(inches, n))) <= figure.get_figwidth()
    )
    columns = _chunks([*entries], rows)
    note = "\n".join(textwrap.fill(line, int(16 * figure.get_figwidth())) for line in note.split("\n"))
    lines = _lines(note) + sum(max(map(_lines, row)) for row in zip_longest(*columns, fillvalue=""))
    figure.set_figheight(figure.get_figheight() + 0.17 * lines)
    legend = figure.legend(entries.values(), entries, loc="outside lower center", ncols=len(columns), columnspacing=1.4)
    legend.set_title(note)
    legend.get_title().set_multialignment("center")


def _lines(text: str) -> int:
    return text.count("\n") + 1


def _chunks(items: list, n: int) -> list[list]:
    return [items[i : i + n] for i in range(0, len(items), n)]


def _wrapped(name: str, width: int = 16) -> str:
    """A name of any length in at most three lines."""
    return "\n".join(
        textwrap.wrap("".join(c for c in name if c.isprintable() or c.isspace()), width, max_lines=3, placeholder=" …")
    )


def _shortened(name: str) -> str:
    """A name of any length in one line."""
    return textwrap.shorten("".join(c if c.isprintable() else " " for c in name)[:200], 40, placeholder=" …")[:40]


def _save(figure: Figure, out_stem: Path) -> list[Path]:
    """out_stem.png, .svg and .pdf, each in one step and without a date."""
    undated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    paths = []
    for extension, metadata in undated.items():
        content = io.BytesIO()
        figure.savefig(content, format=extension, metadata=metadata)
        paths.append(out_stem.with_name(f"{out_stem.name}.{extension}"))
        write_atomic(paths[-1], content.getvalue())
    return paths
