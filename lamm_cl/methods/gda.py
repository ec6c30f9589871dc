"""GDA (Wang et al., ICLR 2024): Gaussians of one covariance beside the cosine with the text, in closed form.

y_c = scale cos(x, t_c) + alpha (w_c^T x + b_c)          w_c = P m_c,  b_c = -log C - m_c^T P m_c / 2

x: unit features; every augmented view counts as an image of its own (N in all); m_c: their mean, not normalised again;
S: the scatter of all views about the mean of their class.  P = D (S + tr(S)/(N - 1) I)^+; the pseudo-inverse drops singular
values below D * 2^-23 of the largest, as in float32.  m, S and N are sums: T experiences give what one gives.  A class that is
not learned has no Gaussian: it is scored by its text alone.

alpha.  Here: on a share of the training images of every class seen, of which W is fitted without.  Released: on validation
images (main_few_shots.py 69-76).  The first of equals wins.

BaseToNew (main_base2new.py): another P = (mean over classes of their covariances)^+, and Gaussians for unseen classes too, of
the views of learned classes that are nearest to the text: m_c is the mean of the k nearest and some copies of t_c, and
P = mean over c of factor ((k - 1) S_c + tr(S_c) I)^-1, S_c about t_c.
"""

import math
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lamm_cl.learner.closed import blocks, class_means, held_out, views
from lamm_cl.learner.gaussian import Symmetric, pseudo_inverse
from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Few, Head
from lamm_cl.learner.shown import Experience, Frozen, Images
from lamm_cl.towers.clip import FrozenCLIP

Positive = Annotated[float, Field(gt=0, le=10**6)]
Share = Annotated[float, Field(gt=0, le=1)]
Part = Annotated[float, Field(gt=0, lt=1)]
CUT = 2.0**-23


class Moments(NamedTuple):
    """Of c classes: means (c, D), counts (c,), and one scatter (D, D) about the means; float64."""

    m: Tensor
    n: Tensor
    S: Tensor

    def plus(self, new: "Moments") -> "Moments":
        return Moments(torch.cat([self.m, new.m]), torch.cat([self.n, new.n]), self.S + new.S)


class GDA(Head):
    """alphas: the candidates;  alpha: where there is nothing to choose on, or no candidate gets an image right;
    views, scale: how many augmented views, and of which share of the area;  held: the share held out to choose on.
    """

    sums = ("seen", "fitted", "x", "y")

    def __init__(self, clip: FrozenCLIP, *, alphas: Annotated[list[Positive], Field(min_length=1, max_length=1000)],
                 alpha: Positive, views: Few, scale: Annotated[list[Share], Field(min_length=2, max_length=2)],
                 held: Part = 0.2):  # fmt: skip
        super().__init__()
        self.alphas, self.otherwise, self.share = alphas, alpha, held
        self.views, self.area = views, (scale[0], scale[1])
        self.seed = int(torch.randint(2**62, ()))
        self.register_buffer("W", torch.empty(0, clip.D))  # (c, D)
        self.register_buffer("b", torch.empty(0))
        self.register_buffer("alpha", torch.tensor(alpha, dtype=torch.float64))
        self.seen: Moments | None = None
        self.fitted: Moments | None = None  # without the images held out
        self.x: list[Tensor] = []  # unit features of images to choose on, of each experience
        self.y: list[Tensor] = []
        self.accuracies: list[float] = []  # of the candidates, when last asked

    def observe(self, e: Experience, frozen: Frozen) -> None:
        shown = views(frozen, self.views, self.area, "unit")
        held = self.hold(frozen)
        new = self.moments(shown, frozen.y, e.classes)
        less = self.moments([x[~held] for x in shown], frozen.y[~held], e.classes) if held.any() else new
        self.seen = new if self.seen is None else self.seen.plus(new)
        self.fitted = less if self.fitted is None else self.fitted.plus(less)

    def hold(self, frozen: Frozen) -> Tensor:
        """Take up images to choose on -> which of the training images they are (n,) bool."""
        held = held_out(frozen.y, frozen.ids, self.share, self.seed)
        self.x.append(frozen.unit[held])
        self.y.append(frozen.y[held])
        return held

    def moments(self, shown: list[Tensor], y: Tensor, classes: range) -> Moments:
        """Of views (n, D) each of the same images."""
        m = torch.stack([class_means(x, y, classes) for x in shown]).mean(dim=0)
        at = y - classes.start
        n = torch.bincount(at, minlength=len(classes)).double() * len(shown)
        weights = self.weights(n).sqrt().unsqueeze(1)
        S = m.new_zeros(m.shape[1], m.shape[1])
        for x in shown:
            for rows in blocks(len(x), x.shape[1]):
                difference = (x[rows].double() - m[at[rows]]) * weights[at[rows]]
                S.addmm_(difference.T, difference)
        return Moments(m, n, S)

    def weights(self, n: Tensor) -> Tensor:
        """Of the classes' scatters, by their counts (c,)."""
        return torch.ones_like(n)

    def precision(self, of: Moments) -> Tensor:
        """P (D, D)."""
        D = len(of.S)
        ridge = of.S.trace() / max(1.0, of.n.sum().item() - 1)
        return D * pseudo_inverse(of.S + ridge * torch.eye(D).to(of.S), D * CUT).dense()

    def finish(self, model, e: Experience) -> None:
        W, b = linear(self.seen.m, self.precision(self.seen))
        self.W, self.b = W.float(), b.float()
        x, y = torch.cat(self.x), torch.cat(self.y)
        self.alpha.fill_(self.choose(model.zero_shot(Images(frozen=x), e.seen), x, y) if len(y) else self.otherwise)

    def choose(self, zero_shot: Tensor, x: Tensor, y: Tensor) -> float:
        W, b = linear(self.fitted.m, self.precision(self.fitted))
        gaussian = x @ W.float().T + b.float()
        right = [((zero_shot + alpha * gaussian).argmax(dim=1) == y).sum().item() for alpha in self.alphas]
        self.accuracies = [100 * each / len(y) for each in right]
        return self.alphas[right.index(max(right))] if max(right) else self.otherwise

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """W and b of the classes from the first on that have a Gaussian."""
        return self.W, self.b

    def forward(self, out: Output) -> Tensor:
        W, b = self.rows
        at = slice(out.classes.start, out.classes.stop)
        gaussian = out.image @ W[at].T + b[at]
        rest = len(out.classes) - gaussian.shape[1]
        return out.scale * out.similarity + self.alpha.float() * F.pad(gaussian, (0, rest))


