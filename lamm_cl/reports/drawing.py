"""How a figure looks: its style, panels, axes, legend, files.

One style for all: drawn at the size of a page, so that 7 pt stays 7 pt; every method keeps its colour, marker and line
style in every figure (they differ in shape, too: the figures survive greyscale and colour blindness). Matplotlib's
objects are used without pyplot and without changing its settings.
"""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lamm_cl.files import write_atomic
from lamm_cl.reports.curves import Curve
from lamm_cl.reports.statistics import Ranks

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
PANELS_PER_ROW = 5
WIDTH = 7.0  # inches: the text of a two-column page
SMALL = 6.5  # pt: the numbers inside panels
UNLEARNED = "#f1f1f1"
QUIET = "#666666"
CHANCE = {"color": QUIET, "linestyle": (0, (1, 1.5)), "linewidth": 0.9}
CHANCE_KEY = ("chance", Line2D([], [], **CHANCE))


def panels_for(
    places: Sequence[str | None], rows: Sequence[str], x_label: str
) -> tuple[Figure, dict[tuple[str | None, str], Axes]]:
    """A column of panels per place, a row per name; long lists of places are broken into bands of such rows."""
    bands = -(-len(places) // PANELS_PER_ROW)
    columns = -(-len(places) // bands)
    width = {1: 3.6, 2: 5.0}.get(columns, WIDTH)
    titles = max(_lines(wrapped(place or "")) for place in places)
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
                panel.set_title(wrapped(place or "average"), fontstyle="normal" if place else "italic")
            if i % columns == 0:
                panel.set_ylabel(row)
            if r == len(rows) - 1:
                panel.set_xlabel(x_label)
    return figure, grid


def draw_line(axes: Axes, curve: Curve, x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> None:
    if not len(x):  # no finished run here
        return
    axes.plot(x, mean, **curve.style(), markevery=max(1, len(x) // 6), clip_on=False, zorder=3)
    axes.fill_between(x, mean - std, mean + std, color=curve.colour, alpha=0.15, linewidth=0)


def draw_bound(axes: Axes, curve: Curve, value: np.ndarray, T: int) -> None:
    """A thin line across all experiences at the one value of a bound."""
    if len(value):
        axes.plot([1, T], [value[-1]] * 2, color=curve.colour, linestyle=curve.dashes, linewidth=0.5, zorder=2)


def draw_chance(axes: Axes, x: np.ndarray, guessed: np.ndarray | None) -> bool:
    """What guessing scores: a line (then True) where it is nearly in view, else a word below the curves, which keep their scale.

    Nothing where it is unknown, and where one class alone competes, so that every answer is right.
    """
    if guessed is None:
        return False
    low, high = axes.get_ylim()
    shown = np.where(guessed < 100, guessed, np.nan)
    if np.isnan(shown).all():
        return False
    most, room = np.nanmax(shown), 0.12 * (high - low)  # that the word takes
    if most >= max(low - room, 0):
        axes.plot(x[: len(shown)], shown, **CHANCE, zorder=2)
        axes.set_ylim(low if most >= low else max(most - room / 3, 0), high)
        return True
    least = np.nanmin(shown)
    text = f"chance {least:.1f} %" if np.isclose(least, most) else f"chance {least:.1f} to {most:.1f} %"
    axes.set_ylim(low - room, high)
    place = {"xycoords": "axes fraction", "xytext": (2, 2), "textcoords": "offset points"}
    axes.annotate(f"{text} ↓", (0, 0), **place, color=QUIET, fontsize=SMALL, va="bottom", ha="left")
    return False


def draw_ranks(axes: Axes, ranks: Ranks, names: Sequence[str], colours: Sequence[str]) -> None:
    """Demšar's diagram: ranks on a line, the best at the right; names below it; bars join what is not told apart."""
    k = len(names)
    order = [int(i) for i in np.argsort(ranks.average, kind="stable")]
    groups = ranks.groups()
    bars = 0.35 * len(groups)
    for i, group in enumerate(groups):
        ends = [ranks.average[j] for j in (group[0], group[-1])]
        axes.plot([ends[0] - 0.03, ends[1] + 0.03], [-0.35 * (i + 1)] * 2, color="black", linewidth=2.2, solid_capstyle="butt")
    best = (k + 1) // 2  # of which the names stand at the right
    for place, i in enumerate(order):
        right = place < best
        row = place if right else k - 1 - place
        y, edge = -bars - 0.6 - 0.75 * row, 0.8 if right else k + 0.2
        axes.plot([ranks.average[i], ranks.average[i], edge], [0, y, y], color=colours[i], linewidth=0.9)
        name = f"{shortened(names[i])}  {ranks.average[i]:.2f}"
        side = {"xytext": (3 if right else -3, 0), "textcoords": "offset points", "ha": "left" if right else "right"}
        axes.annotate(name, (edge, y), **side, va="center", annotation_clip=False)
    width = min(ranks.critical, k - 1)
    axes.plot([k, k - width], [2.2, 2.2], color="black", linewidth=1.2, marker="|", markersize=5)
    beyond = ", wider than the axis" if ranks.critical > k - 1 else ""
    above = {"xytext": (0, 4), "textcoords": "offset points", "ha": "left"}
    axes.annotate(f"critical difference {ranks.critical:.2f}{beyond}", (k, 2.2), **above)
    axes.set_xlim(k + 0.2, 0.8)
    axes.set_ylim(-bars - 0.6 - 0.75 * best, 3.4)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.spines["top"].set(visible=True, position=("data", 0))
    axes.xaxis.tick_top()
    axes.set_xticks(range(1, k + 1))
    axes.set_yticks([])


def experience_axis(axes: Axes, T: int, learned: int, first: int = 0) -> None:
    """first..T, in whole numbers; grey while the set is not yet learned."""
    axes.set_xlim(first - 0.04 * T, 1.04 * T)
    axes.axvspan(-0.04 * T, learned, color=UNLEARNED, linewidth=0, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))


def cost_axis(axes: Axes, costs: list[float]) -> None:
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


def set_limits(axes: Axes) -> None:
    """Never so close that noise looks like a difference, never beyond what an accuracy can be."""
    low, high = axes.get_ylim()
    middle, half = (low + high) / 2, max((high - low) / 2, 5)
    low, high = max(middle - half, 0), min(middle + half, 100)
    places = MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True).tick_values(low, high)
    axes.set_yticks([place for place in places if low <= place <= high])
    axes.set_ylim(low, high)


def write_changes(axes: Axes, ends: list[tuple[float, float, str]]) -> None:
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


def legend_below(figure: Figure, curves: Sequence[Curve], note: str, key: Sequence[tuple[str, Artist]] = ()) -> None:
    """Below everything, so that it covers nothing: methods, results folders if there are several, then `key`."""
    entries = {wrapped(curve.name, 40): Line2D([], [], **curve.style()) for curve in reversed(curves)}
    entries = dict(reversed(entries.items()))
    if len({curve.source for curve in curves}) > 1:
        neutral = {curve.source: replace(curve, colour="black", marker="o") for curve in curves}
        for _, curve in sorted(neutral.items()):
            entries[wrapped(curve.folder, 40)] = Line2D([], [], **curve.style())
    entries |= dict(key)
    inches = [0.65 + 0.065 * max(map(len, name.split("\n"))) for name in entries]
    rows = next(
        n for n in range(1, 99) if n >= len(inches) or sum(map(max, _chunks(inches, n))) <= figure.get_figwidth()
    )
    columns = _chunks([*entries], rows)
    note = "\n".join(wrapped_note(line, figure) for line in note.split("\n"))
    lines = _lines(note) + sum(max(map(_lines, row)) for row in zip_longest(*columns, fillvalue=""))
    figure.set_figheight(figure.get_figheight() + 0.17 * lines)
    legend = figure.legend(entries.values(), entries, loc="outside lower center", ncols=len(columns), columnspacing=1.4)
    legend.set_title(note)
    legend.get_title().set_multialignment("center")


def wrapped_note(line: str, figure: Figure) -> str:
    """In lines as wide as the figure."""
    return textwrap.fill(line, int(16 * figure.get_figwidth()))


def _lines(text: str) -> int:
    return text.count("\n") + 1


def _chunks(items: list, n: int) -> list[list]:
    return [items[i : i + n] for i in range(0, len(items), n)]


def wrapped(name: str, width: int = 16) -> str:
    """A name of any length in at most three lines; one longer than a line may end one behind a plus, as a chain's does."""
    shown = "".join(c for c in name if c.isprintable() or c.isspace())
    chain = len(shown) > width and "+ " not in shown
    lines = textwrap.wrap(shown.replace("+", "+ ") if chain else shown, width, max_lines=3, placeholder=" …")
    return "\n".join(line.replace("+ ", "+") if chain else line for line in lines)


def shortened(name: str) -> str:
    """A name of any length in one line."""
    return textwrap.shorten("".join(c if c.isprintable() else " " for c in name)[:200], 40, placeholder=" …")[:40]


def save_figure(figure: Figure, out_stem: Path) -> list[Path]:
    """out_stem.png, .svg and .pdf, each in one step and without a date."""
    undated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    paths = []
    for extension, metadata in undated.items():
        content = io.BytesIO()
        figure.savefig(content, format=extension, metadata=metadata)
        figure.set_layout_engine("none")  # things have found their places, in all formats the same
        paths.append(out_stem.with_name(f"{out_stem.name}.{extension}"))
        write_atomic(paths[-1], content.getvalue())
    return paths
