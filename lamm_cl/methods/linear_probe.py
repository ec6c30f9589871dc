"""Linear probe (Radford et al., ICML 2021): multinomial logistic regression on frozen features, by scikit-learn's lbfgs.

min over W, b of  C * sum_x CE(W x + b, y) + |W|^2 / 2          y = W x + b,  x: the feature before it is normalised, in float64

C is searched as in CoOp's release (lpclip/linear_probe.py 54-92): the best of a coarse list on images that were not trained on,
then halvings of [C/10, 10 C] in log10 of which only the ends are looked at.  In the list a tie goes to the first, in a halving to
the left.  On a stream it keeps all features and learns them all anew: it is the joint probe, and no continual method.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lamm_cl.learner.closed import held_out
from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Head
from lamm_cl.learner.shown import Experience, Frozen
from lamm_cl.towers.clip import FrozenCLIP

Positive = Annotated[float, Field(gt=0, le=1e30)]
Candidates = Annotated[list[Positive], Field(min_length=1, max_length=100)]
Steps = Annotated[int, Field(ge=0, le=100)]
Share = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class Halving:
    """One step of the search: both ends with their accuracies, and the C that it ends with."""

    left: float  # log10 of C
    right: float
    accuracies: tuple[float, float]

    @property
    def C(self) -> float:
        return 10 ** (self.right if self.accuracies[0] < self.accuracies[1] else self.left)


class LinearProbe(Head):
    """C is chosen on training images: a share of each class, held out until C is known.

    search: the coarse list of C;  steps: halvings;  tol, iterations: where scikit-learn's solver stops.
    """

    needs = frozenset({"raw"})
    reads_text = False
    scores_unseen = False
    sums = ("x", "y", "held")

    def __init__(self, clip: FrozenCLIP, *, search: Candidates, steps: Steps, held: Share = 0.2, tol: Positive = 1e-4,
                 iterations: Annotated[int, Field(ge=1, le=10**6)] = 1000):  # fmt: skip
        super().__init__()
        self.register_buffer("W", torch.empty(0, clip.D, dtype=torch.float64))
        self.register_buffer("b", torch.empty(0, dtype=torch.float64))
        self.register_buffer("C", torch.zeros((), dtype=torch.float64))
        self.candidates, self.steps, self.share, self.tol, self.iterations = search, steps, held, tol, iterations
        self.seed = int(torch.randint(2**62, ()))
        self.x: list[Tensor] = []  # of each experience
        self.y: list[Tensor] = []
        self.held: list[Tensor] = []  # which of them C is chosen on

    def observe(self, e: Experience, frozen: Frozen) -> None:
        self.x.append(frozen.raw)
        self.y.append(frozen.y)
        self.held.append(held_out(frozen.y, frozen.ids, self.share, self.seed))

    def finish(self, model, e: Experience) -> None:
        x, y = torch.cat(self.x), torch.cat(self.y)
        C = self.choose(x, y)
        W, b = self.fit(x, y, C)
        self.W, self.b = W.to(x.device), b.to(x.device)
        self.C.fill_(C)

    def choose(self, x: Tensor, y: Tensor) -> float:
        """With one image a class there is nothing to hold out: the middle of the list."""
        held = torch.cat(self.held)
        if not held.any() or len(y.unique()) < 2:
            return sorted(self.candidates)[len(self.candidates) // 2]
        return self.searched(x[~held], y[~held], x[held], y[held])

    def searched(self, x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor) -> float:
        def accuracy(C: float) -> float:
            W, b = self.fit(x, y, C)
            return ((x_val.double() @ W.T + b).argmax(dim=1) == y_val).double().mean().item()

        C = self.candidates[int(np.argmax([accuracy(C) for C in self.candidates]))]
        for step in halvings(accuracy, C, self.steps):
            C = step.C
        return C

    def fit(self, x: Tensor, y: Tensor, C: float) -> tuple[Tensor, Tensor]:
        """W (c, D), b (c,) of the classes up to the last in y."""
        classes, D = int(y.max()) + 1, x.shape[1]
        W, b = torch.zeros(classes, D, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64)
        if len(y.unique()) < 2:
            return W, b
        solver = LogisticRegression(C=C, solver="lbfgs", max_iter=self.iterations, tol=self.tol)
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # where it stops is part of the method
            solver.fit(x.double().cpu().numpy(), y.cpu().numpy())
        coef, intercept = torch.from_numpy(solver.coef_), torch.from_numpy(solver.intercept_)
        known = torch.from_numpy(solver.classes_)
        W[known[-len(coef) :]], b[known[-len(coef) :]] = coef, intercept  # of two classes it has one row, for the second
        return W, b

    def forward(self, out: Output) -> Tensor:
        at = slice(out.classes.start, out.classes.stop)
        return (out.raw.double() @ self.W[at].T + self.b[at]).float()


class Released(LinearProbe):
    """C is chosen on the validation images, min(shots, 4) a class; where a stream has none, on training images held out."""

    sums = ("x", "y", "held", "x_val", "y_val")

    def __init__(self, clip: FrozenCLIP, *, search: Candidates, steps: Steps, tol: Positive = 1e-4,
                 iterations: Annotated[int, Field(ge=1, le=10**6)] = 1000):  # fmt: skip
        super().__init__(clip, search=search, steps=steps, tol=tol, iterations=iterations)
        self.x_val: list[Tensor] = []
        self.y_val: list[Tensor] = []

    def observe(self, e: Experience, frozen: Frozen) -> None:
        super().observe(e, frozen)
        if frozen.val is not None:
            self.x_val.append(frozen.val.raw)
            self.y_val.append(frozen.val.y)

    def choose(self, x: Tensor, y: Tensor) -> float:
        if not self.x_val or len(y.unique()) < 2:
            return super().choose(x, y)
        return self.searched(x, y, torch.cat(self.x_val), torch.cat(self.y_val))


def halvings(accuracy: Callable[[float], float], C: float, steps: int) -> Iterator[Halving]:
    """From [C/10, 10 C]: the worse end moves to the middle, the right one of equals."""
    left, right = np.log10(C / 10), np.log10(C * 10)
    known: dict[float, float] = {}
    for _ in range(steps):
        known |= {end: accuracy(10**end) for end in (left, right) if end not in known}
        yield Halving(left, right, (known[left], known[right]))
        middle = (left + right) / 2
        left, right = (middle, right) if known[left] < known[right] else (left, middle)
