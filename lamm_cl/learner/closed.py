"""What closed forms are made of: sums over an experience's images, in blocks of bounded memory.

Sums by class are matrix products with one-hot labels: unlike an index_add they have the same bits on a GPU every time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from lamm_cl.learner.shown import Frozen
from lamm_cl.seeds import derive

SUMMED = 2**24  # numbers of a block that is summed: 64 MB in float32
SCORED = 2**22  # in evaluation


def blocks(n: int, width: int, numbers: int = SUMMED) -> Iterator[slice]:
    """Rows 0 .. n, as many at a time as have so many numbers, of rows of this width."""
    rows = max(1, numbers // max(1, width))
    return (slice(i, i + rows) for i in range(0, n, rows))


def one_hot(y: Tensor, classes: range, dtype: torch.dtype) -> Tensor:
    """Class ids (n,) -> (n, c)."""
    return (y.unsqueeze(1) == torch.arange(classes.start, classes.stop, device=y.device)).to(dtype)


def class_means(x: Tensor, y: Tensor, classes: range) -> Tensor:
    """x (n, D), class ids y (n,) -> float64 (c, D)."""
    total = x.new_zeros(len(classes), x.shape[1], dtype=torch.float64)
    count = x.new_zeros(len(classes), 1, dtype=torch.float64)
    for at in blocks(len(x), x.shape[1] + len(classes)):
        Y = one_hot(y[at], classes, torch.float64)
        total.addmm_(Y.T, x[at].double())
        count += Y.sum(dim=0).unsqueeze(1)
    return total / count


def views(frozen: Frozen, n: int, scale: tuple[float, float], kind: str) -> list[Tensor]:
    """n augmented views of an experience's images, each (m, D) of that kind: unit or raw.

    One where there are only features, which nothing augments: n copies would pass for n times as many images.
    """
    first = getattr(frozen.view(0, scale), kind)
    if torch.equal(first, getattr(frozen, kind)):
        return [first]
    return [first, *(getattr(frozen.view(k, scale), kind) for k in range(1, n))]


def held_out(y: Tensor, ids: Tensor, share: float, seed: int) -> Tensor:
    """Which of an experience's images to choose settings on, (n,) bool: that share of each class, at least one, of two or more.

    A class's choice depends on its images and the seed alone, not on the experience that brings it.
    """
    held = torch.zeros(len(y), dtype=torch.bool)
    classes, found = y.tolist(), ids.tolist()
    mine: dict[int, list[int]] = {}
    for at in sorted(range(len(classes)), key=lambda at: found[at]):
        mine.setdefault(classes[at], []).append(at)
    for c, places in mine.items():
        n = min(max(1, round(share * len(places))), len(places) - 1)
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(derive(seed, "held out", c)))
        held[[places[i] for i in order[:n]]] = True
    return held.to(y.device)
