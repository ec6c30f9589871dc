"""FeCAM (Goswami et al., NeurIPS 2023): the Mahalanobis distance to the mean of a class, under its own covariance.

d_c(x) = (x - m_c)^T N(S_c)^-1 (x - m_c)          y_c = -d_c(x)
S_c = cov_c + alpha1 m1 I + alpha2 m2 (1 - I)     m1, m2: means of cov_c's diagonal, and of its other entries that are not 0
N(S) = S over the outer product of its standard deviations (the difference x - m_c is not divided by them)

No prior and no log-determinant.  Two methods bear the name in the release:
FeCAM (FeCAM_vit_*.py, made for frozen towers): x is unit, m_c is the mean of unit features and not normalised again.
ClassVersion (models/fecam.py, base.py): x and m_c are normalised, raised to a power (Tukey; only for features that are never
negative) and normalised again; cov_c is that of the powers of raw features; shrunk twice.  In the first experience the distance
is Euclidean, to the rows of the trained classifier, for which the means stand here.
Diagonal, Common: the same with the diagonal of S_c alone, over its norm; with one covariance for all classes, merged by counts.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lamm_cl.errors import UserError
from lamm_cl.learner.closed import SCORED, blocks, class_means
from lamm_cl.learner.gaussian import Symmetric, distances, pseudo_inverse, stacked
from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Head, Weight
from lamm_cl.learner.shown import Experience, Frozen
from lamm_cl.towers.clip import FrozenCLIP

Power = Annotated[float, Field(gt=0, le=1)] | None
Number = Annotated[int, Field(ge=0, le=10**6)]


class FeCAM(Head):
    """m (c, D): means;  a (c, D), U (c, r, D), s (c, r): the inverses of N(S_c), in the form of learner/gaussian.py."""

    reads_text = False
    scores_unseen = False

    def __init__(self, clip: FrozenCLIP, *, names: list[str], alpha1: Weight, alpha2: Weight):
        super().__init__()
        self.names, self.alphas = names, (alpha1, alpha2)
        for name, shape in {"m": (0, clip.D), "a": (0, clip.D), "U": (0, 0, clip.D), "s": (0, 0)}.items():
            self.register_buffer(name, torch.empty(shape))

    def observe(self, e: Experience, frozen: Frozen) -> None:
        m = class_means(self.averaged(frozen), frozen.y, e.classes)
        self.m = torch.cat([self.m[: e.classes.start], m.to(self.m)])
        self.measure(e, frozen)

    def averaged(self, frozen: Frozen) -> Tensor:
        """Whose means are m."""
        return frozen.unit

    def spread(self, frozen: Frozen) -> Tensor:
        """Whose covariances count."""
        return frozen.unit

    def measure(self, e: Experience, frozen: Frozen) -> None:
        x, inverses = self.spread(frozen), []
        for c in e.classes:
            mine = x[frozen.y == c]
            if len(mine) < 2:
                raise UserError(f"FeCAM: a covariance needs two images or more; {self.names[c]!r} has {len(mine)}")
            inverses.append(self.metric(Symmetric.covariance(mine).shrunk(*self.alphas)).inverse())
        r = max(self.U.shape[1], *(one.U.shape[1] for one in inverses))
        a, U, s = stacked(inverses, r)
        old, more = e.classes.start, r - self.U.shape[1]
        self.a = torch.cat([self.a[:old], a])
        self.U = torch.cat([F.pad(self.U[:old], (0, 0, 0, more)), U])
        self.s = torch.cat([F.pad(self.s[:old], (0, more)), s])

    def metric(self, S: Symmetric) -> Symmetric:
        """What is inverted."""
        return S.correlation()

    def forward(self, out: Output) -> Tensor:
        at = slice(out.classes.start, out.classes.stop)
        return -self.distances(self.query(out), self.centre()[at], at)

    def query(self, out: Output) -> Tensor:
        return out.image

    def centre(self) -> Tensor:
        return self.m

    def distances(self, x: Tensor, m: Tensor, at: slice) -> Tensor:
        """(B, c), some classes at a time."""
        a, U, s = self.a[at], self.U[at], self.s[at]
        parts = blocks(len(m), len(x) * max(1, U.shape[1]), SCORED)
        return torch.cat([distances(x, m[part], a[part], U[part], s[part]) for part in parts], dim=1)


class ClassVersion(FeCAM):
    """power: Tukey's exponent, null for features that may be negative.

    euclidean: in so many experiences, from the first, the distance is Euclidean (released: 1).
    """

    needs = frozenset({"raw"})

    def __init__(self, clip: FrozenCLIP, *, names: list[str], alpha1: Weight, alpha2: Weight, power: Power, euclidean: Number):
        super().__init__(clip, names=names, alpha1=alpha1, alpha2=alpha2)
        self.power, self.euclidean = power, euclidean
        self.begun = 0

    def begin(self, e: Experience) -> None:
        self.begun = e.number + 1

    def tukey(self, x: Tensor) -> Tensor:
        return x if self.power is None else x.pow(self.power)

    def averaged(self, frozen: Frozen) -> Tensor:
        return frozen.raw

    def spread(self, frozen: Frozen) -> Tensor:
        return self.tukey(frozen.raw)

    def metric(self, S: Symmetric) -> Symmetric:
        return S.shrunk(*self.alphas).correlation()

    def query(self, out: Output) -> Tensor:
        return F.normalize(self.tukey(F.normalize(out.raw, dim=-1)), dim=-1)

    def centre(self) -> Tensor:
        return F.normalize(self.tukey(F.normalize(self.m, dim=-1)), dim=-1)

    def forward(self, out: Output) -> Tensor:
        if self.begun > self.euclidean:
            return super().forward(out)
        m = F.normalize(self.m[out.classes.start : out.classes.stop], dim=-1)
        return 2 * F.normalize(out.raw, dim=-1) @ m.T - 2


class Diagonal(ClassVersion):
    def metric(self, S: Symmetric) -> Symmetric:
        diagonal = S.shrunk(*self.alphas).diagonal
        return Symmetric(diagonal / diagonal.norm(), S.U[:, :0], S.s[:0])


class Common(ClassVersion):
    """S = known/total S + new/total (the shrunk covariance of an augmented view of all new images, whatever their class).

    The first covariance is not shrunk; what is inverted is S, without N.
    """

    sums = ("S",)

    def __init__(self, clip: FrozenCLIP, *, names: list[str], alpha1: Weight, alpha2: Weight, power: Power, euclidean: Number):
        super().__init__(clip, names=names, alpha1=alpha1, alpha2=alpha2, power=power, euclidean=euclidean)
        self.S: Tensor | None = None  # (D, D)

    def measure(self, e: Experience, frozen: Frozen) -> None:
        if len(frozen.y) < 2:
            raise UserError(f"FeCAM: a covariance needs two images or more; experience {e.number + 1} has {len(frozen.y)}")
        new, known = Symmetric.covariance(self.spread(frozen.view(0))), e.classes.start / e.classes.stop
        self.S = new.dense() if self.S is None else known * self.S + (1 - known) * new.shrunk(*self.alphas).dense()
        inverse = pseudo_inverse(self.S)
        self.a, self.U, self.s = stacked([inverse], inverse.U.shape[1])

    def distances(self, x: Tensor, m: Tensor, at: slice) -> Tensor:
        return distances(x, m, self.a, self.U, self.s)
