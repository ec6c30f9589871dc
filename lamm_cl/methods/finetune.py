"""Continual fine-tuning: the field's lower bound, as in ZSCL's comparison (Zheng et al., ICCV 2023).

All weights theta of both towers learn, tokens and positions included, all but the scale tau; theta goes on from experience to
experience, and nothing holds it back:

    L = cross entropy of tau cos(f_theta(x), g_theta(t_c)) over the classes in play, labels smoothed by epsilon
"""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Head, Tower
from lamm_cl.towers.clip import FrozenCLIP


class Whole(Tower):
    """Both towers as they are, their weights learned.  A ResNet's batch statistics stay: it is never in training mode."""

    moves_text = True

    def __init__(self, clip: FrozenCLIP):
        super().__init__()
        self.own = clip.unfrozen()
        self.model = self.own.model

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


class Smoothed(Head):
    """CLIP's own logits; the target is 1 - epsilon on the label and epsilon spread over the classes in play."""

    def __init__(self, *, smoothing: Annotated[float, Field(ge=0, lt=1)]):
        super().__init__()
        self.smoothing = smoothing

    def terms(self, out: Output, targets: Tensor) -> dict[str, Tensor]:
        return {"cross_entropy": F.cross_entropy(out.logits, targets, label_smoothing=self.smoothing)}
