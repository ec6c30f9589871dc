"""Tip-Adapter (Zhang et al., ECCV 2022): a cache of the training images beside the cosine with the text.

y_c = scale cos(x, t_c) + alpha sum over images i of class c of exp(-beta (1 - x . k_i))

k_i: the mean of an image's raw features over augmented views, then normalised; x: unit.  A class that is not learned has no
images in the cache: it is scored by its text alone.  Images only ever join the cache: given beta and alpha, T experiences give
what one gives.

beta, alpha.  Here: by grid, on a share of the training images of every class seen, each time without their own keys in the cache.
Released: the same grid on validation images (main.py 55-80, utils.py 103-121).  The first of equals wins, beta outer.

TipAdapterF: the keys are what is learned, at the initial beta and alpha, and not normalised again; those of earlier experiences
stay.  The last epoch counts, at the initial values: every training image has been trained on.  ReleasedF: the best epoch, then
the grid, then the better of both, all on validation images; the release takes the epoch on the test images (main.py 121-141).
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lamm_cl.learner.closed import blocks, held_out, one_hot, views
from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Few, Head
from lamm_cl.learner.shown import Experience, Frozen, Images
from lamm_cl.towers.clip import FrozenCLIP

Positive = Annotated[float, Field(gt=0, le=10**6)]
Share = Annotated[float, Field(gt=0, le=1)]
Scale = Annotated[list[Share], Field(min_length=2, max_length=2)]
Part = Annotated[float, Field(gt=0, lt=1)]
Tops = Annotated[list[Annotated[float, Field(gt=0.1, le=10**6)]], Field(min_length=2, max_length=2)]
Steps = Annotated[list[Few], Field(min_length=2, max_length=2)]
LOW = 0.1  # where both grids start


class TipAdapter(Head):
    """beta, alpha: initial, and where there is nothing to choose on;  tops, steps: of the grid of beta, and of alpha;
    views, scale: how many augmented views, and of which share of the area;  held: the share held out to choose on.
    """

    sums = ("x", "y", "held")

    def __init__(self, clip: FrozenCLIP, *, beta: Positive, alpha: Positive, tops: Tops, steps: Steps, views: Few, scale: Scale,
                 held: Part = 0.2):  # fmt: skip
        super().__init__()
        self.initial = (beta, alpha)
        self.betas, self.alphas = (grid(top, n) for top, n in zip(tops, steps))
        self.views, self.area, self.share = views, (scale[0], scale[1]), held
        self.seed = int(torch.randint(2**62, ()))
        self.register_buffer("values", torch.empty(0, dtype=torch.int64))  # (K,) the class of each key
        self.register_buffer("beta", torch.tensor(beta, dtype=torch.float64))
        self.register_buffer("alpha", torch.tensor(alpha, dtype=torch.float64))
        self.x: list[Tensor] = []  # unit features of images to choose on, of each experience
        self.y: list[Tensor] = []
        self.held: list[Tensor] = []  # whose keys are left out meanwhile
        self.accuracies = torch.empty(0)  # of the grid, when last asked
        self.start(clip.D)

    def start(self, D: int) -> None:
        """An empty cache."""
        self.register_buffer("k", torch.empty(0, D))  # (K, D)

    @property
    def keys(self) -> Tensor:
        return self.k

    def observe(self, e: Experience, frozen: Frozen) -> None:
        shown = views(frozen, self.views, self.area, "raw")
        self.remember(F.normalize(sum(shown) / len(shown), dim=-1))
        self.values = torch.cat([self.values, frozen.y])
        self.held.append(self.hold(frozen))

    def remember(self, k: Tensor) -> None:
        self.k = torch.cat([self.k, k])

    def hold(self, frozen: Frozen) -> Tensor:
        """Take up images to choose on -> which of the training images they are (n,) bool."""
        held = held_out(frozen.y, frozen.ids, self.share, self.seed)
        self.x.append(frozen.unit[held])
        self.y.append(frozen.y[held])
        return held

    def forward(self, out: Output) -> Tensor:
        beta, alpha = self.initial if self.training else (self.beta.item(), self.alpha.item())
        return out.scale * out.similarity + alpha * self.cached(out.image, out.classes, beta)

    def cached(self, x: Tensor, classes: range, beta: float) -> Tensor:
        """(B, D) -> (B, c)."""
        mine = (self.values >= classes.start) & (self.values < classes.stop)
        near = x @ self.keys[mine].T
        return (beta * near - beta).exp() @ one_hot(self.values[mine], classes, near.dtype)

    def finish(self, model, e: Experience) -> None:
        self.settle(*self.chosen(model, e))

    def settle(self, beta: float, alpha: float) -> None:
        self.beta.fill_(beta)
        self.alpha.fill_(alpha)

    def chosen(self, model, e: Experience) -> tuple[float, float]:
        x, y = self.shown
        if not len(y):
            return self.initial
        right = self.search(model.zero_shot(Images(frozen=x), e.seen), x, y)
        self.accuracies = 100 * right / len(y)
        at = right.flatten().tolist().index(right.max().item())
        return self.betas[at // len(self.alphas)], self.alphas[at % len(self.alphas)]

    @property
    def shown(self) -> tuple[Tensor, Tensor]:
        """All images to choose on."""
        return (torch.cat(self.x), torch.cat(self.y)) if self.x else (self.values[:0], self.values[:0])

    def search(self, zero_shot: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """How many of (n, D), of classes y (n,), each beta and alpha gets right.

        Against each other class an image is right above or below some alpha, so all alphas cost one comparison.
        """
        free = (~torch.cat(self.held)).nonzero().squeeze(1)
        free = free[self.values[free].argsort(stable=True)]
        keys = self.keys[free]
        counts = torch.bincount(self.values[free], minlength=zero_shot.shape[1])
        alphas = torch.tensor(self.alphas, dtype=zero_shot.dtype, device=x.device)
        right = torch.zeros(len(self.betas), len(alphas), dtype=torch.int64, device=x.device)
        for at in blocks(len(x), max(len(keys), len(counts))):
            far, true = keys @ x[at].T - 1, y[at].unsqueeze(1)  # (K, n), (n, 1)
            behind = zero_shot[at] - zero_shot[at].gather(1, true)
            behind.scatter_(1, true, -torch.inf)
            for i, beta in enumerate(self.betas):
                cached = torch.segment_reduce((beta * far).exp_(), "sum", lengths=counts).T  # (n, c)
                ahead = cached.gather(1, true) - cached  # right: alpha ahead > behind
                ratio = behind / ahead
                above = ratio.masked_fill(ahead < 0, -torch.inf).amax(dim=1, keepdim=True)
                below = ratio.masked_fill(ahead >= 0, torch.inf).amin(dim=1, keepdim=True)
                right[i] += ((above < alphas) & (alphas < below)).sum(dim=0)
        return right.cpu()


class Released(TipAdapter):
    """beta and alpha are chosen on validation images; of an experience that has none, on training images held out."""

    def hold(self, frozen: Frozen) -> Tensor:
        return super().hold(frozen) if frozen.val is None else validated(self, frozen)


class TipAdapterF(TipAdapter):
    def __init__(self, clip: FrozenCLIP, *, beta: Positive, alpha: Positive, views: Few, scale: Scale):
        super().__init__(clip, beta=beta, alpha=alpha, tops=[1.0, 1.0], steps=[1, 1], views=views, scale=scale)

    def start(self, D: int) -> None:
        self.k = nn.ParameterList()  # (n, D) of each experience
        self.register_buffer("none", torch.empty(0, D), persistent=False)

    @property
    def keys(self) -> Tensor:
        return torch.cat([self.none, *self.k])

    def begin(self, e: Experience) -> None:
        self.k.requires_grad_(False)

    def remember(self, k: Tensor) -> None:
        self.k.append(nn.Parameter(k))

    def hold(self, frozen: Frozen) -> Tensor:
        return torch.zeros_like(frozen.y, dtype=torch.bool)


class ReleasedF(TipAdapterF):
    """tops, steps: as TipAdapter.  Of an experience that has no validation images, those of the others decide."""

    def __init__(self, clip: FrozenCLIP, *, beta: Positive, alpha: Positive, tops: Tops, steps: Steps, views: Few, scale: Scale):
        super().__init__(clip, beta=beta, alpha=alpha, views=views, scale=scale)
        self.betas, self.alphas = (grid(top, n) for top, n in zip(tops, steps))
        self.searched = self.initial
        self.register_buffer("best", torch.tensor(-1, dtype=torch.int64))  # images right after the best epoch so far
        self.register_buffer("best_epoch", torch.tensor(-1, dtype=torch.int64))
        self.register_buffer("best_k", torch.empty(0, clip.D))  # its keys

    def begin(self, e: Experience) -> None:
        super().begin(e)
        self.best.fill_(-1)

    def hold(self, frozen: Frozen) -> Tensor:
        return super().hold(frozen) if frozen.val is None else validated(self, frozen)

    @property
    def judges(self) -> tuple[Tensor, Tensor]:
        """The images that the epoch is chosen on."""
        return self.shown

    def right(self, model, beta: float, alpha: float) -> int:
        x, y = self.judges
        logits = model.zero_shot(Images(frozen=x), model.begun) + alpha * self.cached(x, model.begun, beta)
        return int((logits.argmax(dim=1) == y).sum())

    def after_epoch(self, model, epoch: int, epochs: int) -> None:
        if len(self.judges[1]) and (right := self.right(model, *self.initial)) > self.best:
            self.best.fill_(right)
            self.best_epoch.fill_(epoch)
            self.best_k = self.k[-1].detach().clone()

    def finish(self, model, e: Experience) -> None:
        if not len(self.best_k):
            return self.settle(*self.initial)
        self.k[-1].copy_(self.best_k)
        self.best_k = self.best_k[:0]
        self.searched = self.chosen(model, e)
        self.settle(*(self.searched if self.right(model, *self.searched) > self.best else self.initial))


def grid(top: float, n: int) -> list[float]:
    """n values from LOW, the top itself left out."""
    return [i * (top - LOW) / n + LOW for i in range(n)]


def validated(head: TipAdapter, frozen: Frozen) -> Tensor:
    """Take up the validation images: no training image is held out."""
    head.x.append(frozen.val.unit)
    head.y.append(frozen.val.y)
    return torch.zeros_like(frozen.y, dtype=torch.bool)
