"""ProGrad (Zhu et al., ICCV 2023): CoOp, whose gradient may not work against what zero-shot CLIP knows.

kl = T^2 CE(target softmax(y*/T), y/T)      u = g_kl / |g_kl|      g = g_ce - strength min(g_ce . u, 0) u

y*: zero-shot logits under the data set's template.  kl itself is never minimised.  u and g are those of one parameter tensor,
flattened: the whole context is one direction.  Momentum and weight decay come after.  kl is the paper's divergence but for the
teacher's entropy, which has no gradient (trainers/prograd.py 283-293; dassl/engine/trainer.py 311-349).
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lamm_cl.errors import UserError
from lamm_cl.learner.pieces import ContextLearner, Few, Loss, Weight, learning
from lamm_cl.learner.prompts import Atom, in_template, words
from lamm_cl.learner.text import FixedTexts
from lamm_cl.methods.coop import ORDERS
from lamm_cl.towers.clip import FrozenCLIP, Prompts


class Padded(ContextLearner):
    """n vectors: zeros, then the words that stand in front of the name in the data set's template.

    As released (trainers/prograd.py 78-99), the words are counted at their spaces while vectors are tokens: of "a type of pet, a
    photo of a", 8 words and 9 tokens, the last token is left over, and stays as it is behind the vectors.  instead: the
    templates of data sets for which the release's list differs from CoOp's.
    """

    def __init__(self, clip: FrozenCLIP, *, template: str, dataset: str, n: Few, position: Literal["end", "front"] = "end",
                 instead: dict[str, str] | None = None):  # fmt: skip
        super().__init__()
        self.order = ORDERS[position]
        template = (instead or {}).get(dataset, template)
        in_template(template, "")
        phrase = template.partition("{}")[0].split()
        if len(phrase) > n:
            raise UserError(f"context: n: {n} vectors, but {len(phrase)} words stand in front of the name in {template!r}")
        self.n, self.templates = n, (" ".join(["X"] * (n - len(phrase)) + phrase) + " {}.",)
        zeros = torch.zeros(n - len(phrase), clip.d, device=clip.device)
        self.v = nn.Parameter(torch.cat([zeros, words(clip, " ".join(phrase), len(phrase))]))

    def text(self, x: Tensor | None, classes: range) -> Prompts:
        return Prompts(self.v.unsqueeze(0))

    def arrange(self, phrase: list[Atom], name: list[Atom]) -> list[Atom]:
        return self.order(phrase, name)


class Projected(Loss):
    """strength: how much of what works against zero-shot CLIP is taken out of a gradient: all of it at 1."""

    needs = frozenset({"frozen"})

    def __init__(self, clip: FrozenCLIP, *, names: list[str], template: str, dataset: str, strength: Weight,
                 temperature: Annotated[float, Field(gt=0, le=10**6)], instead: dict[str, str] | None = None):  # fmt: skip
        super().__init__()
        self.weights = {"kl": 1.0}
        self.strength, self.T = strength, temperature
        self.reference = FixedTexts(clip, names, [(instead or {}).get(dataset, template)])

    def forward(self, model, out, targets: Tensor) -> dict[str, Tensor]:
        y0 = out.scale * model.frozen(out.x) @ self.reference.unit(out.classes).T
        return {"kl": self.T**2 * F.cross_entropy(out.logits / self.T, F.softmax(y0 / self.T, dim=-1))}

    def backward(self, model, terms: dict[str, Tensor]) -> None:
        learned = learning(model)
        rest = sum(term for name, term in terms.items() if name != "kl")
        gradients = torch.autograd.grad(rest, learned, retain_graph=True, allow_unused=True)
        general = torch.autograd.grad(terms["kl"], learned, allow_unused=True)
        for p, g, g_kl in zip(learned, gradients, general, strict=True):
            p.grad = g if g is None or g_kl is None else self.projected(g, g_kl)

    def projected(self, g: Tensor, g_kl: Tensor) -> Tensor:
        """Where g_kl is zero, u is not a number and no comparison with it holds: g."""
        u = g_kl / g_kl.norm()
        along = (g * u).sum()
        return torch.where(along < 0, g - self.strength * along * u, g)
