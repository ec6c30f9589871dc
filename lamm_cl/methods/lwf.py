"""LwF (Li and Hoiem, ECCV 2016): on new images, old classes are to be told apart as they were before.

L = CE(y) + weight KL(softmax(y*/T) || softmax(y/T))

y, y*: logits of the classes of earlier experiences, now and by the model as it was when the last one was learned; the divergence
is a mean over images, without the factor T^2 (as Avalanche 0.6, LwFPlugin).  All classes seen must compete (label_space: seen).
The old model is the values theta* (P,) of the parameters that all experiences share: what belongs to old classes alone is frozen.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from lamm_cl.errors import UserError
from lamm_cl.learner.pieces import Loss, Weight, check_shared
from lamm_cl.learner.shown import Experience


class LwF(Loss):
    counted = False

    def __init__(self, *, weight: Weight, temperature: Annotated[float, Field(gt=0, le=10**6)]):
        super().__init__()
        self.weights = {"lwf": weight}
        self.T = temperature
        self.register_buffer("theta", torch.zeros(()))

    def join(self, model) -> None:
        check_shared(model, "loss: lwf.LwF")
        if model.train_label_space != "seen":
            raise UserError("loss: lwf.LwF: old classes must be in the loss to be held: expected label_space: seen")
        self.theta = torch.zeros_like(model.shared_row())

    def forward(self, model, out, targets: Tensor) -> dict[str, Tensor]:
        if model.learned < 2:
            return {}
        old = model.experiences[model.learned - 2].stop
        with torch.no_grad():
            before = functional_call(model, self.before(model), (out.x,))[:, :old]
        log_p = F.log_softmax(out.logits[:, :old] / self.T, dim=1)
        return {"lwf": F.kl_div(log_p, F.softmax(before / self.T, dim=1), reduction="batchmean")}

    def before(self, model) -> dict[str, Tensor]:
        """The shared parameters as they were."""
        named = dict(model.named_parameters())
        flat = self.theta.split([named[name].numel() for name in model.shared])
        return {name: values.view_as(named[name]) for name, values in zip(model.shared, flat, strict=True)}

    def keep(self, model, e: Experience) -> None:
        self.theta.copy_(model.shared_row())
