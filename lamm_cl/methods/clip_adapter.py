"""CLIP-Adapter (Gao et al., IJCV 2024): a small network on the image feature, mixed with it.

y_c = scale cos(ratio A(f) + (1 - ratio) f, t_c)        A(f) = relu(W_2 relu(W_1 f)),  W_1 (D / reduction, D), W_2 back

relu behind both, no bias (clip_adapter.py 57-63): A(f) is never negative, and grows with f in proportion.  The release gives it f
before that is normalised; the unit feature gives the same logits.  Texts stay those of the data set's template.
"""

from dataclasses import replace
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Few, Head
from lamm_cl.towers.clip import FrozenCLIP


class Adapter(Head):
    def __init__(self, clip: FrozenCLIP, *, ratio: Annotated[float, Field(ge=0, le=1)], reduction: Few):
        super().__init__()
        self.ratio, hidden = ratio, clip.D // reduction
        layers = nn.Linear(clip.D, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, clip.D, bias=False), nn.ReLU()
        self.A = nn.Sequential(*layers)

    def image(self, f: Tensor) -> Tensor:
        """(B, D) -> unit (B, D)"""
        return F.normalize(self.ratio * self.A(f) + (1 - self.ratio) * f, dim=-1)

    def forward(self, out: Output) -> Tensor:
        return out.scale * replace(out, image=self.image(out.image)).similarity
