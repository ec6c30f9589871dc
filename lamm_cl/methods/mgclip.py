"""MG-CLIP (Huang et al., ICCV 2025): low-rank deltas that stop before CLIP's modality gap closes, and a classifier of images.

W h  ->  W h + alpha / r  B A h          A (r, d) normal with variance 2 / (r + d), B (d, r) zero

for the projections W of keys and values in all blocks of both towers; the same A and B learn in all experiences, by cross-entropy
of CLIP's own logits over the classes of the experience.  The gap is kept by few epochs alone: their number, by which the paper's
rule ends the training of the first experience, is the card's.  Then the towers stand still, and rows w_c (D), which start at the
class means of the unit image features x, learn by cross-entropy of cos(x, w_c) over the classes of the experience (Adam; a cosine
to 1 % of the rate, per step).  With t the text's logits over the classes learned, the score of such a class is

(softmax(softmax(t)) + v softmax(cos(x, w))) / (1 + v)          v = 4

The release takes the softmax of t twice (models.py 136, main.py 383): once as it is, t would outweigh w, whose cosines have no
scale.  A class that is not learned has no row: it stands behind all that are, by log softmax(t).
"""

import math
from collections.abc import Iterator
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lamm_cl.learner.closed import class_means
from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Few, Head, Weight
from lamm_cl.learner.shown import Experience, Frozen
from lamm_cl.methods.cliplora import LoRA
from lamm_cl.towers.clip import FrozenCLIP

FLOOR = 0.01  # of the rows' rate at the end


class LowRank(LoRA):
    """r: the rank."""

    def __init__(self, clip: FrozenCLIP, *, r: Few, alpha: Weight = 1.0):
        super().__init__(clip, on=["k", "v"], r=r, alpha=alpha * r**-0.5, dropout=0.0)
        for A in self.A.values():
            nn.init.xavier_normal_(A)


class Compensated(Head):
    """epochs, batch, lr: of the rows;  v: their weight."""

    needs = frozenset({"pixels"})
    looks_again = True

    def __init__(self, clip: FrozenCLIP, *, epochs: Few, batch: Annotated[int, Field(ge=1, le=10**6)],
                 lr: Annotated[float, Field(gt=0, le=10)], v: Weight = 4.0):  # fmt: skip
        super().__init__()
        self.epochs, self.batch, self.lr, self.v = epochs, batch, lr, v
        self.register_buffer("W", torch.empty(0, clip.D))  # of the classes learned
        self.frozen: Frozen | None = None  # the experience's images, until it is learned

    def observe(self, e: Experience, frozen: Frozen) -> None:
        self.frozen = frozen

    def forward(self, out: Output) -> Tensor:
        t = super().forward(out)
        if self.training:
            return t
        W = self.W[out.classes.start : out.classes.stop]
        text, images = self.parts(t[:, : len(W)], out.image @ F.normalize(W, dim=1).T)
        return torch.cat([(text + self.v * images) / (1 + self.v), F.log_softmax(t, dim=1)[:, len(W) :]], dim=1)

    def parts(self, t: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Text logits and cosines with the rows (B, c) -> their parts of the score."""
        return F.softmax(F.softmax(t, dim=1), dim=1), F.softmax(c, dim=1)

    def finish(self, model, e: Experience) -> None:
        x, y = self.seen(model)
        *_, w = self.rows(x, y, e.classes)
        self.W, self.frozen = torch.cat([self.W, w.detach()]), None

    def seen(self, model) -> tuple[Tensor, Tensor]:
        """The experience's images through the towers as they were learned -> unit features (n, D), class ids (n,)."""
        learning = model.training
        model.eval()
        found = [(model.image_features(x, model.context.image(x))[0], y) for x, y in self.frozen.batches()]
        model.train(learning)
        x, y = map(torch.cat, zip(*found, strict=True))
        return x, y

    @torch.enable_grad()
    def rows(self, x: Tensor, y: Tensor, classes: range) -> Iterator[nn.Parameter]:
        """w (c, D) at the start and after every step, with the step's gradient."""
        w = nn.Parameter(class_means(x, y, classes).to(x))
        adam, steps = torch.optim.Adam([w], lr=self.lr), self.epochs * math.ceil(len(x) / self.batch)
        yield w
        each = (ids for epoch in range(self.epochs) for ids in self.order(epoch, len(x)).split(self.batch))
        for step, ids in enumerate(each):
            adam.zero_grad()
            self.loss(w, x[ids], y[ids] - classes.start).backward()
            adam.param_groups[0]["lr"] = self.rate(step, steps)
            adam.step()
            yield w

    def order(self, epoch: int, n: int) -> Tensor:
        return torch.randperm(n)

    def rate(self, step: int, steps: int) -> float:
        return self.lr * (FLOOR + (1 - FLOOR) / 2 * (1 + math.cos(math.pi * step / steps)))

    def loss(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(x @ F.normalize(w, dim=1).T, y)


class Once(Compensated):
    """The text's softmax taken once."""

    def parts(self, t: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return F.softmax(t, dim=1), F.softmax(c, dim=1)
