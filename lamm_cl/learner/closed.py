"""What closed forms are made of: sums over an experience's images, in blocks of bounded memory.

Sums by class are matrix products with one-hot labels: unlike an index_add they have the same bits on a GPU every time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

NUMBERS = 2**24  # of a block: 64 MB in float32


def blocks(n: int, width: int) -> Iterator[slice]:
    """Rows 0 .. n, a block at a time, so that a block of rows of this width has at most NUMBERS numbers."""
    rows = max(1, NUMBERS // max(1, width))
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
