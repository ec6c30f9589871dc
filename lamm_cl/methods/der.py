"""DER++ (Buzzega et al., NeurIPS 2020): old images are shown again, with the logits that they had when they were learned.

L = CE(y) + alpha mean (y_o - h)^2 + beta CE(y_o)

CE(y) of the images of the current experience in a batch;  y_o: logits of those of earlier ones;  h: their logits by the model as
it was when their experience was learned, of the classes seen then; the mean is over images and those classes.  beta 0 is DER.

As Avalanche 0.6 (training/supervised/der.py), and unlike the paper's release: logits are of images without augmentation, stored
when the experience is learned, and one batch of old images serves both terms.  Unlike Avalanche, images of old and current
experiences are shuffled together, as all exemplars are (methods/exemplars.py); logits of classes to come are not stored.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lamm_cl.learner.pieces import Weight
from lamm_cl.learner.shown import Experience, Frozen
from lamm_cl.methods.exemplars import Exemplars, Many

BATCH = 64


class DER(Exemplars):
    counted = False

    def __init__(self, *, alpha: Weight, beta: Weight, per_class: Many | None = None, total: Many | None = None,
                 choose: Literal["herding", "random", "reservoir"] = "random"):  # fmt: skip
        super().__init__(per_class=per_class, total=total, choose=choose)
        self.weights = {"dark": alpha, "replay": beta}
        self.frozen: Frozen | None = None  # of the experience being learned
        self.register_buffer("ids", torch.empty(0, dtype=torch.int64))  # (m,) whose logits are kept
        self.register_buffer("h", torch.empty(0, 0))  # (m, c)
        self.register_buffer("seen", torch.empty(0, dtype=torch.int64))  # (m,) classes when they were stored; 0 behind them

    def observe(self, e: Experience, frozen: Frozen) -> None:
        super().observe(e, frozen)
        self.frozen = frozen

    def terms(self, model, out, targets: Tensor) -> dict[str, Tensor]:
        at = (out.x.ids.unsqueeze(1) == self.ids).int().argmax(dim=1)
        stored = torch.arange(self.h.shape[1], device=at.device) < self.seen[at].unsqueeze(1)
        now = out.logits[:, : self.h.shape[1]]
        return {"dark": F.mse_loss(now[stored], self.h[at][stored]), "replay": F.cross_entropy(out.logits, targets)}

    def keep(self, model, e: Experience) -> None:
        """Those that are left of earlier experiences, and those chosen of this one."""
        mine = torch.cat(self.kept).to(self.h.device)
        left = torch.isin(self.ids, mine)
        found = [(x.ids, model.output(x, e.seen).logits) for x, _ in model.shown(self.frozen, BATCH)]
        ids, logits = (torch.cat(each) for each in zip(*found))
        chosen = torch.isin(ids, mine)
        h = F.pad(self.h[left], (0, e.classes.stop - self.h.shape[1]))
        seen = torch.full_like(ids[chosen], e.classes.stop)
        self.ids, self.h = torch.cat([self.ids[left], ids[chosen]]), torch.cat([h, logits[chosen]])
        self.seen = torch.cat([self.seen[left], seen])
