"""EWC (Kirkpatrick et al., PNAS 2017): what mattered for earlier experiences is held where it was.

L = CE(y) + weight sum_e sum_k F_ek (theta_k - theta_ek)^2

theta: the parameters that all experiences share;  theta_e: their values after experience e;  F_e: their importance for it, the
mean over its batches of the squared gradient of the cross-entropy, all classes in play that were so in training (as Avalanche
0.6, EWCPlugin "separate"; with `batch: 1` the diagonal of the empirical Fisher information).

A sum of parabolas is one parabola, so what is carried does not grow with the experiences:
sum_e F_e (theta - theta_e)^2 = F (theta - m)^2 + c,  F = sum F_e,  m = sum F_e theta_e / F.  F, m (P,): all parameters in a row.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lamm_cl.learner.pieces import Few, Loss, Weight, check_shared
from lamm_cl.learner.shown import Experience, Frozen


class EWC(Loss):
    """batch: images whose gradients are averaged before they are squared: the scale of `weight` depends on it."""

    counted = False

    def __init__(self, *, weight: Weight, batch: Few):
        super().__init__()
        self.weights = {"ewc": weight}
        self.batch = batch
        self.frozen: Frozen | None = None  # of the experience being learned
        for name in ("F", "m", "c"):
            self.register_buffer(name, torch.zeros(()))

    def join(self, model) -> None:
        check_shared(model, "loss: ewc.EWC")
        self.F, self.m = (torch.zeros_like(model.shared_row()) for _ in range(2))

    def observe(self, e: Experience, frozen: Frozen) -> None:
        self.frozen = frozen

    def forward(self, model, out, targets: Tensor) -> dict[str, Tensor]:
        if model.learned < 2:
            return {}
        return {"ewc": (self.F * (model.shared_row() - self.m) ** 2).sum() + self.c}

    def keep(self, model, e: Experience) -> None:
        new, theta = self.importance(model), model.shared_row()
        total = self.F + new
        share = torch.where(total > 0, new / total.clamp(min=torch.finfo(total.dtype).tiny), 0)
        self.c += (self.F * share * (theta - self.m) ** 2).sum()
        self.m += share * (theta - self.m)
        self.F.copy_(total)

    @torch.enable_grad()
    def importance(self, model) -> Tensor:
        """(P,)."""
        named, total, batches = dict(model.named_parameters()), torch.zeros_like(self.F), 0
        learned = [named[name] for name in model.shared if named[name].requires_grad]
        for x, y in model.shown(self.frozen, self.batch):
            out = model.output(x, model.in_play)
            loss = F.cross_entropy(out.logits, y - out.classes.start)
            found = dict(zip(learned, torch.autograd.grad(loss, learned, allow_unused=True)))
            squares = [torch.zeros_like(p) if found.get(p) is None else found[p] ** 2 for p in map(named.get, model.shared)]
            total += torch.cat([each.flatten() for each in squares])
            batches += 1
        return total / batches
