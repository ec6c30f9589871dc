"""ACIL (Zhuang et al., NeurIPS 2022): analytic learning, the joint ridge solution after every experience.

h(x) = relu(B x), B (M, D) drawn once          y = W h(x),  W = Q (G + gamma I)^-1  (learner/ridge.py)

x: the image feature before it is normalised.  B: uniform in +-1/sqrt(D), torch's start of a linear layer; no bias.  Everything
is float64, as released: recursions in float32 would be far off at small gamma.

The release updates R = (G + gamma I)^-1 and W batch by batch (analytic/AnalyticLinear.py 124-128).  That is the same W,
whatever the batches and experiences; solving once an experience from the sums is the more accurate way to it.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lamm_cl.learner.ridge import Ridge
from lamm_cl.learner.shown import Experience
from lamm_cl.towers.clip import FrozenCLIP


class ACIL(Ridge):
    """buffer: M, the random features;  gamma: the ridge."""

    def __init__(self, clip: FrozenCLIP, *, buffer: Annotated[int, Field(ge=1, le=100_000)],
                 gamma: Annotated[float, Field(gt=0, le=1e30)]):  # fmt: skip
        super().__init__(buffer, torch.float64)
        B = torch.rand(buffer, clip.D, dtype=torch.float64) * 2 - 1
        self.register_buffer("B", B * clip.D**-0.5, persistent=False)
        self.gamma = gamma

    def widen(self, x: Tensor) -> Tensor:
        return (x.double() @ self.B.T).relu_()

    def finish(self, model, e: Experience) -> None:
        self.W, _ = self.solved(self.seen, [self.gamma])
