"""PromptSRC (Khattak et al., ICCV 2023): prompts of both towers that are kept near the frozen CLIP, and averaged over epochs.

L = CE(y) + l_text mean |t - t*| + l_image mean |f - f*| + l_logits mean q* (log q* - log q)        q = softmax(y)

t, f: unit text and image features;  *: those of the frozen towers, of the same augmented view, and under templates: the mean
over templates before it is normalised.  All means are over everything: classes or images, and dimensions; the last is over
images and classes, C times less than a divergence per image (trainers/promptsrc.py 300-311).

At the end, what was learned is replaced by  sum_e w_e p_e,  w_e a Gaussian of the epoch e = 1 .. N, p_e the parameters after it
(264-270, 321-335).  The release adds up frozen weights too, which changes them by rounding alone.  In a stream, the epochs of
one experience are averaged.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lamm_cl.learner.pieces import Loss, Weight, learning
from lamm_cl.learner.shown import Experience
from lamm_cl.learner.text import FixedTexts
from lamm_cl.towers.clip import FrozenCLIP, imagenet_templates

PLAIN = "a photo of a {}."


class Consistency(Loss):
    """templates: the first so many of CLIP's 80 for ImageNet, "a photo of a {}." in front.  mean, std: of the w_e."""

    needs = frozenset({"frozen"})

    def __init__(self, clip: FrozenCLIP, *, names: list[str], text: Weight, image: Weight, logits: Weight,
                 templates: Annotated[int, Field(ge=1, le=80)], mean: Annotated[float, Field(ge=-10**6, le=10**6)],
                 std: Annotated[float, Field(gt=10**-6, le=10**6)]):  # fmt: skip
        super().__init__()
        self.weights = {"text": text, "image": image, "logits": logits}
        self.mean, self.std = mean, std
        chosen = imagenet_templates()[:templates]
        self.reference = FixedTexts(clip, names, sorted(chosen, key=lambda template: template != PLAIN))
        self.register_buffer("total", torch.empty(0))  # the sum over the epochs of an experience so far, all parameters in a row

    def forward(self, model, out, targets: Tensor) -> dict[str, Tensor]:
        t0, f0 = self.reference.unit(out.classes), model.frozen(out.x)
        log_q0, log_q = F.log_softmax(out.scale * f0 @ t0.T, dim=-1), F.log_softmax(out.logits, dim=-1)
        divergence = F.kl_div(log_q, log_q0, reduction="sum", log_target=True) / log_q.numel()
        return {"text": F.l1_loss(out.text, t0), "image": F.l1_loss(out.image, f0), "logits": divergence}

    def shares(self, epochs: int) -> Tensor:
        """w (epochs,); as a softmax, so that no mean is too far away for a sum of 1."""
        e = torch.arange(1, epochs + 1, dtype=torch.float64)
        return torch.softmax(-(((e - self.mean) / self.std) ** 2) / 2, dim=0)

    def after_epoch(self, model, epoch: int, epochs: int) -> None:
        share = self.shares(epochs)[epoch].item()
        now = share * torch.cat([p.flatten() for p in learning(model)])
        self.total = now if epoch == 0 else self.total + now

    def finish(self, model, e: Experience) -> None:
        if len(self.total):
            parameters = learning(model)
            for p, mean in zip(parameters, self.total.split([p.numel() for p in parameters]), strict=True):
                p.copy_(mean.view_as(p))
        self.total = self.total.new_empty(0)
