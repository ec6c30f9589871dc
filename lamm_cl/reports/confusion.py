"""Which classes are taken for which after the last experience, from the predictions that runs keep on request."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.image import AxesImage

from lamm_cl.reports.curves import Curve, compared_at, curves_of, shots_of, space_of
from lamm_cl.reports.drawing import SMALL, STYLE, save_figure, shortened
from lamm_cl.reports.matrices import MATRICES, SMALLEST, colour_bar, matrix_panels, ticks, write_numbers
from lamm_cl.results.predictions import confusion, place_of
from lamm_cl.results.record import Record
from lamm_cl.results.runs import Runs, Unfit

MOST_CLASSES = 40  # with more, a row and a column stand for an experience
MOST_NAMES = 20  # with more, classes are numbered
ROOM = 0.16  # inches: what "100" needs
KEEP = "lamm-cl run with --predictions keeps them"


def counted(results: Path, runs: Runs, dataset: str, method: str, label_space: str) -> np.ndarray | None:
    """(C, C) test images, rows their classes, summed over the seeds that kept predictions; None where none did.

    Of runs in several class orders, those in the order of the first run.
    """
    classes = first_of(runs, dataset).dataset.classes
    records = [each for each in runs.records.get((dataset, method), {}).values() if each.dataset.classes == classes]
    found = [confusion(each, path, label_space) for each in records if (path := place_of(each, results)).is_file()]
    return np.sum(found, axis=0) if found else None


def by_experience(counts: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """(C, C) -> (T, T)."""
    starts = np.cumsum([0, *sizes[:-1]])
    return np.add.reduceat(np.add.reduceat(counts, starts, axis=0), starts, axis=1)


def plot_confusion(
    results: Sequence[Path], out_stem: Path, label_space: str | None = None, shots: int | str | None = None
) -> list[Path]:
    """Confusion matrices after the last experience, in % of a class's test images, all seeds together: a row of panels a
    method, a column a dataset; of many classes, those of an experience together.

    Colours by the square root, since what matters is small. Raises Unfit where no run kept predictions.
    """
    compared = compared_at(results, shots)
    label_space = label_space or space_of(compared, "joint")
    found: list[tuple[Curve, dict[str, np.ndarray]]] = []
    for curve in curves_of(compared):
        each = {d: counted(results[curve.source], curve.runs, d, curve.method, label_space) for d in curve.runs.datasets}
        if kept := {d: counts for d, counts in each.items() if counts is not None}:
            found.append((curve, kept))
    if not found:
        raise Unfit(f"{results[0]}: confusion: no predictions; {KEEP}")
    datasets = list(dict.fromkeys(d for runs in compared for d in runs.datasets if any(d in kept for _, kept in found)))
    facts = {d: next(first_of(curve.runs, d) for curve, kept in found if d in kept) for d in datasets}
    names = [curve.name if len(compared) == 1 else f"{curve.name}, {curve.folder}" for curve, _ in found]
    widest = max(min(len(record.dataset.classes), MOST_CLASSES) for record in facts.values())
    with matplotlib.rc_context(STYLE | MATRICES):
        figure, grid, size = matrix_panels(names, datasets, ROOM * widest, share=len(datasets) == 1)
        images = [
            draw(axes, facts[d], kept[d], size) if d in kept else axes.set_axis_off()
            for (_, kept), row in zip(found, grid, strict=True)
            for d, axes in zip(datasets, row, strict=True)
        ]
        whole = all(len(record.dataset.classes) > MOST_CLASSES for record in facts.values())
        unit = "experience" if whole else "class"
        figure.supxlabel(f"{unit} predicted", fontsize=STYLE["axes.labelsize"])
        figure.supylabel(unit, fontsize=STYLE["axes.labelsize"])
        told = f"test images of a row (%), {label_space} label space, {shots_of(compared)}"
        colour_bar(figure, next(image for image in images if image is not None), told)
        return save_figure(figure, out_stem)


def draw(axes: Axes, record: Record, counts: np.ndarray, size: float) -> AxesImage:
    """One matrix in a panel that is `size` inches wide; lines between experiences."""
    data, many = record.dataset, len(counts) > MOST_CLASSES
    if many:
        counts = by_experience(counts, data.experiences)
    images = counts.sum(axis=1, keepdims=True)
    share = 100 * counts / np.where(images > 0, images, np.nan)
    image = axes.imshow(share, cmap="viridis", norm=PowerNorm(0.5, 0, 100), aspect="auto", interpolation="none")
    for end in () if many else np.cumsum(data.experiences)[:-1]:
        axes.axhline(end - 0.5, color="white", linewidth=0.7)
        axes.axvline(end - 0.5, color="white", linewidth=0.7)
    axes.tick_params(length=0)
    n = len(share)
    if not many and n <= MOST_NAMES:
        axes.set_yticks(range(n), [shortened(name)[:24] for name in data.classes], fontsize=SMALL)
        axes.set_xticks(range(n), [str(i + 1) for i in range(n)], fontsize=SMALLEST)
    else:
        axes.set_xticks(ticks(n), [str(i + 1) for i in ticks(n)])
        axes.set_yticks(ticks(n), [str(i + 1) for i in ticks(n)])
    if size / n >= ROOM:
        write_numbers(axes, image, 0, SMALLEST, least=0.5)
    return image


def first_of(runs: Runs, dataset: str) -> Record:
    return next(r for (name, _), seeds in runs.records.items() if name == dataset for r in seeds.values())
