"""RAPF (Huang et al., ECCV 2024): one linear adapter behind the image tower, replayed Gaussians, fused weights.

y_c = scale cos(W x, t_c)          x: the raw image feature;  W (D, D): from torch's random start of a linear layer

In every step n old classes in turn give samples m_c + L_c z, z standard normal: m_c and S_c = L_c L_c^T are the mean and the
covariance of x of class c (unbiased, + 1e-4 I).  Cross-entropy over the batch and these, all classes seen competing, and

hinge = mean relu(0.1 - cos(W u, t_old) + cos(W u, t_new))

over samples u of the old class of every hard pair: an old and a new class with |t_old - t_new| < threshold.  After training:

W = U (P M + Q (1 - M)),  P = U^T W, Q = U^T W_old, W_old = U S V^T,  M = min(1, |P - Q| / max |P - Q| + mix)

W_old: the adapter before the experience.  The first experience has neither replay nor fusion (main.py 32-176; models.py 28-217).
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lamm_cl.errors import UserError
from lamm_cl.learner.closed import class_means
from lamm_cl.learner.gaussian import Symmetric
from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Few, Head, Weight
from lamm_cl.learner.shown import Experience, Frozen
from lamm_cl.seeds import derive
from lamm_cl.towers.clip import FrozenCLIP

Positive = Annotated[float, Field(gt=0, le=1000)]
MARGIN = 0.1
RIDGE = 1e-4


class Fused(Head):
    """beta: 10 beta samples of each replayed class, 20 beta of each hard pair;  classes: n, replayed in every step;
    shrink: m1 I + m2 (1 - I) times this is added to a covariance (learner/gaussian.py); released: 0 or 1.
    """

    needs = frozenset({"raw"})
    draws = True
    sums = ("m", "L")

    def __init__(self, clip: FrozenCLIP, *, names: list[str], beta: Positive, mix: Annotated[float, Field(ge=0, le=1)],
                 threshold: Positive, classes: Few = 2, shrink: Weight = 0.0):  # fmt: skip
        super().__init__()
        self.names, self.mix, self.threshold, self.n, self.shrink = names, mix, threshold, classes, shrink
        self.samples, self.of_pair = max(1, int(10 * beta)), max(1, int(20 * beta))
        self.W = nn.Parameter((torch.rand(clip.D, clip.D) * 2 - 1) * clip.D**-0.5)
        self.seed = int(torch.randint(2**62, ()))
        self.register_buffer("W_old", self.W.detach().clone())
        self.register_buffer("epoch", torch.tensor(0))  # of this experience, which orders the old classes
        self.step = 0  # of this epoch
        self.e: Experience | None = None
        self.pairs: Tensor | None = None  # (p, 2) hard ones of this experience
        self.m: list[Tensor] = []  # (D,) of each class
        self.L: list[Tensor] = []  # (D, D)

    def begin(self, e: Experience) -> None:
        self.e, self.pairs, self.step = e, None, 0
        self.epoch.zero_()
        self.W_old.copy_(self.W.detach())

    def observe(self, e: Experience, frozen: Frozen) -> None:
        self.m += class_means(frozen.raw, frozen.y, e.classes).to(self.W).unbind()
        for c in e.classes:
            x = frozen.raw[frozen.y == c]
            if len(x) < 2:
                raise UserError(f"RAPF: a covariance needs two images or more; {self.names[c]!r} has {len(x)}")
            S = self.covariance(x).shrunk(self.shrink, self.shrink)
            self.L.append(torch.linalg.cholesky(S.dense()).to(self.W))

    def covariance(self, x: Tensor) -> Symmetric:
        S = Symmetric.covariance(x)
        return Symmetric(S.a + RIDGE, S.U, S.s)

    def forward(self, out: Output) -> Tensor:
        return out.scale * self.adapted(out.raw) @ out.text.T

    def adapted(self, x: Tensor) -> Tensor:
        return F.normalize(x @ self.W.T, dim=-1)

    def terms(self, out: Output, targets: Tensor) -> dict[str, Tensor]:
        old = len(out.classes) - len(self.e.classes)
        if not old:
            return super().terms(out, targets)
        order = self.order(old).tolist()
        mine = [order[(self.step * self.n + j) % old] for j in range(self.n)]
        x = self.replayed(mine, self.noise("old", self.n, self.samples))
        logits = torch.cat([out.logits, out.scale * self.adapted(x) @ out.text.T])
        targets = torch.cat([targets, torch.tensor(mine, device=targets.device).repeat_interleave(self.samples)])
        terms = {"cross_entropy": F.cross_entropy(logits, targets)}
        if self.pairs is None:
            self.pairs = self.hard_pairs(out.text[:old], out.text[old:])
        if len(self.pairs):
            u = self.replayed(self.pairs[:, 0].tolist(), self.noise("pair", len(self.pairs), self.of_pair))
            near = (out.text[self.pairs[:, 1]] - out.text[self.pairs[:, 0]]).repeat_interleave(self.of_pair, dim=0)
            terms["hinge"] = F.relu(MARGIN + (self.adapted(u) * near).sum(dim=1)).mean()
        self.step += 1
        return terms

    def order(self, old: int) -> Tensor:
        """Of the old classes in this epoch."""
        drawn = torch.Generator().manual_seed(derive(self.seed, "old classes", self.e.number, int(self.epoch)))
        return torch.randperm(old, generator=drawn)

    def noise(self, what: str, n: int, samples: int) -> Tensor:
        """(n, samples, D) for old classes or hard pairs."""
        return torch.randn(n, samples, len(self.W), device=self.W.device)

    def replayed(self, classes: list[int], noise: Tensor) -> Tensor:
        """Samples of each class, (n, samples, D) -> (n samples, D)."""
        return torch.cat([self.m[c] + z @ self.L[c].T for c, z in zip(classes, noise)])

    def hard_pairs(self, old: Tensor, new: Tensor) -> Tensor:
        """Texts (o, D), (n, D) -> ids (p, 2) of an old and a new class."""
        pairs = (torch.cdist(old, new, compute_mode="donot_use_mm_for_euclid_dist") < self.threshold).nonzero()
        return pairs + torch.tensor([0, len(old)], device=pairs.device)

    def after_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        self.epoch += 1
        self.step = 0

    def finish(self, model: nn.Module, e: Experience) -> None:
        if e.number:
            self.W.copy_(fused(self.W, self.W_old, self.mix)[0])


def fused(W: Tensor, W_old: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    """-> the fused weight, and the mask M (D, D)."""
    U = torch.linalg.svd(W_old.double()).U
    P, Q = U.T @ W.double(), U.T @ W_old.double()
    moved = (P - Q).abs()
    M = (moved / moved.max().clamp(min=torch.finfo(moved.dtype).tiny) + mix).clamp(max=1)
    return (U @ (P * M + Q * (1 - M))).to(W), M
