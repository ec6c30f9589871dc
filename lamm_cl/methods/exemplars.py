"""Exemplars: images of earlier experiences that are shown again among those of the current one.

herding (Rebuffi et al., iCaRL, CVPR 2017): x_k = argmin |mu - (x_1 + .. + x_k) / k|, mu the mean of the class's unit features
random: in random order
reservoir (Vitter, 1985): every image gets a random key, and those with the smallest keys are kept

A class keeps the first of its order: `per_class` of them, or its part of a `total` that all classes seen share, so that what it
has shrinks with every experience.  A reservoir of a `total` is not shared out: every image seen is as likely to be in it, so that
a class with more images has more of it.  Kept are places in the training split; the images stay where they are.  Features are
those of the frozen tower: the order depends on the stream alone.  Old classes must compete in the loss (label_space: seen).
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from lamm_cl.errors import UserError
from lamm_cl.learner.pieces import Memory
from lamm_cl.learner.shown import Experience, Frozen

Many = Annotated[int, Field(ge=1, le=10**9)]


def herding(x: Tensor, most: int) -> Tensor:
    """Unit features of a class (n, D) -> the first `most` of its images, in order."""
    mean, sum_, left, order = x.mean(dim=0), torch.zeros_like(x[0]), torch.ones(len(x), dtype=torch.bool, device=x.device), []
    for k in range(1, min(most, len(x)) + 1):
        far = (mean - (sum_ + x) / k).norm(dim=1).masked_fill(~left, torch.inf)
        order.append(int(far.argmin()))
        left[order[-1]] = False
        sum_ = sum_ + x[order[-1]]
    return torch.tensor(order, dtype=torch.int64)


def shuffled(x: Tensor, most: int) -> Tensor:
    return torch.randperm(len(x))[:most]


CHOICES = {"herding": herding, "random": shuffled, "reservoir": shuffled}


class Exemplars(Memory):
    """One of per_class and total."""

    sums = ("kept", "keys")

    def __init__(self, *, per_class: Many | None = None, total: Many | None = None,
                 choose: Literal["herding", "random", "reservoir"] = "herding"):  # fmt: skip
        super().__init__()
        if (per_class is None) == (total is None):
            raise UserError("memory: expected one of per_class and total")
        self.per_class, self.total, self.choose = per_class, total, CHOICES[choose]
        self.shared = choose != "reservoir" or total is None
        self.kept: list[Tensor] = []  # of every class seen, its images in order
        self.keys: list[Tensor] = []  # theirs, of a reservoir

    def room(self, classes: int) -> int:
        """For each of the classes seen."""
        if self.total is None or not self.shared:
            return self.per_class or self.total
        return max(1, self.total // classes)

    def observe(self, e: Experience, frozen: Frozen) -> None:
        if self.kept and self.shared:
            self.kept = [ids[: self.room(len(self.kept))] for ids in self.kept]
        elif self.kept:
            self.spill()
        room, y = self.room(e.classes.stop), frozen.y.cpu()
        for c in e.classes:
            mine = (y == c).nonzero().flatten()
            self.kept.append(frozen.ids[mine][self.choose(frozen.unit[mine.to(frozen.unit.device)], room)])
            if not self.shared:
                self.keys.append(torch.rand(len(mine), dtype=torch.float64).sort().values[:room])

    def spill(self) -> None:
        """Those with the smallest keys stay."""
        every = torch.cat(self.keys)
        last = every.sort().values[min(self.total, len(every)) - 1]
        self.kept = [ids[keys <= last] for ids, keys in zip(self.kept, self.keys)]
        self.keys = [keys[keys <= last] for keys in self.keys]

    def samples(self, e: Experience) -> Tensor:
        old = self.kept[: e.classes.start]
        return torch.cat(old) if old else super().samples(e)
