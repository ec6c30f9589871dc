"""TaskRes (Yu et al., CVPR 2023): what a task adds to the text classifier is learned beside it.

y_c = scale cos(f, t_c + alpha x_c)

t_c: CLIP's text feature before it is normalised, so its length decides what alpha means (trainers/taskres.py 101, 120-142);
x_c (D): a learned residual of each class, 0 at first.  In a stream those of past experiences are frozen, as LAMM's labels are.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import ContextLearner, Head
from lamm_cl.learner.prompts import PerClass
from lamm_cl.learner.shown import Experience
from lamm_cl.methods.zeroshot import IMAGENET_7
from lamm_cl.towers.clip import FrozenCLIP

Alpha = Annotated[float, Field(ge=0, le=10**6)]


class Templates(ContextLearner):
    """The data set's own template; on ImageNet the seven and its own."""

    def __init__(self, *, template: str, dataset: str):
        super().__init__()
        self.templates = (*(IMAGENET_7 if dataset == "ImageNet" else ()), template)


class Residual(Head):
    """instead: data sets with another alpha."""

    needs = frozenset({"text_raw"})

    def __init__(self, clip: FrozenCLIP, *, names: list[str], dataset: str, alpha: Alpha,
                 instead: dict[str, Alpha] | None = None):  # fmt: skip
        super().__init__()
        self.alpha = (instead or {}).get(dataset, alpha)
        self.x = PerClass(torch.zeros(len(names), 1, clip.D, device=clip.device))

    def begin(self, e: Experience) -> None:
        self.x.grow(e.classes)

    def text(self, t: Tensor, classes: range) -> Tensor:
        """(c, D) -> unit (c, D)"""
        return F.normalize(t + self.alpha * self.x(classes).squeeze(1), dim=-1)

    def forward(self, out: Output) -> Tensor:
        return out.scale * out.image @ self.text(out.text_raw, out.classes).T
