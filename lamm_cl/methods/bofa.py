"""BOFA (Li et al., AAAI 2026): only CLIP's own projection of the image features learns, away from what earlier features span.

y_c = stat (w_c^T z + b_c) + (1 - stat) cos(W x, .) p_c          x (w): the feature before the projection, z = x / |x|
p_c = lambda unit(W0 m_c) + (1 - lambda) t_c                     m_c: mean of x of class c;  W0 (D, w): CLIP's projection

w, b: Gaussians of z with one precision (Averaged), in closed form.  An experience trains W from where the one before ended (its
first from W0) by cross-entropy of scale cos(W x, .) p over all classes seen; t_c stands under the first template there, under all
of them at the test.  In the last epochs of an experience but the first

W = W0 + B A^T,   A (w, Kt): the eigenvectors of the mean of x x^T over earlier experiences with the smallest eigenvalues

and B alone learns, from (W - W0) A.  What is tested is the mean of W over experiences.  (C3Box models/bofa.py,
utils/inc_net.py 1413-1650, backbone/linears.py 340-447.)

lambda is searched once, and again while it is 0.  Here: on training images held out, of which no m_c is made.  Released
(bofa.py 124): on those m_c is made of, and the search takes for the weight of the text what is then used as the image's.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lamm_cl.errors import UserError
from lamm_cl.learner.closed import blocks, class_means, held_out
from lamm_cl.learner.gaussian import pseudo_inverse
from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Head
from lamm_cl.learner.shown import Experience, Frozen
from lamm_cl.methods.gda import CUT, linear
from lamm_cl.towers.clip import FrozenCLIP

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=10**6)]
Part = Annotated[float, Field(gt=0, lt=1)]
Epochs = Annotated[int, Field(ge=0, le=10**6)]
RIDGE = 1e-4
CANDIDATES = [i / 20 for i in range(21)]


@dataclass
class Averaged:
    """Gaussians of classes with one precision, the mean of the experiences' precisions weighted by their classes; float64.

    P_new = D (S + tr(S)/(n - 1) I)^+,   S: the scatter of the n samples about the means of their classes
    P = k/C P_old + c/C P_new + k c / C^3 d d^T,   k classes before, c new, C = k + c
    d: the mean of the old means less that of the new

    As released: the precisions are averaged, not the covariances, and the means' spread is added to a precision.
    """

    m: Tensor  # (C, D)
    P: Tensor  # (D, D)

    @staticmethod
    def of(x: Tensor, y: Tensor, classes: range) -> "Averaged":
        """x (n, D), class ids y (n,)."""
        m = class_means(x, y, classes)
        S = m.new_zeros(m.shape[1], m.shape[1])
        for rows in blocks(len(x), x.shape[1]):
            difference = x[rows].double() - m[y[rows] - classes.start]
            S.addmm_(difference.T, difference)
        ridge = S.trace() / max(1, len(x) - 1)
        return Averaged(m, len(S) * pseudo_inverse(S + ridge * torch.eye(len(S)).to(S), len(S) * CUT).dense())

    def plus(self, new: "Averaged") -> "Averaged":
        k, c = len(self.m), len(new.m)
        C, d = k + c, self.m.mean(dim=0) - new.m.mean(dim=0)
        return Averaged(torch.cat([self.m, new.m]), k / C * self.P + c / C * new.P + k * c / C**3 * torch.outer(d, d))

    @property
    def linear(self) -> tuple[Tensor, Tensor]:
        """W (C, D), b (C,), float32."""
        W, b = linear(self.m, self.P)
        return W.float(), b.float()


class Bridge(Head):
    """stat: the weight of the Gaussians;  Kt: directions that are free;  scale: of cosines in training;  last: epochs of B;
    held: the share of training images that lambda is chosen on.
    """

    needs = frozenset({"trunk", "text_each"})
    sums = ("kept",)
    linear_epochs = 0

    def __init__(self, clip: FrozenCLIP, *, stat: Share, Kt: Annotated[int, Field(ge=1, le=10**5)], scale: Positive,
                 last: Epochs, held: Part = 0.2):  # fmt: skip
        super().__init__()
        W0 = clip.projection.detach().T.float().clone()
        if len(W0.T) <= Kt:
            raise UserError(f"head: Kt: {Kt} directions, but image features before their projection have {len(W0.T)}")
        self.stat, self.Kt, self.scale, self.last, self.share = stat, Kt, scale, last, held
        self.seed = int(torch.randint(2**62, ()))
        self.register_buffer("W0", W0, persistent=False)
        self.W = nn.Parameter(W0.clone())
        self.B = nn.Parameter(W0.new_zeros(len(W0), Kt))
        self.register_buffer("A", W0.new_zeros(len(W0.T), Kt))
        self.register_buffer("fused", W0.clone())
        self.register_buffer("w", W0.new_zeros(0, len(W0.T)))  # of the Gaussians
        self.register_buffer("b", W0.new_zeros(0))
        self.register_buffer("centres", W0.new_zeros(0, len(W0)))  # m W0^T of the classes seen
        self.register_buffer("lam", torch.zeros(()))
        self.register_buffer("searched", torch.tensor(False))
        self.register_buffer("epoch", torch.tensor(0))
        self.register_buffer("constrained", torch.tensor(False))  # whether B learns, not W
        self.gaussians: Averaged | None = None
        self.moments: Tensor | None = None  # (w, w), the sum over experiences
        self.e: Experience | None = None
        self.shown: tuple[Tensor, Tensor, Tensor] | None = None  # x, y of this experience, and which lambda is chosen on

    @property
    def kept(self) -> list[Tensor]:
        found = [self.gaussians.m, self.gaussians.P] if self.gaussians else []
        return found + ([self.moments] if self.moments is not None else [])

    def begin(self, e: Experience) -> None:
        self.e = e
        self.epoch.zero_()
        self.constrained.fill_(False)
        self.searched.copy_(self.lam != 0)
        self.B.requires_grad_(e.number > 0)

    def observe(self, e: Experience, frozen: Frozen) -> None:
        x, y = frozen.trunk, frozen.y
        if self.moments is not None:
            self.A = torch.linalg.eigh(self.moments / e.number).eigenvectors[:, : self.Kt].to(self.A)
        moment = self.moment(x)
        self.moments = moment if self.moments is None else self.moments + moment
        new = Averaged.of(F.normalize(x, dim=-1), y, e.classes)
        self.gaussians = new if self.gaussians is None else self.gaussians.plus(new)
        self.w, self.b = self.gaussians.linear
        m = class_means(x, y, e.classes).to(self.W0)
        self.centres = torch.cat([self.centres[: e.classes.start], m @ self.W0.T])
        self.shown = x, y, self.chosen_on(frozen)

    def moment(self, x: Tensor) -> Tensor:
        """Of one experience, not about the mean: (w, w), float64."""
        found = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
        for rows in blocks(len(x), x.shape[1]):
            found.addmm_(x[rows].double().T, x[rows].double())
        return found / max(1, len(x) - 1) + RIDGE * torch.eye(x.shape[1]).to(found)

    def chosen_on(self, frozen: Frozen) -> Tensor:
        """Which of the images lambda is chosen on (n,) bool."""
        return held_out(frozen.y, frozen.ids, self.share, self.seed)

    @torch.no_grad()
    def search(self, text: Tensor) -> None:
        """lambda, once; text (C, D) of the classes seen."""
        if self.searched:
            return
        self.searched.fill_(True)
        x, y, held = self.shown
        if not held.any():  # with one image a class there is nothing to choose on
            self.lam.fill_(CANDIDATES[len(CANDIDATES) // 2])
            return
        images = F.normalize(self.centres_without(x, y, held), dim=-1)
        features = F.normalize(x[held] @ self.fused.T, dim=-1)
        prototypes = (self.candidate(g, images, text) for g in CANDIDATES)
        right = [((features @ p.T).argmax(dim=1) == y[held]).sum().item() for p in prototypes]
        self.lam.fill_(CANDIDATES[right.index(max(right))])

    def centres_without(self, x: Tensor, y: Tensor, held: Tensor) -> Tensor:
        """Centres (C, D), those of the new classes without the images that lambda is chosen on."""
        m = class_means(x[~held], y[~held], self.e.classes).to(self.W0)
        return torch.cat([self.centres[: self.e.classes.start], m @ self.W0.T])

    def candidate(self, g: float, images: Tensor, text: Tensor) -> Tensor:
        return g * images + (1 - g) * text

    def prototypes(self, text: Tensor, classes: range) -> Tensor:
        """Texts (c, D) -> (c, D); a class that is not learned yet has its text alone."""
        images = F.normalize(self.centres[classes.start : classes.stop], dim=-1)
        mixed = self.lam * images + (1 - self.lam) * text[: len(images)]
        return torch.cat([mixed, text[len(images) :]])

    def matrix(self) -> Tensor:
        """W (D, w) as it is being learned."""
        return self.W0 + self.B @ self.A.T if self.constrained else self.W

    def forward(self, out: Output) -> Tensor:
        if self.training:
            if out.classes.start:
                raise UserError("BOFA: old classes stand in its loss: expected label_space: seen")
            text = F.normalize(out.text_each[0], dim=-1)
            self.search(text)
            return self.scale * F.normalize(out.trunk @ self.matrix().T, dim=-1) @ self.prototypes(text, out.classes).T
        cosine = F.normalize(out.trunk @ self.fused.T, dim=-1) @ self.prototypes(out.text, out.classes).T
        return self.stat * self.gaussian(out) + (1 - self.stat) * cosine

    def gaussian(self, out: Output) -> Tensor:
        """(B, c), 0 for a class that is not learned yet."""
        at = slice(out.classes.start, out.classes.stop)
        found = F.normalize(out.trunk, dim=-1) @ self.w[at].T + self.b[at]
        return F.pad(found, (0, len(out.classes) - found.shape[1]))

    def after_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        self.epoch += 1
        if self.e.number and epoch + 1 == max(1, epochs - self.last):
            self.constrained.fill_(True)
            self.B.copy_((self.W - self.W0) @ self.A)

    def finish(self, model: nn.Module, e: Experience) -> None:
        self.fused.copy_((e.number * self.fused + self.matrix()) / (e.number + 1))
        self.shown = None


class C3Box(Bridge):
    """lambda as released; a linear classifier of z learns in the first epochs, from Gaussians of the new classes, and is never
    asked: its loss trains itself alone.
    """

    linear_epochs = 6

    def begin(self, e: Experience) -> None:
        super().begin(e)
        self.classifier = nn.Linear(len(self.W0.T), len(e.classes))

    def observe(self, e: Experience, frozen: Frozen) -> None:
        super().observe(e, frozen)
        w, b = Averaged.of(F.normalize(frozen.trunk, dim=-1), frozen.y, e.classes).linear
        self.classifier.weight.copy_(w)
        self.classifier.bias.copy_(b)

    def chosen_on(self, frozen: Frozen) -> Tensor:
        return torch.ones_like(frozen.y, dtype=torch.bool)

    def centres_without(self, x: Tensor, y: Tensor, held: Tensor) -> Tensor:
        return self.centres

    def candidate(self, g: float, images: Tensor, text: Tensor) -> Tensor:
        return (1 - g) * images + g * text

    def terms(self, out: Output, targets: Tensor) -> dict[str, Tensor]:
        terms = super().terms(out, targets)
        new = targets >= self.e.classes.start - out.classes.start
        if self.epoch < self.linear_epochs and new.any():
            mine = targets[new] + out.classes.start - self.e.classes.start
            terms["linear"] = F.cross_entropy(self.classifier(F.normalize(out.trunk[new], dim=-1)), mine)
        return terms
