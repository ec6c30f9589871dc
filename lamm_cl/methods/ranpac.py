"""RanPAC (McDonnell et al., NeurIPS 2023) without first-session adaptation: ridge regression on random features.

h(x) = relu(x W_rand), W_rand (D, M) drawn once, never trained          y = W h(x),  W = Q (G + ridge I)^-1  (learner/ridge.py)

x: the image feature before it is normalised.  W_rand: standard normal, no bias; M = 0: no projection and no relu, h(x) = x.

The ridge.  Here: a share of the training images of every class seen is held out of G and Q into sums of their own, which are all
that the squared error of a W on them needs; downhill from the mean diagonal of G to the ridge with the least error; then W of
all images.  Released (RanPAC.py 111-147): anew at every experience, on its images alone, and that ridge for all of them.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lamm_cl.learner.closed import held_out, one_hot
from lamm_cl.learner.ridge import Ridge, Sums, downhill, nearest
from lamm_cl.learner.shown import Experience, Frozen
from lamm_cl.towers.clip import FrozenCLIP

Width = Annotated[int, Field(ge=0, le=100_000)]
Candidates = Annotated[list[Annotated[float, Field(gt=0, le=1e30)]], Field(min_length=1, max_length=100)]
Share = Annotated[float, Field(ge=0, lt=1)]


class RanPAC(Ridge):
    """ridges: the candidates; one alone is not a choice.  held: the share of a class's images that is held out to choose."""

    sums = ("seen", "held")

    def __init__(self, clip: FrozenCLIP, *, M: Width, ridges: Candidates, held: Share = 0.2):
        super().__init__(M or clip.D)
        self.register_buffer("W_rand", torch.randn(clip.D, M) if M else None, persistent=False)
        self.register_buffer("ridge", torch.zeros((), dtype=torch.float64))
        self.seed = int(torch.randint(2**62, ()))
        self.ridges, self.share = ridges, held if len(ridges) > 1 else 0
        self.held: Sums | None = None  # of the images held out, which are not in `seen`
        self.count = 0  # of them

    def widen(self, x: Tensor) -> Tensor:
        return x if self.W_rand is None else (x @ self.W_rand).relu_()

    def observe(self, e: Experience, frozen: Frozen) -> None:
        x, y = frozen.raw, frozen.y
        if self.share:
            held = held_out(y, frozen.ids, self.share, self.seed)
            self.held = self.added(self.held, e, x[held], y[held])
            self.count += int(held.sum())
            x, y = x[~held], y[~held]
        self.seen = self.added(self.seen, e, x, y)

    def finish(self, model, e: Experience) -> None:
        chosen = self.choose()
        sums = self.seen if self.held is None else self.seen.plus(self.held)
        self.W, ridge = self.solved(sums, sorted(ridge for ridge in self.ridges if ridge >= chosen))
        self.ridge.fill_(ridge)

    def choose(self) -> float:
        """With one image a class there is nothing to hold out: the candidate next to the mean diagonal of G."""
        start = nearest(self.ridges, self.seen.G.diagonal().mean().item())
        return downhill(self.error, self.ridges, start) if self.count else start

    def error(self, ridge: float) -> float:
        """Mean squared error, on the images held out, of W from the others."""
        W = self.seen.solve(ridge)
        if W is None:
            return float("inf")
        fit = self.held.quadratic(W) - 2 * (W * self.held.Q).sum(dtype=torch.float64).item()
        return (fit / self.count + 1) / len(W)


class Released(RanPAC):
    """split: the share of an experience's images that W is fitted on, in random order, to choose on the rest."""

    def __init__(self, clip: FrozenCLIP, *, names: list[str], M: Width, ridges: Candidates, split: Share = 0.8):
        super().__init__(clip, M=M, ridges=ridges, held=0)
        self.C, self.split = len(names), split
        self.losses: list[float] = []  # of the candidates on the last experience

    def observe(self, e: Experience, frozen: Frozen) -> None:
        super().observe(e, frozen)
        order = self.order(len(frozen.y))
        fit, rest = order[: self.fitted(len(order))], order[self.fitted(len(order)) :]
        h, Y = self.widen(frozen.raw).double(), one_hot(frozen.y, e.classes, torch.float64)
        self.losses = squared_errors(h[fit], Y[fit], h[rest], Y[rest], self.ridges, self.C)

    def order(self, n: int) -> Tensor:
        return torch.randperm(n)

    def fitted(self, n: int) -> int:
        return int(self.split * n)

    def choose(self) -> float:
        return self.ridges[self.losses.index(min(self.losses))]


def squared_errors(h: Tensor, Y: Tensor, h_val: Tensor, Y_val: Tensor, ridges: list[float], C: int) -> list[float]:
    """Mean squared error over images and all C classes of each ridge, by one eigendecomposition of the smaller Gram matrix.

    (n, M), (n, c), (v, M), (v, c).  In float64: with fewer images than random features the released float32 has noise there.
    """
    wide = h.shape[1] > len(h)
    s, U = torch.linalg.eigh(h @ h.T if wide else h.T @ h)
    A = U.T @ (Y if wide else h.T @ Y)
    B = (h_val @ h.T if wide else h_val) @ U
    s = s.clamp(min=0).unsqueeze(1)
    return [((B @ (A / (s + ridge)) - Y_val).square().sum() / (len(Y_val) * C)).item() for ridge in ridges]
