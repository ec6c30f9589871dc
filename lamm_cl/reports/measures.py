"""A record -> the numbers that tables are made of."""

from collections.abc import Callable

import numpy as np

from lamm_cl.reports import metrics
from lamm_cl.results.record import Record


def lost_in(space: str) -> Callable[[Record], float]:
    return lambda record: metrics.backward_transfer(record.accuracy(space))


def last_on(j: int, space: str) -> Callable[[Record], float]:
    """Accuracy on experience j after the last one; NaN where a dataset has fewer experiences."""

    def metric(record: Record) -> float:
        last = record.accuracy(space)[-1]
        return float(last[j - 1]) if j <= len(last) else float("nan")

    return metric


def last_in(space: str) -> Callable[[Record], float]:
    return in_space(metrics.last_accuracy, space)


def in_space(metric: Callable, space: str) -> Callable[[Record], float]:
    return lambda record: metric(record.accuracy(space), record.dataset.test_images)


def or_nan(value: float | None) -> float:
    return np.nan if value is None else value


INCREMENTAL = {  # column -> (which direction is better, metric)
    "average incremental": (1, metrics.average_incremental_accuracy),
    "last": (1, metrics.last_accuracy),
    "forgetting": (-1, lambda R, _: metrics.forgetting(R)),
    "backward transfer": (1, lambda R, _: metrics.backward_transfer(R)),
    "zero-shot retention": (1, lambda R, _: metrics.zero_shot_retention(R)),  # NaN in the joint space, by NaNs in R
}
COST = {  # column -> (digits, metric)
    "trainable parameters": (0, lambda r: r.model.trainable[-1]),
    "label tokens": (0, lambda r: or_nan(r.model.label_tokens)),
    "seconds": (1, lambda r: sum(r.measured.seconds.values())),
    "images/s": (0, lambda r: or_nan(r.measured.images_per_second)),
    "peak memory (MiB)": (0, lambda r: or_nan(r.measured.peak_memory_bytes) / 2**20),
}
