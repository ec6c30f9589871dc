"""Heat maps of a figure: panels side by side, colours that reach as far as the numbers, numbers where they fit."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from lamm_cl.reports.curves import Values, mean_std
from lamm_cl.reports.drawing import SMALL, STYLE, WIDTH, wrapped

CELL_OF_TENTHS, CELL = 0.25, 0.13  # inches: what "81.2" needs at the one size, and "81" at the other
SMALLEST = 5.0  # pt
MATRICES = {"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}
MOST_BESIDE = 4  # panels, of one dataset
LABELS = 0.35  # inches that the ticks beside a panel take


def matrix_panels(names: Sequence[str], datasets: Sequence[str], least: float, share: bool = True
                  ) -> tuple[Figure, np.ndarray, float]:  # fmt: skip
    """A figure with panels [name][dataset], and how wide one is in inches: `least`, if there is room for it.

    share: all have the same axes.
    """
    one = len(datasets) == 1
    columns = min(len(names), MOST_BESIDE, max(1, int(WIDTH / (max(least, 1.3) + LABELS)))) if one else len(datasets)
    rows = -(-len(names) // columns) if one else len(names)
    size = max(0.9, min(2.4 if columns < 3 else 1.7, WIDTH / columns - LABELS), min(least, WIDTH / columns - LABELS))
    titles = 0.2 * rows if one else 0.2
    figure = Figure((size * columns + 1.2, (0.85 * size) * rows + titles + 0.45), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
    if not one:
        for name, row in zip(names, grid, strict=True):
            row[0].set_ylabel(wrapped(name), fontsize=STYLE["axes.titlesize"])
        for dataset, axes in zip(datasets, grid[0], strict=True):
            axes.set_title(wrapped(dataset))
        return figure, grid, size
    for name, axes in zip(names, grid.flat, strict=False):
        axes.set_title(wrapped(name, 24))
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(0, len(names) - columns) : len(names)]:
        axes.tick_params(labelbottom=True)
    figure.suptitle(wrapped(datasets[0], 60), fontsize=STYLE["axes.titlesize"])
    return figure, grid.reshape(-1, 1)[: len(names)], size


def colour_bar(figure: Figure, image: AxesImage, label: str) -> None:
    tall = figure.get_figheight()
    bar = figure.colorbar(image, ax=figure.axes, fraction=0.03, aspect=min(60, 12 * tall), pad=0.02, shrink=min(1.0, 5 / tall))
    bar.set_label(label)


def scale_of(matrices: Sequence[np.ndarray], least: float = 20) -> tuple[float, float]:
    """What the colours of accuracies reach from and to: in tens, inside 0 to 100, at least so many points apart."""
    found = np.concatenate([np.ravel(each) for each in matrices] or [np.empty(0)])
    if np.isnan(found).all():
        return 0, 100
    low, high = (10 * float(bound) for bound in (np.floor(np.nanmin(found) / 10), np.ceil(np.nanmax(found) / 10)))
    low = max(min(low, high - least), 0)
    return low, max(high, low + least)


def write_numbers(axes: Axes, image: AxesImage, digits: int, size: float, least: float = -np.inf) -> None:
    """The number of each defined cell in it, from `least` on; dark on light colours and light on dark ones."""
    matrix = np.ma.filled(image.get_array(), np.nan)
    for (i, j), value in np.ndenumerate(matrix):
        if value >= least:
            red, green, blue, _ = image.to_rgba(value)
            colour = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
            axes.text(j, i, f"{value:.{digits}f}", ha="center", va="center", color=colour, fontsize=size)


def draw_matrix(axes: Axes, T: int, values: Values, scale: tuple[float, float], cell: float) -> AxesImage:
    """One heat map of (T+1, T) cells that are `cell` inches wide, with numbers where they fit, hatched where there is no value;
    returns the image, for the colour bar."""
    mean, _ = mean_std(values)
    matrix = np.full((T + 1, T), np.nan)
    if values:
        matrix[: len(mean), : len(mean) - 1] = mean
    axes.patch.set(hatch="////", edgecolor="#b5b5b5", linewidth=0)
    image = axes.imshow(matrix, cmap="viridis", vmin=scale[0], vmax=scale[1], aspect="auto", interpolation="none")
    axes.set_xticks(ticks(T), [str(j + 1) for j in ticks(T)])
    axes.set_yticks(ticks(T + 1))
    axes.tick_params(length=0)
    if cell >= CELL_OF_TENTHS:
        write_numbers(axes, image, 1, SMALL)
    elif cell >= CELL:
        write_numbers(axes, image, 0, SMALLEST)
    return image


def ticks(n: int) -> list[int]:
    """At most six of 0..n-1, evenly spaced from 0."""
    return list(range(0, n, -(-n // 6)))
