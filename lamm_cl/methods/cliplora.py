"""CLIP-LoRA (Zanella and Ben Ayed, CVPR Workshops 2024): low-rank deltas on the attention of all blocks of both towers.

W h  ->  W h + alpha / sqrt(r)  B A drop(h)          A (r, d) uniform in +-1/sqrt(d), B (d, r) zero

for the projections W of queries, keys and values, each with an A, a B and a dropout mask of its own; "o", the output
projection, is possible.  The text stands under fixed words and the logits are 100 cosines.  As released, the scale is
alpha / sqrt(r), not LoRA's alpha / r (loralib/layers.py 42), and the factor the constant 100, not CLIP's scale (main.py 22).

Released without dropout (layers.py 188-193) puts the delta into W for the product and takes it out before the backward pass: the
gradient of a block's input ignores the delta, those of A and B are right.  With dropout it goes the ordinary way, so do we.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Few, Head, Tower, Weight
from lamm_cl.towers.additions import TOWERS, Where
from lamm_cl.towers.clip import FrozenCLIP

Projections = Annotated[list[Literal["q", "k", "v", "o"]], Field(min_length=1, max_length=4)]


class LoRA(Tower):
    """on: the projections that have a delta;  towers: "both", or one alone;  r: the rank."""

    def __init__(self, clip: FrozenCLIP, *, on: Projections, r: Few, alpha: Weight,
                 dropout: Annotated[float, Field(ge=0, lt=1)], towers: Literal["both", "image", "text"] = "both"):  # fmt: skip
        super().__init__()
        self.on, self.scale, self.dropout = on, alpha / r**0.5, dropout
        self.towers = TOWERS if towers == "both" else (towers,)
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        for tower in self.towers:
            blocks, d = clip.shape(tower)
            for i in range(blocks):
                for name in on:
                    at = key(Where(tower, i), name)
                    self.A[at] = nn.Parameter(torch.empty(r, d).uniform_(-(d**-0.5), d**-0.5))
                    self.B[at] = nn.Parameter(torch.zeros(d, r))
        self.draws = dropout > 0
        if self.draws and "text" in self.towers:
            self.needs = self.needs | {"tokens"}

    @property
    def moves_text(self) -> bool:
        return "text" in self.towers

    def qkv(self, where: Where, h: Tensor) -> Tensor | None:
        if where.tower not in self.towers:
            return None
        return torch.cat([self.delta(where, name, h) if name in self.on else torch.zeros_like(h) for name in "qkv"], dim=-1)

    def out(self, where: Where, a: Tensor) -> Tensor | None:
        return self.delta(where, "o", a) if "o" in self.on and where.tower in self.towers else None

    def delta(self, where: Where, name: str, h: Tensor) -> Tensor:
        """(N, L, d) -> (N, L, d)."""
        at = key(where, name)
        return self.scale * F.linear(F.linear(self.dropped(where, name, h), self.A[at]), self.B[at])

    def dropped(self, where: Where, name: str, h: Tensor) -> Tensor:
        """A delta's input under a mask that no other delta has."""
        return F.dropout(h, self.dropout, self.training)


class Released(LoRA):
    """Its way without dropout: nothing flows back through the delta into a block's input."""

    def dropped(self, where: Where, name: str, h: Tensor) -> Tensor:
        return h.detach() if self.dropout == 0 else super().dropped(where, name, h)


class Factor(Head):
    """Cosines times a constant."""

    def __init__(self, *, factor: Weight):
        super().__init__()
        self.factor = factor

    def forward(self, out: Output) -> Tensor:
        return self.factor * out.similarity


def key(where: Where, name: str) -> str:
    return f"{where.tower}_{where.block}_{name}"
