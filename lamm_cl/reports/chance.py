"""What guessing scores: 100 / (classes that compete), by the same metrics as what was measured.

Own label space: those of the image's experience. Joint: those of all experiences learned so far. All: those of the stream.
Classes that count as one (domains of a chain) are one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lamm_cl.results.record import DatasetFacts, Record
from lamm_cl.results.runs import Runs


@dataclass(frozen=True)
class Guess:
    """As much of a Record as metrics ask for, with the accuracies of guessing."""

    dataset: DatasetFacts

    def accuracy(self, label_space: str) -> np.ndarray:
        """R, (T+1, T) in %, as of `Record.accuracy`; NaN is undefined."""
        classes = np.array(self.dataset.experiences, dtype=float)
        T, ends = len(classes), np.cumsum(self.dataset.experiences)
        same = self.dataset.chain.same if self.dataset.chain else ()
        seen = np.array([np.nan, *(len(set(same[:end])) if same else end for end in ends)])
        if label_space == "all":
            return np.full((T + 1, T), 100 / seen[-1])
        if label_space == "own":
            return np.tile(100 / classes, (T + 1, 1))
        return np.where(np.tri(T + 1, T, -1, dtype=bool), 100 / seen[:, None], np.nan)


def chance_on(runs: Runs, dataset: str, metric: Callable[[Record], np.ndarray | float]) -> np.ndarray | float:
    """The metric of guessing on a dataset, the same for every method and seed."""
    record = next(r for (name, _), seeds in runs.records.items() if name == dataset for r in seeds.values())
    return metric(Guess(record.dataset))


def chance_average(runs: Runs, metric: Callable[[Record], np.ndarray | float]) -> np.ndarray | float:
    """The same, averaged over the datasets; NaN for arrays of different shapes, which have no average."""
    each = [chance_on(runs, dataset, metric) for dataset in runs.datasets]
    return np.mean(each, axis=0) if len({np.shape(x) for x in each}) == 1 else np.nan
