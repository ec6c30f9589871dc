"""What may be added inside the frozen blocks: low-rank deltas on q, k, v and o, experts beside the MLP.

Letters: N sequences, L positions, d the tower's own width (text d, image w).
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

TOWERS = ("image", "text")


class Where(NamedTuple):
    """A block: of which tower ("image" or "text"), and which, from 0."""

    tower: str
    block: int


class Additions:
    """Adds nothing: a page in methods/ fills in what it needs.  The argument `tower` of FrozenCLIP.image, prefix, text, tokens.

    Every method is asked in every block of both towers and may answer None: nothing here.  The answer may depend on the
    position's own vector and, in `beside`, on position 0 alone, since the towers run as few positions as they can: the text's
    shared prefix once (N = 1), the positions of a class behind it, in the last block those that are read.  What draws (dropout,
    noise) should draw otherwise for every text only where the text goes through `FrozenCLIP.tokens`, which runs all positions.
    """

    def qkv(self, where: Where, h: Tensor) -> Tensor | None:
        """A block's normed input (N, L, d) -> (N, L, 3 d), added to its queries, keys and values."""
        return None

    def out(self, where: Where, a: Tensor) -> Tensor | None:
        """What the attention found, heads side by side (N, L, d) -> (N, L, d), added to its output projection."""
        return None

    def beside(self, where: Where, x: Tensor, first: Tensor) -> Tensor | None:
        """The residual stream behind the attention (N, L, d), and its position 0 (N, d) -> (N, L, d), added to the MLP's output.

        Position 0 is the class token or the start of text; `first` has it where x does not.
        """
        return None


@dataclass(frozen=True)
class AtBlock:
    """The additions of one block."""

    additions: Additions
    where: Where

    def qkv(self, h: Tensor) -> Tensor | None:
        return self.additions.qkv(self.where, h)

    def out(self, a: Tensor) -> Tensor | None:
        return self.additions.out(self.where, a)

    def beside(self, x: Tensor, first: Tensor) -> Tensor | None:
        return self.additions.beside(self.where, x, first)


ABSENT = AtBlock(Additions(), Where("", 0))


def of_blocks(additions: Additions, tower: str, blocks: int) -> list[AtBlock]:
    """For each block of a tower what is added there."""
    return [AtBlock(additions, Where(tower, i)) for i in range(blocks)]
