"""SimpleCIL (Zhou et al., IJCV 2024): a class is the mean of its images' features under the frozen tower.

p_c = mean of f(x) over the images of class c          y_c = cos(f(x), p_c)

f(x): the image feature before it is normalised, so that long features weigh more in the mean; both sides are normalised in the
cosine alone.  No temperature, no text (C3Box, models/simplecil.py 41-54, and the second cosine head of backbone/linears.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lamm_cl.learner.closed import class_means
from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Head
from lamm_cl.learner.shown import Experience, Frozen
from lamm_cl.towers.clip import FrozenCLIP


class SimpleCIL(Head):
    needs = frozenset({"raw"})
    reads_text = False
    scores_unseen = False

    def __init__(self, clip: FrozenCLIP):
        super().__init__()
        self.register_buffer("p", torch.empty(0, clip.D))  # (c, D)

    def observe(self, e: Experience, frozen: Frozen) -> None:
        p = class_means(frozen.raw, frozen.y, e.classes)
        self.p = torch.cat([self.p[: e.classes.start], p.to(self.p)])

    def forward(self, out: Output) -> Tensor:
        p = self.p[out.classes.start : out.classes.stop]
        return F.normalize(out.raw, dim=-1) @ F.normalize(p, dim=-1).T
