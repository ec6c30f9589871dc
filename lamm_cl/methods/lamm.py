"""LAMM (Gao et al., AAAI 2024): a trainable label embedding z_c per class, held near its word in three spaces (Eq. 4-9).

L = CE(y) + l1/shots |z - z0|^2 + l2 mean_b (1 - cos(t_b, t0_b)) + l3 T^2 CE(target softmax(y/T), y0/T)
                  parameter (WC)            feature (COS)                     logit (KD)

z (c, k, d): label vectors of the classes being learned;  t: text features;  y: logits;  0 marks the value with the class
name's own tokens under the same context.  In a stream, every experience appends the vectors of its classes and those before
are frozen: they are in no optimizer, so neither decay nor momentum can move them.

Where the release departs from the obvious, so do we: the parameter term is a sum over classes, tokens and dimensions; the
feature term is a mean over the images of the batch, 0 if they all have one label; in the logit term the *learned*
distribution is the target and gets a gradient, and the term is a cross-entropy, not a divergence (trainers/coop.py).
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lamm_cl.learner.pieces import Labels, Loss, Weight
from lamm_cl.learner.prompts import Atom, PerClass, words
from lamm_cl.learner.shown import Experience
from lamm_cl.towers.clip import FrozenCLIP

KEPT = {
    "shortest": min,
    "first": lambda lengths: 1,
    "mean": lambda lengths: 1,
    "all": max,
}  # how many tokens of the names are trained


class Names(Labels):
    """Labels that stay the tokens of the class names: every method but LAMM."""


class Learned(Labels):
    """One parameter (c_new, k, d) per experience, in place of the first k tokens of the name.

    tokens: "shortest" (released: k = token count of the shortest name, here of the whole stream), "first" (k = 1), "all" (every
    token of every name), "mean" (k = 1: the mean of the name's tokens stands for the whole name).
    init: "words" (the tokens replaced) or "random".
    """

    def __init__(self, clip: FrozenCLIP, *, names: list[str], tokens: Literal["shortest", "first", "mean", "all"],
                 init: Literal["words", "random"] = "words"):  # fmt: skip
        super().__init__()
        self.tokens = tokens
        vectors = [words(clip, name, len(clip.words(name))) for name in names]  # (m, d) each
        if tokens == "mean":
            vectors = [v.mean(dim=0, keepdim=True) for v in vectors]
        self.k = KEPT[tokens]([len(v) for v in vectors])
        start = torch.stack([F.pad(v[: self.k], (0, 0, 0, self.k - len(v[: self.k]))) for v in vectors])  # (C, k, d)
        self.z = PerClass(0.02 * torch.randn(start.shape).to(start) if init == "random" else start)

    def begin(self, e: Experience) -> None:
        self.z.grow(e.classes)

    def place(self, phrase: list[Atom], name: list[Atom]) -> tuple[list[Atom], list[Atom]]:
        rest = [] if self.tokens == "mean" else name[self.k :]
        return phrase, [Atom("label", j) for j in range(min(self.k, len(name)))] + rest

    def forward(self, classes: range) -> Tensor:
        return self.z(classes)


class InPhrase(Learned):
    """MaPLe+LAMM as released: one label vector in place of the first fixed word behind the context ("of"); the name stays.

    trainers/maple.py 172, 243 puts it at position 1 + n_ctx, where MaPLe's two vectors leave two words of "a photo of a".
    It starts as the first token of the name.
    """

    def __init__(self, clip: FrozenCLIP, *, names: list[str], init: Literal["words", "random"] = "words"):
        super().__init__(clip, names=names, tokens="first", init=init)

    def place(self, phrase: list[Atom], name: list[Atom]) -> tuple[list[Atom], list[Atom]]:
        fixed = [i for i, atom in enumerate(phrase) if atom.kind == "token"]
        if not fixed:  # the context fills the phrase: the next position is the name's first token
            return phrase, [Atom("label", 0), *name[1:]]
        return [*phrase[: fixed[0]], Atom("label", 0), *phrase[fixed[0] + 1 :]], name


class Alignment(Loss):
    """The weights of the three terms; a term of weight 0 is not computed.

    per: "shots" divides the parameter term by the shots (paper, and the release's base-to-new scripts); "one" does not (the
    release's few-shot scripts, which leave --shots at 1).
    """

    needs = frozenset({"reference"})

    def __init__(self, *, shots: float, parameter: Weight, feature: Weight, logit: Weight,
                 temperature: Annotated[float, Field(gt=0, le=10**6)],
                 per: Literal["shots", "one"] = "shots"):  # fmt: skip
        super().__init__()
        self.weights = {"parameter": parameter / (shots if per == "shots" else 1), "feature": feature, "logit": logit}
        self.T = temperature

    def forward(self, model, out, targets: Tensor) -> dict[str, Tensor]:
        """The unweighted terms; targets (B,) count from the first class in play."""
        t0 = model.reference.features(out.prompts, out.classes)  # moves with a learned context; KD's gradient flows through it
        terms = {"parameter": self.parameter_term, "feature": self.feature_term, "logit": self.logit_term}
        return {name: terms[name](model, out, t0, targets) for name, weight in self.weights.items() if weight}

    def parameter_term(self, model, out, t0: Tensor, targets: Tensor) -> Tensor:
        z, z0 = model.labels.z.current()
        return F.mse_loss(z, z0, reduction="sum")

    def feature_term(self, model, out, t0: Tensor, targets: Tensor) -> Tensor:
        distance = (1 - (out.text * t0.detach()).sum(dim=-1))[targets].mean()
        return torch.where((targets == targets[0]).all(), torch.zeros_like(distance), distance)

    def logit_term(self, model, out, t0: Tensor, targets: Tensor) -> Tensor:
        y0 = model.clip.scale * out.image @ t0.T
        return self.T**2 * F.cross_entropy(y0 / self.T, F.softmax(out.logits / self.T, dim=-1))