class Released(GDA):
    """alpha is chosen on validation images; of an experience that has none, on training images held out."""

    def hold(self, frozen: Frozen) -> Tensor:
        if frozen.val is None:
            return super().hold(frozen)
        self.x.append(frozen.val.unit)
        self.y.append(frozen.val.y)
        return torch.zeros_like(frozen.y, dtype=torch.bool)


class BaseToNew(Released):
    """nearest: k;  copies: of the text;  factor: of the precision of unseen classes (the release writes a width down).

    The classes of each later experience have a precision of their own.  The views of all learned classes are kept.
    """

    sums = (*GDA.sums, "shown")

    def __init__(self, clip: FrozenCLIP, *, alphas: Annotated[list[Positive], Field(min_length=1, max_length=1000)],
                 alpha: Positive, views: Few, scale: Annotated[list[Share], Field(min_length=2, max_length=2)],
                 nearest: Annotated[int, Field(ge=2, le=10**6)], copies: Few, factor: Positive, held: Part = 0.2):  # fmt: skip
        super().__init__(clip, alphas=alphas, alpha=alpha, views=views, scale=scale, held=held)
        self.nearest, self.copies, self.factor = nearest, copies, factor
        self.register_buffer("new_W", torch.empty(0, clip.D))
        self.register_buffer("new_b", torch.empty(0))
        self.shown: list[Tensor] = []

    def observe(self, e: Experience, frozen: Frozen) -> None:
        super().observe(e, frozen)
        self.shown += views(frozen, self.views, self.area, "unit")

    def weights(self, n: Tensor) -> Tensor:
        return 1 / (n - 1).clamp(min=1)

    def precision(self, of: Moments) -> Tensor:
        return pseudo_inverse(of.S / len(of.m), len(of.S) * CUT).dense()

    def finish(self, model, e: Experience) -> None:
        super().finish(model, e)
        one = Images(frozen=self.shown[0][:1])
        texts = [model.features(one, classes).text.flatten(0, -2) for classes in model.experiences[e.number + 1 :]]
        found = [linear(*self.unseen(text)) for text in texts]
        self.new_W = torch.cat([self.W[:0], *(W.float() for W, _ in found)])
        self.new_b = torch.cat([self.b[:0], *(b.float() for _, b in found)])

    def unseen(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Texts (c, D) of classes that are scored together -> means (c, D), P (D, D)."""
        x = torch.cat(self.shown)
        k = min(self.nearest, len(x))
        near = x[(text @ x.T).topk(k, dim=1).indices].double()  # (c, k, D)
        text = text.double()
        m = (near.sum(dim=1) + self.copies * text) / (k + self.copies)
        P = near.new_zeros(x.shape[1], x.shape[1])
        for each, t in zip(near, text):
            X = each - t
            trace = X.square().sum() / max(1, k - 1)
            P += Symmetric(trace.expand(len(t)), X.T, X.new_ones(k)).inverse().dense()
        return m, self.factor * P / len(text)

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        return torch.cat([self.W, self.new_W]), torch.cat([self.b, self.new_b])


def linear(m: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    """Means (c, D) and a precision -> W (c, D), b (c,), every class being as likely."""
    W = m @ P
    return W, -math.log(len(m)) - (W * m).sum(dim=1) / 2
