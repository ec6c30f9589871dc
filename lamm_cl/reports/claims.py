"""Sentences about who is best: they name one only where the difference is shown, and say so where it is not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from lamm_cl.reports.measures import last_in, lost_in
from lamm_cl.reports.statistics import ENOUGH, LEVEL, Interval, holm, interval
from lamm_cl.results.record import Record
from lamm_cl.results.runs import Runs

SMALLEST = 0.05  # points: less is printed as 0.0


@dataclass(frozen=True)
class Pairwise:
    """All pairs of some methods, (one, another) -> their difference and its p, corrected for all of them."""

    differences: dict[tuple[str, str], tuple[Interval, float]]

    def better(self, one: str, other: str) -> bool:
        """Whether it is shown."""
        found, p = self.differences[one, other]
        return p < LEVEL and found.mean > 0

    def basis(self) -> str:
        """What the sentences rest on."""
        intervals = [found for found, _ in self.differences.values()]
        fewest = min(found.pairs for found in intervals)
        if fewest < 2:
            return "one seed in common or none, so no interval"
        many = f", Holm's correction over {len(intervals)} pairs of methods" if len(intervals) > 1 else ""
        few = "" if fewest >= ENOUGH else ", which rests on their differences being normal"
        return f"paired t over {fewest} {intervals[0].over}s{few}{many}"


def pairwise(runs: Runs, methods: Sequence[str], metric: Callable[[Record], float]) -> Pairwise:
    """On average over the datasets, over the seeds that both of a pair have finished on all of them."""
    each = {method: runs.averages(method, metric) for method in methods}
    pairs = [*combinations(methods, 2)]
    found = [interval({seed: each[a][seed] - each[b][seed] for seed in each[a] if seed in each[b]}) for a, b in pairs]
    corrected = holm([one.p for one in found])
    return Pairwise({pair: (one, float(p)) for pair, one, p in zip(pairs, found, corrected, strict=True)})


def who_ends_best(runs: Runs) -> str:
    """On all classes, after the last experience; empty where no method has finished a seed on every dataset."""
    last = last_in(runs.space("joint"))
    means = _means(runs, last)
    first, *others = sorted(means, key=means.__getitem__, reverse=True) or [""]
    if not others:
        return f"{runs.name(first)} ends with an accuracy of {means[first]:.1f} % on all classes" if first else ""
    found = pairwise(runs, [first, *others], last)
    alike = [other for other in others if not found.better(first, other)]
    if alike:
        named = _listed([f"{runs.name(m)} ({means[m]:.1f} %)" for m in (first, *alike)])
        return f"no difference shown in the final accuracy on all classes between {named} ({found.basis()})"
    difference, _ = found.differences[first, others[0]]
    range_ = f"95 % interval {difference.low:.1f} to {difference.high:.1f}"
    text = f"{runs.name(first)} ends with the highest accuracy on all classes, {means[first]:.1f} %, "
    return text + f"{difference.mean:.1f} points before {runs.name(others[0])} ({range_}; {found.basis()})"


def who_lost_most(runs: Runs) -> str:
    """Of what was learned, among the methods that learn; empty where there are not two, or nothing was lost."""
    lost = lost_in(runs.space("own"))
    learning = [m for m in runs.methods if any(max(r.model.trainable) for r in runs.of(m))]
    means = {method: mean for method, mean in _means(runs, lost).items() if method in learning}
    if len(means) < 2 or min(means.values()) >= -SMALLEST:
        return ""
    least, *_, most = ranked = sorted(means, key=means.__getitem__, reverse=True)
    if not pairwise(runs, ranked, lost).better(least, most):
        return "no difference shown in what the methods that learn lost on earlier sets"
    change = f"{means[least]:+.1f}".replace("-", "−") if round(means[least], 1) else "0.0"
    return (
        f"of the methods that learn, {runs.name(most)} lost more on earlier sets ({-means[most]:.1f} points) than "
        f"{runs.name(least)} (change of {change})"
    )


def _means(runs: Runs, metric: Callable[[Record], float]) -> dict[str, float]:
    each = {m: list(runs.averages(m, metric).values()) for m in runs.methods}
    return {m: float(np.mean(values)) for m, values in each.items() if values and not np.isnan(values).any()}


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
