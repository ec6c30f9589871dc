"""MoE-Adapters (Yu et al., CVPR 2024), class-incremental as released: experts beside the MLP of all blocks of both towers.

x + mlp(ln_2(x)) + sum_e g_e s up_e(drop(relu(down_e(x))))          g = softmax of the top of x_0 R + noise softplus(x_0 N) + 0.01

x: the residual stream behind the attention, not normed, at every position;  x_0: its position 0, the class token or the start of
text;  down (m, d), up (d, m), up zero at the start;  R, N (d, experts), zero at the start;  noise: normal, in training alone.
Without it all texts have the same gates, for the start of text sees nothing but itself.  The text stands under fixed words, the
loss sees the classes of the experience, and the same experts go on training.

In the release (cil/clip/model.py, adapter.py) two experts of two always serve, load and importance are computed and not used,
and the noise stays on at the test, since a block copies the flag when it is built: `Noisy`.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lamm_cl.errors import UserError
from lamm_cl.learner.pieces import Few, Tower, Weight
from lamm_cl.seeds import derive
from lamm_cl.towers.additions import TOWERS, Where
from lamm_cl.towers.clip import FrozenCLIP

EPSILON = 0.01  # of the noise's deviation


class MoEAdapters(Tower):
    """experts, of which the `top` best serve;  m: their bottleneck;  scale: s."""

    draws = True
    needs = frozenset({"pixels", "tokens"})

    def __init__(self, clip: FrozenCLIP, *, experts: Few, top: Few, m: Few, scale: Weight,
                 dropout: Annotated[float, Field(ge=0, lt=1)]):  # fmt: skip
        super().__init__()
        if top > experts:
            raise UserError(f"tower: top: {top} experts, but experts: {experts}")
        self.top, self.scale, self.dropout = top, scale, dropout
        self.down, self.up = nn.ModuleDict(), nn.ModuleDict()
        self.R, self.N = nn.ParameterDict(), nn.ParameterDict()
        for tower in TOWERS:
            blocks, d = clip.shape(tower)
            for i in range(blocks):
                at = key(Where(tower, i))
                self.down[at] = nn.ModuleList(nn.Linear(d, m) for _ in range(experts))
                self.up[at] = nn.ModuleList(nn.Linear(m, d) for _ in range(experts))
                for down, up in zip(self.down[at], self.up[at]):
                    for zero in (down.bias, up.weight, up.bias):
                        nn.init.zeros_(zero)
                self.R[at], self.N[at] = (nn.Parameter(torch.zeros(d, experts)) for _ in range(2))

    @property
    def moves_text(self) -> bool:
        return True

    def beside(self, where: Where, x: Tensor, first: Tensor) -> Tensor:
        at, gates = key(where), self.gates(where, first)
        found = 0
        for e, (down, up) in enumerate(zip(self.down[at], self.up[at])):
            found = found + gates[:, e, None, None].to(x) * up(self.dropped(where, e, F.relu(down(x))))
        return self.scale * found

    def gates(self, where: Where, first: Tensor) -> Tensor:
        """(N, d) -> (N, experts)."""
        logits, noise = (first @ self.R[key(where)]).float(), self.noise(where, len(first))
        if noise is not None:
            logits = logits + noise.to(logits) * (F.softplus(first @ self.N[key(where)]) + EPSILON)
        best = logits.topk(self.top, dim=1)
        return torch.zeros_like(logits).scatter(1, best.indices, best.values.softmax(dim=1))

    def noise(self, where: Where, n: int) -> Tensor | None:
        """(n, experts)."""
        return torch.randn(n, self.R[key(where)].shape[1]) if self.training else None

    def dropped(self, where: Where, expert: int, h: Tensor) -> Tensor:
        """An expert's bottleneck (N, L, m) under a mask of its own."""
        return F.dropout(h, self.dropout, self.training)


class Noisy(MoEAdapters):
    """Gates are noisy at the test too.

    So that a run can be repeated, a test's noise is that of the place in its batch, and a text's of its place in its experience.
    """

    whole_texts = True

    def __init__(self, clip: FrozenCLIP, *, experts: Few, top: Few, m: Few, scale: Weight,
                 dropout: Annotated[float, Field(ge=0, lt=1)]):  # fmt: skip
        super().__init__(clip, experts=experts, top=top, m=m, scale=scale, dropout=dropout)
        self.seed = int(torch.randint(2**62, ()))

    def noise(self, where: Where, n: int) -> Tensor:
        if self.training:
            return super().noise(where, n)
        draw = torch.Generator().manual_seed(derive(self.seed, *where))
        return torch.randn(n, self.R[key(where)].shape[1], generator=draw)


def key(where: Where) -> str:
    return f"{where.tower}_{where.block}"
