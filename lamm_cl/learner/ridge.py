"""Ridge regression on a widened feature h(x), from sums that a stream adds to: the joint solution, whatever the experiences.

G = sum_x h(x) h(x)^T   (M, M)          Q = sum_x onehot(y) h(x)^T   (c, M)          W = Q (G + ridge I)^-1   (c, M)
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lamm_cl.errors import UserError
from lamm_cl.learner.closed import SCORED, blocks, one_hot
from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Head
from lamm_cl.learner.shown import Experience, Frozen

PANEL = 2000  # columns of G at a time: what lies above the diagonal is hardly computed


class Sums(NamedTuple):
    """G is symmetric: only what stands on and below its diagonal counts, the rest is anything."""

    G: Tensor  # (M, M)
    Q: Tensor  # (c, M)

    def grown(self, classes: int) -> "Sums":
        """With rows for so many classes."""
        return Sums(self.G, torch.cat([self.Q, self.Q.new_zeros(classes - len(self.Q), self.Q.shape[1])]))

    def add(self, h: Tensor, y: Tensor, classes: range) -> None:
        """h (n, M) of images of some of the classes."""
        for a in range(0, len(self.G), PANEL):
            self.G[a:, a : a + PANEL].addmm_(h[:, a:].T, h[:, a : a + PANEL])
        self.Q[classes.start : classes.stop].addmm_(one_hot(y, classes, h.dtype).T, h)

    def plus(self, other: "Sums") -> "Sums":
        return Sums(self.G + other.G, self.Q + other.Q)

    def whole(self) -> Tensor:
        """G with both halves."""
        return self.G.tril() + self.G.tril(-1).T

    def quadratic(self, W: Tensor) -> float:
        """The sum over classes of w G w^T, W (c, M)."""
        below = ((W @ self.G.tril_()) * W).sum(dtype=torch.float64)
        return (2 * below - (W.square() @ self.G.diagonal()).sum(dtype=torch.float64)).item()

    def solve(self, ridge: float) -> Tensor | None:
        """W (c, M) by one Cholesky decomposition; None where the ridge is too small for the precision of G."""
        A = self.G.clone()
        A.diagonal().add_(ridge)
        L, failed = torch.linalg.cholesky_ex(A)
        return None if failed else torch.cholesky_solve(self.Q.T, L).T.contiguous()


class Ridge(Head):
    """y = W h(x).  `widen` is h, of the features before they were normalised."""

    needs = frozenset({"raw"})
    reads_text = False
    scores_unseen = False
    sums = ("seen",)
    W: Tensor

    def __init__(self, M: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.register_buffer("W", torch.empty(0, M, dtype=dtype))
        self.seen: Sums | None = None  # of all images

    def widen(self, x: Tensor) -> Tensor:
        """(n, D) -> (n, M)"""
        raise NotImplementedError

    def observe(self, e: Experience, frozen: Frozen) -> None:
        self.seen = self.added(self.seen, e, frozen.raw, frozen.y)

    def added(self, sums: Sums | None, e: Experience, x: Tensor, y: Tensor) -> Sums:
        M = self.W.shape[1]
        if sums is None:
            sums = Sums(self.W.new_zeros(M, M), self.W.new_zeros(0, M))
        sums = sums.grown(e.classes.stop)
        for at in blocks(len(x), M):
            sums.add(self.widen(x[at]), y[at], e.classes)
        return sums

    def solved(self, sums: Sums, ridges: Sequence[float]) -> tuple[Tensor, float]:
        """W, and the first of the ridges that is large enough for the precision of G."""
        for ridge in ridges:
            if (W := sums.solve(ridge)) is not None:
                return W, ridge
        raise UserError(f"head: a ridge of {ridges[-1]:g} is too small for these features in {sums.G.dtype}; give a larger one")

    def forward(self, out: Output) -> Tensor:
        assert out.raw is not None
        W = self.W[out.classes.start : out.classes.stop]
        scores = out.raw.new_empty(len(out.raw), len(W), dtype=torch.float32)  # parts kept between the blocks would part the heap
        for at in blocks(len(out.raw), W.shape[1], SCORED):
            scores[at] = self.widen(out.raw[at]) @ W.T
        return scores


def nearest(candidates: Sequence[float], to: float) -> float:
    """In order of magnitude."""
    return min(candidates, key=lambda ridge: abs(math.log(ridge / to)))


def downhill(loss: Callable[[float], float], candidates: Sequence[float], start: float) -> float:
    """A candidate that no neighbour betters, found by walking downhill from `start`, one of them; of equals the larger.

    A loss costs a decomposition of G: of 17 candidates about four are looked at.
    """
    ordered = sorted(candidates)
    at = ordered.index(start)
    losses: dict[int, float] = {}
    while True:
        near = [i for i in (at - 1, at, at + 1) if 0 <= i < len(ordered)]
        losses |= {i: loss(ordered[i]) for i in near if i not in losses}
        best = min(near, key=lambda i: (losses[i], -i))
        if best == at:
            return ordered[at]
        at = best
