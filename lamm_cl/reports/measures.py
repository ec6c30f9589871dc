"""A record -> the numbers that tables are made of."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from lamm_cl.reports import metrics
from lamm_cl.results.record import WORK, Record
from lamm_cl.results.runs import Runs

Value = TypeVar("Value")


def lost_in(space: str) -> Callable[[Record], float]:
    return lambda record: metrics.backward_transfer(record.accuracy(space))


def mean_last_on(sets: Sequence[int], space: str) -> Callable[[Record], float]:
    """Mean accuracy on some experiences (from 1) after the last one; NaN where a dataset has fewer experiences."""

    def metric(record: Record) -> float:
        last = record.accuracy(space)[-1]
        return float(np.mean([last[j - 1] for j in sets])) if max(sets) <= len(last) else float("nan")

    return metric


def last_in(space: str) -> Callable[[Record], float]:
    return in_space(metrics.last_accuracy, space)


def incremental_in(space: str) -> Callable[[Record], np.ndarray]:
    """Accuracy on all classes learned so far, an experience each."""
    return in_space(metrics.incremental, space)


def in_space(metric: Callable[[np.ndarray, ArrayLike], Value], space: str) -> Callable[[Record], Value]:
    return lambda record: metric(record.accuracy(space), record.dataset.test_images)


def of_dataset(metric: Callable, space: str, name: str) -> Callable[[Record], float]:
    """One of CHAIN on a dataset of a chain, whenever that arrived."""
    return lambda record: float(metric(record.accuracy(space))[record.dataset.chain.names.index(name)])


def in_chain(metric: Callable, space: str) -> Callable[[Record], float]:
    """The mean of one of CHAIN over the datasets of a chain, of Transfer without the first."""
    first = 1 if metric is metrics.transfer else 0
    return lambda record: float(np.mean(metric(record.accuracy(space))[first:]))


def compared_by(runs: Runs) -> dict[str, Callable[[Record], float]]:
    """What methods are compared by: name -> metric of a record; more is better in each."""
    found: dict[str, Callable[[Record], float]] = {}
    for space in runs.spaces:
        found[f"last, {space}"] = last_in(space)
        found[f"average incremental, {space}"] = in_space(metrics.average_incremental_accuracy, space)
        found[f"degradation, {space}"] = lost_in(space)
    return found


def or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def work(record: Record, name: str) -> float:
    """How much of it the run computed; NaN where that was not counted."""
    return or_nan((record.measured.work or {}).get(name))


def seconds(record: Record) -> float:
    return sum(record.measured.seconds.values())


def effort_of(runs: Iterable[Runs]) -> tuple[str, Callable[[Record], float]]:
    """What figures of cost show: multiply-adds if every run counted them, else seconds, and how busy the machine was."""
    records = [r for each in runs for by_seed in each.records.values() for r in by_seed.values()]
    if not any(np.isnan(work(record, "multiply-adds")) for record in records):
        return "multiply-adds a run", lambda record: work(record, "multiply-adds")
    return f"seconds a run, {busy(records)}", seconds


def busy(records: Iterable[Record]) -> str:
    """How busy the machines were while they measured seconds."""
    loads = [or_nan(record.measured.load) for record in records]
    if np.isnan(loads).any():
        return "machine busy as not recorded"
    low, high = (f"{100 * x:.0f}" for x in (min(loads), max(loads)))
    return f"machine {low} % busy" if low == high else f"machine {low} to {high} % busy"


CHAIN = {"Transfer": metrics.transfer, "Average": metrics.average, "Last": metrics.last}
INCREMENTAL = {  # column -> (which direction is better, metric)
    "average incremental": (1, metrics.average_incremental_accuracy),
    "last": (1, metrics.last_accuracy),
    "forgetting": (-1, lambda R, _: metrics.forgetting(R)),
    "backward transfer": (1, lambda R, _: metrics.backward_transfer(R)),
    "zero-shot retention": (1, lambda R, _: metrics.zero_shot_retention(R)),  # NaN in the joint space, by NaNs in R
}
ACCURACIES = ("average incremental", "last")  # of these; the others are differences
COST = {  # column -> (digits, metric)
    "trainable parameters": (0, lambda r: r.model.trainable[-1]),
    "label tokens": (0, lambda r: or_nan(r.model.label_tokens)),
    "kept (KiB)": (1, lambda r: or_nan(r.model.kept_bytes) / 1024),
    "kept a class (KiB)": (1, lambda r: or_nan(r.model.kept_bytes) / 1024 / len(r.dataset.classes)),
    "images encoded": (0, lambda r: work(r, "images encoded")),
    "prompts forward": (0, lambda r: work(r, "prompts forward")),
    "prompts backward": (0, lambda r: work(r, "prompts backward")),
    "multiply-adds (G)": (1, lambda r: work(r, "multiply-adds") / 1e9),
    "seconds": (1, seconds),
    "machine busy (%)": (0, lambda r: 100 * or_nan(r.measured.load)),
    "images/s": (0, lambda r: or_nan(r.measured.images_per_second)),
    "peak memory (MiB)": (0, lambda r: or_nan(r.measured.peak_memory_bytes) / 2**20),
}
# Of these: what the first records do not tell; left out if none does.
LATER = {*WORK, "multiply-adds (G)", "machine busy (%)", "kept (KiB)", "kept a class (KiB)"}
