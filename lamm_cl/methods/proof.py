"""PROOF (Zhou et al., TPAMI 2025): projections of each experience, and a fusion of image, texts and prototypes by attention.

i = unit(sum_e P_e x),  t_c = unit(sum_e Q_e s_c),  p_c = unit(sum_e P_e m_c)

x, s_c: raw image and text features, m_c: mean of unit image features of class c;  P_e, Q_e: maps with bias, learned in experience
e.  One layer of attention sees the row [i, t_1 .. t_C, p_1 .. p_C, contexts of all experiences] and gives i', t'_c, p'_c:

row' = norm(row + out(softmax(q k^T / sqrt(D)) v))     with dropout on the weights and behind `out`

loss = CE(i' t') + CE(i' p') + (CE(s i t_y^T) + CE(s t_y i^T)) / 2, the last to the batch's diagonal;  s starts at CLIP's scale
y_c = x_p . t_c + i' . t'_c + i' . p'_c                 x_p = i  (models/proof.py, utils/inc_net.py 371-525, convs/projections.py)

Here: every image has a row of its own, and P_e and Q_e are frozen behind experience e.  Released: t' and p' are means over the
images of a batch, in the test too, where images are not normalised; old Q_e go on learning.
"""

from collections.abc import Iterator
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lamm_cl.errors import UserError
from lamm_cl.learner.closed import SCORED, blocks, class_means
from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Few, Head
from lamm_cl.learner.shown import Experience, Frozen
from lamm_cl.methods.engine import contrast, mapped, summed
from lamm_cl.towers.clip import FrozenCLIP

Part = Annotated[float, Field(ge=0, lt=1)]


class Attention(nn.Module):
    """One head of width D over rows (B, L, D), with a residual and a norm."""

    def __init__(self, D: int, dropout: float):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(D, D, bias=False) for _ in range(3))
        self.out, self.norm, self.p = nn.Linear(D, D), nn.LayerNorm(D), dropout

    def forward(self, rows: Tensor) -> Tensor:
        weights = (self.q(rows) @ self.k(rows).mT / rows.shape[-1] ** 0.5).softmax(dim=-1)
        found = self.dropped(self.out(self.dropped(weights, "attn") @ self.v(rows)), "out")
        return self.norm(rows + found)

    def dropped(self, x: Tensor, what: str) -> Tensor:
        return F.dropout(x, self.p, self.training)


class Fusion(Head):
    """contexts: vectors of each experience;  dropout: of the attention."""

    needs = frozenset({"raw", "text_each"})
    draws = True

    def __init__(self, clip: FrozenCLIP, *, contexts: Few = 3, dropout: Part = 0.1):
        super().__init__()
        self.D, self.n = clip.D, contexts
        self.images, self.texts, self.contexts = nn.ModuleList(), nn.ModuleList(), nn.ParameterList()
        self.attention = Attention(clip.D, dropout)
        self.s = nn.Parameter(clip.scale.detach().float().log().clone())
        self.register_buffer("m", torch.empty(0, clip.D))

    def begin(self, e: Experience) -> None:
        for old in (self.images, self.texts, self.contexts):
            old.requires_grad_(False)
        self.images.append(nn.Linear(self.D, self.D))
        self.texts.append(nn.Linear(self.D, self.D))
        self.contexts.append(nn.Parameter(torch.randn(self.n, self.D)))

    def observe(self, e: Experience, frozen: Frozen) -> None:
        new = class_means(frozen.unit, frozen.y, e.classes).float()
        self.m = torch.cat([self.m[: e.classes.start].to(new), new])

    # --- a step -----------------------------------------------------------------------------------------------------------

    def terms(self, out: Output, targets: Tensor) -> dict[str, Tensor]:
        if out.classes.start:
            raise UserError("PROOF: old classes stand in its loss: expected label_space: seen")
        i, t = mapped(self.images, out.raw), mapped(self.texts, out.text_each[0])
        fused, text, prototype = self.fused(i, t)
        mine = t[targets]
        return {
            "cross_entropy": F.cross_entropy(products(fused, text), targets),
            "prototype": F.cross_entropy(products(fused, prototype), targets),
            "clip": (contrast(self.s.exp() * i, mine) + contrast(self.s.exp() * mine, i)) / 2,
        }

    def fused(self, i: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, D) and texts (C, D) of all classes learned -> i' (B, D), and t', p' of each image (B, C, D)."""
        C, p = len(self.m), mapped(self.images, self.m)
        shared = torch.cat([t, p, *self.contexts])
        rows = self.attention(torch.cat([i.unsqueeze(1), shared.expand(len(i), -1, -1)], dim=1))
        return rows[:, 0], self.of_batch(rows[:, 1 : 1 + C]), self.of_batch(rows[:, 1 + C : 1 + 2 * C])

    def of_batch(self, rows: Tensor) -> Tensor:
        """(B, C, D)."""
        return rows

    # --- scores -----------------------------------------------------------------------------------------------------------

    def forward(self, out: Output) -> Tensor:
        if self.training:  # what the loss is made of stands in `terms`
            return self.s.exp() * mapped(self.images, out.raw) @ mapped(self.texts, out.text_each[0]).T
        assert out.classes.start == 0
        text = F.normalize(torch.stack([mapped(self.texts, each) for each in out.text_each]).mean(dim=0), dim=-1)
        image = self.tested(out)
        plain, known = image @ text.T, min(len(self.m), len(out.classes))
        if not known or not self.images:
            return plain
        scores = []
        for at in self.parts(len(image), text[:known]):
            fused, t, p = self.fused(image[at], text[:known])
            scores.append(products(fused, t) + products(fused, p))
        return plain + F.pad(torch.cat(scores), (0, len(out.classes) - known))

    def tested(self, out: Output) -> Tensor:
        """The images of a test (B, D)."""
        return mapped(self.images, out.raw)

    def parts(self, B: int, text: Tensor) -> Iterator[slice]:
        """Which images are fused at a time."""
        L = 1 + 2 * len(text) + self.n * len(self.contexts)
        return blocks(B, L * max(L, self.D), SCORED)


def products(x: Tensor, y: Tensor) -> Tensor:
    """(B, D) with (C, D), or with each one's own (B, C, D) -> (B, C)."""
    return x @ y.T if y.ndim == 2 else (y @ x.unsqueeze(-1)).squeeze(-1)


class Released(Fusion):
    """together: how many images of a test are fused at a time, in their order."""

    def __init__(self, clip: FrozenCLIP, *, contexts: Few = 3, dropout: Part = 0.1, together: Few = 64):
        super().__init__(clip, contexts=contexts, dropout=dropout)
        self.together = together

    def begin(self, e: Experience) -> None:
        super().begin(e)
        self.texts.requires_grad_(True)

    def of_batch(self, rows: Tensor) -> Tensor:
        """(C, D)."""
        return rows.mean(dim=0)

    def tested(self, out: Output) -> Tensor:
        return summed(self.images, out.raw)

    def parts(self, B: int, text: Tensor) -> Iterator[slice]:
        return (slice(at, at + self.together) for at in range(0, B, self.together))
