"""How long an experience is trained, and with which numbers: what a loop does and what an estimate counts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lamm_cl.config.schema import Training


@dataclass(frozen=True)
class Length:
    """per_epoch: steps of a whole epoch;  steps, images: in all, over `epochs` epochs of which the last may be cut short."""

    epochs: int
    per_epoch: int
    steps: int
    images: float

    def steps_of(self, epoch: int) -> int:
        return min(self.per_epoch, self.steps - epoch * self.per_epoch)


def training_of(training: Training, experience: int, shots: float = 1) -> Training:
    """The numbers of an experience (from 0): `first` or `later` merged in, and steps for steps_per_shot (rounded)."""
    mine = training.changed(training.later if experience else training.first)
    mine = mine.model_copy(update={"first": None, "later": None})
    if mine.steps_per_shot is None:
        return mine
    return mine.model_copy(update={"steps": max(1, round(mine.steps_per_shot * shots)), "steps_per_shot": None})


def length(training: Training, samples: float) -> Length:
    """Of an experience with that many training images (an estimate's may be broken); training: as `training_of` gives it."""
    size = training.batch
    dropped = training.drop_last and samples >= size  # as Dassl: the only batch of an epoch stays
    per_epoch = max(1, int(samples // size) if dropped else math.ceil(samples / size))
    steps = training.steps if training.steps is not None else (training.epochs or 0) * per_epoch
    epochs = math.ceil(steps / per_epoch)
    return Length(epochs, per_epoch, steps, min(steps * size, epochs * samples))


def lengths(training: Training | None, samples: Sequence[float], shots: float) -> list[Length]:
    """Of the experiences of a stream; all 0 where nothing is trained."""
    if training is None:
        return [Length(0, 1, 0, 0)] * len(samples)
    return [length(training_of(training, i, shots), n) for i, n in enumerate(samples)]
