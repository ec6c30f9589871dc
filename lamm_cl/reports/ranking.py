"""Methods ranked on every dataset: the average ranks, and which of them datasets tell apart. See `statistics.ranks`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lamm_cl.reports.statistics import LEVEL, Ranks, ranks, told_p
from lamm_cl.results.record import Record
from lamm_cl.results.runs import Runs, Unfit

FEWEST_DATASETS, FEWEST_METHODS = 2, 3  # of two methods the paired differences tell more: lamm-cl compare
Entry = tuple[Runs, str]  # a method of a results folder


@dataclass(frozen=True)
class Ranking:
    """`entries`: those that have finished a seed on every dataset, in the order of `ranks`."""

    entries: tuple[Entry, ...]
    left_out: tuple[Entry, ...]
    datasets: tuple[str, ...]
    ranks: Ranks
    defined: bool  # whether the metric is, on every dataset

    def told(self, names: Sequence[str]) -> list[str]:
        """What the tests show, in sentences; `names` of the entries."""
        k, N = len(names), len(self.datasets)
        basis = f"{N} datasets, Friedman {told_p(self.ranks.p)}, critical difference {self.ranks.critical:.2f} (Nemenyi, 5 %)"
        average, critical = self.ranks.average, self.ranks.critical
        order = sorted(range(k), key=average.__getitem__)
        before = {i: [j for j in order if average[j] - average[i] > critical] for i in order}
        apart = [f"{names[i]} before {', '.join(names[j] for j in worse)}" for i, worse in before.items() if worse]
        if not apart or self.ranks.p >= LEVEL:
            beyond = f"; {k} methods could not differ on so few" if critical >= k - 1 else ""
            return [f"no difference shown: {basis}{beyond}"]
        return [f"{'; '.join(apart)}: {basis}"]


def ranking(entries: Sequence[Entry], metric: Callable[[Record], float], kind: str) -> Ranking:
    """By the mean over the seeds that all have finished on a dataset.

    Raises Unfit, about a `kind` of table or figure, where there are too few methods or datasets.
    """
    every = [runs for runs, _ in entries]
    datasets = [d for d in every[0].datasets if all(d in runs.datasets for runs in every)]
    kept = [(runs, method) for runs, method in entries if all(runs.records.get((d, method)) for d in datasets)]
    scores = {}
    for dataset in datasets:
        each = [runs.values(dataset, method, metric) for runs, method in kept]
        shared = [seed for seed in each[0] if all(seed in other for other in each)] if each else []
        if shared:
            scores[dataset] = [float(np.mean([values[seed] for seed in shared])) for values in each]
    if len(scores) < FEWEST_DATASETS or len(kept) < FEWEST_METHODS:
        expected = f"{FEWEST_DATASETS} datasets and {FEWEST_METHODS} methods finished on all of them"
        raise Unfit(f"{every[0].scenario}: {kind}: needs at least {expected}; here are {len(scores)} and {len(kept)}")
    table = np.array([*scores.values()])
    left_out = tuple(entry for entry in entries if entry not in kept)
    return Ranking(tuple(kept), left_out, tuple(scores), ranks(np.nan_to_num(table)), bool(np.isfinite(table).all()))
