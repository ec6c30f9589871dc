"""What a method may choose: the base classes of its pieces, each of which does nothing until a page in methods/ fills it."""

from collections.abc import Sequence

from torch import Tensor, nn

from lamm_cl.errors import UserError
from lamm_cl.learner.prompts import Atom, noise, start
from lamm_cl.towers.clip import FrozenCLIP, Prompts


class ContextLearner(nn.Module):
    """The context of one method.  The image tower runs first, so that the text side may look at its features.

    templates: the base texts around "{}", the name;  n: how many context vectors stand in place of their first n tokens.
    """

    templates: Sequence[str]
    n: int = 0
    prompts_images = False  # True: the image tower takes prompts, so image features cannot be computed in advance
    reads_images = False  # True: every image has its own context, so text features cannot be computed in advance
    shared = True  # False: every class has its own context

    def grow(self, classes: range) -> None:
        """Start learning the classes of a new experience (only for contexts that belong to classes)."""

    def image(self) -> Prompts:
        return Prompts()

    def text(self, x: Tensor, classes: range) -> Prompts:
        """x: unit image features (B, D), for contexts that depend on the image."""
        return Prompts()

    def arrange(self, phrase: list[Atom], name: list[Atom]) -> list[Atom]:
        return phrase + name

    @property
    def frozen(self) -> bool:
        return not any(p.requires_grad for p in self.parameters())


class DeepContext(ContextLearner):
    """Text prompts P_0 .. P_{depth-1} (n, d): P_0 is the context, the others replace it at the input of the blocks 1, 2, ..."""

    prompts_images = True

    def __init__(self, clip: FrozenCLIP, *, n: int, init: str | None, depth: int):
        super().__init__()
        if not 1 <= depth <= clip.depth:
            raise UserError(f"context: depth: {depth}, but the towers have {clip.depth} blocks")
        template, first = start(clip, n, init)
        self.n, self.templates = n, (template,)
        self.P = nn.ParameterList([first, *(noise(n, clip.d) for _ in range(depth - 1))])

    def text(self, x: Tensor, classes: range) -> Prompts:
        first, *deep = self.P
        return Prompts(first.unsqueeze(0), deep)


class Labels(nn.Module):
    """What stands for the name of a class.  Here: its own tokens, as in every method but LAMM."""

    k: int = 0

    def grow(self, classes: range) -> None:
        """Start learning the classes of a new experience; those before are frozen."""

    def place(self, phrase: list[Atom], name: list[Atom]) -> tuple[list[Atom], list[Atom]]:
        """Where the label vectors stand: in the phrase or in the name of one prompt."""
        return phrase, name

    def forward(self, classes: range) -> Tensor | None:
        """-> label vectors (c, k, d)."""
        return None
