"""Dassl's few-shot choice (`DatasetBase.generate_fewshot_dataset`): the papers' numbers are on exactly these images."""

import random
from collections.abc import Sequence

import numpy as np


def few_shot(labels: Sequence[int], shots: int | None, seed: int) -> np.ndarray:
    """Indices (int64, in Dassl's order) of the training images chosen from `labels`; `shots` None means all.

    Classes come in the order in which they first appear. A class with fewer than `shots` images is taken whole, in its
    own order, and leaves the random stream where it was; any other is sampled, so that even a class with exactly
    `shots` images comes out shuffled.
    """
    return _choose(labels, shots, random.Random(seed))


def few_shot_pair(
    train_labels: Sequence[int], val_labels: Sequence[int], shots: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The choice from train, and from validation with min(shots, 4), which continues the same random stream."""
    stream = random.Random(seed)
    train = _choose(train_labels, shots, stream)
    return train, _choose(val_labels, None if shots is None else min(shots, 4), stream)


def too_few(labels: Sequence[int], classes: Sequence[str], shots: int | None) -> str:
    """A note on the classes that have fewer than `shots` training images, and so give all of them; "" if there are none."""
    counts = np.bincount(labels, minlength=len(classes))
    if shots is None or counts.min() >= shots:
        return ""
    rarest = counts.argmin()
    return (
        f"{(counts < shots).sum()} of {len(classes)} classes have fewer than {shots} training images, which are all "
        f"taken: {classes[rarest]!r} has {counts[rarest]}"
    )


def _choose(labels: Sequence[int], shots: int | None, stream: random.Random) -> np.ndarray:
    if shots is None:
        return np.arange(len(labels), dtype=np.int64)
    members: dict[int, list[int]] = {}  # a dict keeps the order of first appearance
    for index, label in enumerate(np.asarray(labels).tolist()):
        members.setdefault(label, []).append(index)
    chosen: list[int] = []
    for indices in members.values():
        chosen += stream.sample(indices, shots) if len(indices) >= shots else indices
    return np.array(chosen, dtype=np.int64)
