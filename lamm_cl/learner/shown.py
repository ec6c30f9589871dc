"""What a learner is shown: experiences, the images of a step, and an experience's images through the frozen tower."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Experience:
    """One experience of a stream: its number (from 0) and its classes, which follow those seen before."""

    number: int
    classes: range

    @property
    def seen(self) -> range:
        """The classes of this experience and of all before."""
        return range(self.classes.stop)


@dataclass
class Images:
    """What a step brings, B images: each field is there if a piece needs it.  All of one augmented view."""

    frozen: Tensor | None = None  # (B, D) the frozen tower's unit features
    raw: Tensor | None = None  # (B, D) the same before they were normalised
    trunk: Tensor | None = None  # (B, w) before the projection
    pixels: Tensor | None = None  # (B, 3, H, W)
    ids: Tensor | None = None  # (B,) positions in the split

    def parts(self) -> dict[str, Tensor]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def __len__(self) -> int:
        return len(next(iter(self.parts().values())))

    def to(self, device: torch.device, **options) -> "Images":
        return replace(self, **{name: tensor.to(device, **options) for name, tensor in self.parts().items()})

    def split(self, size: int) -> Iterator["Images"]:
        """Parts of at most `size` images."""
        parts = {name: tensor.split(size) for name, tensor in self.parts().items()}
        return (Images(**dict(zip(parts, each))) for each in zip(*parts.values(), strict=True))


class Frozen(Protocol):
    """What `observe` is shown: the n training images of an experience through the frozen image tower, without augmentation."""

    ids: Tensor  # (n,) positions in the split
    y: Tensor  # (n,) class ids by arrival

    @property
    def unit(self) -> Tensor:
        """(n, D)."""

    @property
    def raw(self) -> Tensor:
        """(n, D), before they were normalised."""

    @property
    def trunk(self) -> Tensor:
        """(n, w), before the projection."""

    def batches(self, size: int = ...) -> Iterator[tuple[Images, Tensor]]:
        """(pixels, class ids) of all n, at most `size` at a time, for a tower that was changed; where there are images."""

    def view(self, k: int, scale: tuple[float, float] = (0.08, 1.0)) -> "Frozen":
        """The k-th augmented view (random resized crop of `scale` of the area, flip); as it is where there are no images."""

    def noisy(self, k: int, std: float, clamp: bool = False) -> "Frozen":
        """The k-th view with normal noise on its pixels, cut off to [0, 1] or not; as it is where there are no images."""

    @property
    def val(self) -> "Frozen | None":
        """Validation images of the experience's classes, None if there are none."""
