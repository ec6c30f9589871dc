"""Atoms, vectors and words: what prompts are made of.

A prompt is a row of *atoms*: a fixed token of the base text, a context vector, or a label vector.  Every method here is an
arrangement of atoms: CoOp's name at the end, middle or front, LAMM's label tokens, one vector for a whole name.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from lamm_cl.errors import UserError
from lamm_cl.towers.clip import FrozenCLIP


class Atom(NamedTuple):
    kind: str  # "token": at = position in the base text;  "context", "label": at = which vector
    at: int


class PerClass(nn.Module):
    """Vectors that belong to classes: one parameter (c_new, m, d) per experience, the past ones frozen.

    start (C, m, d): where every class begins, and what stands for a class that is not learned yet.  Past vectors are in no
    optimizer, so neither weight decay nor momentum can move them.
    """

    start: Tensor

    def __init__(self, start: Tensor):
        super().__init__()
        self.register_buffer("start", start, persistent=False)
        self.parts = nn.ParameterList()
        self.experiences: list[range] = []

    def grow(self, classes: range) -> None:
        self.parts.requires_grad_(False)
        for past in self.parts:
            past.grad = None
        self.parts.append(nn.Parameter(self.start[classes.start : classes.stop].clone()))
        self.experiences.append(classes)

    def current(self) -> tuple[Tensor, Tensor]:
        """The vectors being learned, and their start, both (c_new, m, d)."""
        classes = self.experiences[-1]
        return self.parts[-1], self.start[classes.start : classes.stop]

    def forward(self, classes: range) -> Tensor:
        """-> (c, m, d)."""
        learned = self.experiences[-1].stop if self.experiences else 0
        pieces = [*zip(self.parts, self.experiences), (self.start[learned:], range(learned, len(self.start)))]
        found = []
        for vectors, mine in pieces:
            low, high = max(classes.start, mine.start), min(classes.stop, mine.stop)
            if low < high:
                found.append(vectors[low - mine.start : high - mine.start])
        return found[0] if len(found) == 1 else torch.cat(found)


class Templates(str):
    """A template for every class, by arrival, where they differ; as a text, what prompts that all classes share begin from."""

    each: tuple[str, ...]

    def __new__(cls, each: Sequence[str]) -> Self:
        made = super().__new__(cls, "a photo of a {}.")
        made.each = tuple(each)
        return made

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[str, ...]]]:
        return type(self), (self.each,)


def each_with(templates: Sequence[str]) -> str:
    """The templates of the classes by arrival as one: a plain text where all have the same."""
    return templates[0] if len(set(templates)) == 1 else Templates(templates)


def of_class(template: str, c: int) -> str:
    return template.each[c] if isinstance(template, Templates) else template


def filled(template: str, names: Sequence[str]) -> list[str]:
    """The prompts of all classes."""
    return [in_template(of_class(template, c), name) for c, name in enumerate(names)]


def in_template(template: str, name: str) -> str:
    """A template with a class name in it.  Raises UserError for one without exactly one place for it."""
    if template.count("{}") != 1:
        raise UserError(f"template: {template!r}: expected one {{}}, where the class name goes")
    return template.replace("{}", name)


def words(clip: FrozenCLIP, phrase: str, n: int) -> Tensor:
    """The first n token vectors of a phrase (n, d)."""
    return clip.embed(clip.tokenize([phrase]))[0, 1 : 1 + n].clone()


def start(clip: FrozenCLIP, n: int, init: str | None) -> tuple[str, nn.Parameter]:
    """The base text of n context vectors, and where they start (n, d): the first n tokens of `init`, or noise under "X X ...".

    The text is that of CoOp's release (trainers/coop.py 75-107), which the other methods took over.
    """
    if init is None:
        return " ".join(["X"] * n) + " {}.", noise(n, clip.d)
    if n > len(clip.words(init)):
        raise UserError(f"context: n: {n} vectors, but init: {init!r} has {len(clip.words(init))} tokens")
    return f"{init} {{}}.", nn.Parameter(words(clip, init, n))


def noise(*shape: int) -> nn.Parameter:
    """CLIP's own initialisation scale, used by every paper here."""
    return nn.Parameter(0.02 * torch.randn(*shape))
