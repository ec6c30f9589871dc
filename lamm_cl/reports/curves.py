"""What is compared in a figure: a method's look, everywhere the same, and its values over seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lamm_cl.errors import UserError
from lamm_cl.reports import palette
from lamm_cl.results.record import Record, bound_of
from lamm_cl.results.runs import Runs, runs_in

DOTTED, DASHED, DASH_DOT, DASH_DOT_DOT = (0, (1, 1)), (0, (4, 1.2)), (0, (4, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1))
DASHES = (DOTTED, "-", DASHED, DASH_DOT, DASH_DOT_DOT, "-", DASHED, DASH_DOT)
SOURCE_DASHES = ("-", DASHED, DOTTED, DASH_DOT)  # with several results folders, dashes tell the folders apart
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


def compared_at(results: Sequence[Path], shots: int | str | None) -> list[Runs]:
    """The runs of each results folder at one number of shots. Raises UserError where a folder has none at it."""
    compared = []
    for folder in results:
        found = {runs.shots: runs for runs in runs_in(folder)}
        if shots is not None and shots not in found:
            raise UserError(f"{folder}: no runs with {shots} shots; there are {', '.join(map(str, found))}")
        compared.append(found[shots] if shots is not None else list(found.values())[-1])
    return compared


def at_any_shots(folder: list[Runs]) -> Runs:
    """All methods of a folder, also those that were not run at its most shots: for names and styles."""
    methods = dict.fromkeys(method for runs in folder for method in runs.methods)
    return replace(
        folder[-1], methods=tuple(methods), records={k: v for runs in folder for k, v in runs.records.items()}
    )


def curves_of(compared: Sequence[Runs]) -> list[Curve]:
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


def bounds_of(curve: Curve) -> list[Curve]:
    """The bounds of a curve's method, to be drawn in its colour."""
    if curve.runs.bounds is None:
        return []
    mine = [method for method in curve.runs.bounds.methods if bound_of(method)[0] == curve.method]
    return [replace(curve, runs=curve.runs.bounds, method=method) for method in mine]


def space_of(compared: Sequence[Runs], preferred: str) -> str:
    """The preferred label space, if all was scored in it."""
    found = [runs.space(preferred) for runs in compared]
    return preferred if all(space == preferred for space in found) else found[0]


def mean_std(values: Values) -> tuple[np.ndarray, np.ndarray]:
    """Over seeds; the deviation (ddof = 1) of a single seed is drawn as none. Empty where there is no value."""
    if not values:
        return np.empty(0), np.empty(0)
    return np.mean(values, axis=0), np.std(values, axis=0, ddof=1) if len(values) > 1 else np.zeros_like(values[0])


def seeds_behind(curves: Sequence[Curve]) -> str:
    """How many seeds stand behind the curves: "mean of 3 seeds, ..."; with several class orders how many runs."""
    if orders := {order for curve in curves for order in curve.runs.orders}:
        runs = max(len(by_key) for curve in curves for by_key in curve.runs.records.values())
        return f"mean of {runs} runs in {len(orders)} class orders, band: one standard deviation"
    counts = {len(by_seed) for curve in curves for by_seed in curve.runs.records.values()}
    number = str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return "1 seed" if number == "1" else f"mean of {number} seeds, band: one standard deviation"


def shots_of(compared: Sequence[Runs]) -> str:
    return " or ".join(dict.fromkeys(str(runs.shots) for runs in compared)) + " shots"
