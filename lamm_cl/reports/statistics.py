"""What differences over seeds and datasets show: t intervals, Holm's correction, average ranks with Friedman and Nemenyi.

An interval says what other repetitions on the same datasets would give: those of Student's t, exact for normal differences
with two pairs or more. (A bootstrap of three differences cannot leave their range, and covers 73 % instead of 95 %.)
Ranks say which methods other datasets would tell apart: Demšar, Statistical Comparisons of Classifiers over Multiple Data
Sets, JMLR 2006. A test over three seeds sees large differences only: "no difference shown" is not "no difference".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from lamm_cl.results.runs import Key

COVERED = 0.95
LEVEL = 1 - COVERED
ENOUGH = 5  # pairs; with fewer the text says what an interval rests on
REPEATED = ("seed", "order")  # what a run is repeated over: the parts of a key, in this order


@dataclass(frozen=True)
class Interval:
    """Of a mean difference. `p`: of a mean of zero, two-sided. NaN where nothing tells how far repetitions spread.

    `pairs`: how many values it rests on, one for each seed, or for each class order if those spread more (`over`).
    """

    mean: float
    low: float
    high: float
    p: float
    pairs: int
    over: str = REPEATED[0]


@dataclass(frozen=True)
class Ranks:
    """k methods on N datasets, 1 the best. `p`: Friedman's, that all rank alike; `critical`: Nemenyi's difference, that
    two average ranks must exceed to be told apart among all k at once."""

    average: tuple[float, ...]  # (k,)
    p: float
    critical: float

    def groups(self) -> list[tuple[int, ...]]:
        """The largest sets of two methods or more that are not told apart, best first; indices as of `average`.

        All of them where Friedman's test shows no difference: Nemenyi's is asked only after it.
        """
        order = [int(i) for i in np.argsort(self.average, kind="stable")]
        if self.p >= LEVEL:
            return [tuple(order)]
        found: list[tuple[int, ...]] = []
        for at, first in enumerate(order):
            group = tuple(i for i in order[at:] if self.average[i] - self.average[first] <= self.critical)
            if len(group) > 1 and not (found and set(group) <= set(found[-1])):
                found.append(group)
        return found


def interval(differences: Mapping[Key, float]) -> Interval:
    """Over seeds; with several class orders over seeds and over orders, and the wider of the two: runs that share an order
    are no independent repetitions of it."""
    keys = {key: key if isinstance(key, tuple) else (key,) for key in differences}
    found = []
    for part, over in zip(range(max(map(len, keys.values()), default=0)), REPEATED):
        levels: dict = {}
        for key, difference in differences.items():
            levels.setdefault(keys[key][part], []).append(difference)
        found.append(t_interval([float(np.mean(each)) for each in levels.values()], over))
    several = [each for each in found if each.pairs > 1] or found
    unknown = [each for each in several if np.isnan(each.low)]
    if not several or unknown:
        return (unknown or [t_interval([])])[0]
    return max(several, key=lambda each: each.high - each.low)


def spread(values: Mapping[Key, float], part: int) -> float:
    """How far a number moves when only one part of a run's key changes: 0 its seed, 1 its class order.

    The sample's standard deviation over that part, with the rest of the key as it is; of several such the root of the mean
    square. NaN where nothing is repeated.
    """
    groups: dict = {}
    for key, value in values.items():
        parts = key if isinstance(key, tuple) else (key,)
        groups.setdefault((*parts[:part], *parts[part + 1 :]), []).append(value)
    each = [float(np.var(group, ddof=1)) for group in groups.values() if len(group) > 1]
    return float(np.sqrt(np.mean(each))) if each else np.nan


def t_interval(differences: Sequence[float], over: str = REPEATED[0]) -> Interval:
    """Student's: mean ± t s / sqrt(n). None for a single difference, nor for a few that are all the same: counts are
    discrete, so that two or three agree by chance."""
    each = np.asarray(differences, dtype=float)
    n = len(each)
    mean = float(each.mean()) if n else np.nan
    spread = float(each.std(ddof=1)) if n > 1 else np.nan
    same = n > 1 and spread <= 1e-9 * max(1.0, abs(mean))  # of the same counts, whatever the last bit of a mean
    if np.isnan(spread) or (same and n < ENOUGH):
        return Interval(mean, np.nan, np.nan, np.nan, n, over)
    if same:
        return Interval(mean, mean, mean, float(abs(mean) < 1e-9), n, over)
    error = spread / np.sqrt(n)
    half = float(stdtrit(n - 1, (1 + COVERED) / 2)) * error  # quantiles and tails of Student's t
    return Interval(mean, mean - half, mean + half, float(2 * stdtr(n - 1, -abs(mean) / error)), n, over)


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values corrected for being several, in the same order; NaN stays, and counts: that comparison was made, too.

    Holm, Scandinavian Journal of Statistics 1979: the chance of one false difference or more among them stays at the level.
    """
    values = np.asarray(p, dtype=float)
    corrected = np.full(len(values), np.nan)
    highest = 0.0
    for rank, i in enumerate(np.argsort(values, kind="stable")):  # NaN last
        if not np.isnan(values[i]):
            corrected[i] = highest = max(highest, min(1.0, (len(values) - rank) * values[i]))
    return corrected


def ranks(scores: np.ndarray) -> Ranks:
    """Of (N, k) scores, more is better, N >= 2 datasets and k >= 3 methods; equal scores share the mean of their ranks."""
    from scipy import stats  # half a second, for those who rank

    N, k = scores.shape
    average = stats.rankdata(-np.round(scores, 9), axis=1).mean(axis=0)
    tied = not np.ptp(average) and bool((np.ptp(scores, axis=1) < 1e-9).all())  # nothing differs anywhere: 0 / 0
    p = 1.0 if tied else float(stats.friedmanchisquare(*np.round(scores, 9).T).pvalue)
    return Ranks(tuple(map(float, average)), p, critical_difference(k, N))


def critical_difference(methods: int, datasets: int) -> float:
    """Nemenyi's, at 5 %: q / sqrt(2) times the standard error of a difference of average ranks (Demšar, section 3.2.2)."""
    from scipy import stats

    q = float(stats.studentized_range.ppf(COVERED, methods, np.inf)) / np.sqrt(2)
    return q * float(np.sqrt(methods * (methods + 1) / (6 * datasets)))


def told_p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
