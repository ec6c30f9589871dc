"""Where things stand in the prompts of C classes, and what a method may put there.

A prompt is a row of *atoms*: a fixed token of the base text, a context vector, or a label vector.  Every method here is an
arrangement of atoms: CoOp's name at the end, middle or front, LAMM's label tokens, one vector for a whole name.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .clip import FrozenCLIP, Prompts
from .errors import UserError
from .transformer import Prefix


class Atom(NamedTuple):
    kind: str  # "token": index = position in the base text;  "context", "label": index = which vector
    index: int


class ContextLearner(nn.Module):
    """The context of one method.  The image tower runs first, so that the text side may look at its features.

    templates: the base texts around "{}", the name;  n: how many context vectors stand in place of their first n tokens.
    """

    templates: Sequence[str]
    n: int = 0
    prompts_images = False  # True: the image tower takes prompts, so image features cannot be computed in advance
    reads_images = False  # True: every image has its own context, so text features cannot be computed in advance
    shared = True  # False: every class has its own context

    def settle(self, names: list[str]) -> None:
        """See all class names of the stream, once."""

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

    def settle(self, clip: FrozenCLIP, names: list[str]) -> None:
        """See all class names of the stream, once: what depends on them must not change with the experience."""

    def grow(self, classes: range) -> None:
        """Start learning the classes of a new experience; those before are frozen."""

    def place(self, phrase: list[Atom], name: list[Atom]) -> tuple[list[Atom], list[Atom]]:
        """Where the label vectors stand: in the phrase or in the name of one prompt."""
        return phrase, name

    def forward(self, classes: range) -> Tensor | None:
        """-> label vectors (c, k, d)."""
        return None


class PerClass(nn.Module):
    """Vectors that belong to classes: one parameter (c_new, m, d) per experience, the past ones frozen.

    start (C, m, d): where every class begins, and what stands for a class that is not learned yet.  Past vectors are in no
    optimizer, so neither weight decay nor momentum can move them.
    """

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


class Frame(nn.Module):
    """The prompts of C classes under one template: their frozen tokens, and the slots for context and label vectors.

    fixed (C, L, d): the tokens' vectors;  slot (C, L): -1 for a fixed token, else which of [context (n) | labels (k)].
    L reaches to the last end of text (EOT); behind it there is only padding.
    """

    def __init__(self, clip: FrozenCLIP, names: list[str], template: str, context: ContextLearner, labels: Labels):
        super().__init__()
        self.clip, self.n, self.shared = clip, context.n, context.shared
        self.tokens = clip.tokenize([in_template(template, name) for name in names])  # (C, 77)
        before = len(clip.words(template.partition("{}")[0]))
        rows = []
        for name in names:
            phrase = [Atom("context", i) for i in range(self.n)]
            phrase += [Atom("token", 1 + i) for i in range(self.n, before)]
            spoken = [Atom("token", 1 + before + i) for i in range(len(clip.words(name)))]
            rest = range(1 + before + len(spoken), self.tokens.shape[1])
            row = [Atom("token", 0), *context.arrange(*labels.place(phrase, spoken)), *(Atom("token", i) for i in rest)]
            rows.append(row + [row[-1]] * (self.tokens.shape[1] - len(row)))  # a shortened name leaves more padding
        ends = self.tokens.argmax(dim=-1).tolist()
        self.eot = [row.index(Atom("token", end)) for row, end in zip(rows, ends)]
        L = max(self.eot) + 1
        slot = [[-1 if a.kind == "token" else a.index + self.n * (a.kind == "label") for a in row[:L]] for row in rows]
        at = torch.tensor([[a.index if a.kind == "token" else 0 for a in row[:L]] for row in rows], device=clip.device)
        ids = self.tokens.gather(1, at)
        self.register_buffer("end", torch.tensor(self.eot, device=clip.device), persistent=False)
        self.register_buffer("slot", torch.tensor(slot, device=clip.device), persistent=False)
        self.register_buffer("fixed", clip.embed(ids), persistent=False)
        self.P = self._shared_prefix(ids)
        self.constant_prefix: Prefix | None = None

    def _shared_prefix(self, ids: Tensor) -> int:
        """How many leading positions are the same in every prompt; EOT, asked for per class, never counts."""
        common = (ids == ids[0]) & (self.slot == self.slot[0])
        common &= self.slot < (self.n if self.shared else 0)
        return min(int(common.all(dim=0).int().cumprod(0).sum()), min(self.eot))

    def assemble(self, context: Tensor | None, labels: Tensor | None, classes: range, start: int, stop: int) -> Tensor:
        """Positions start .. stop-1 of the prompts of `classes` -> (c, s, d), or (B, c, s, d) with a context per image.

        context (1, n, d), (c, n, d) or (B, 1, n, d);  labels (c, k, d).
        """
        at = slice(classes.start, classes.stop), slice(start, stop)
        fixed, slot = self.fixed[at], self.slot[at]
        vectors = [v for v in (context, labels) if v is not None]
        if not vectors:
            return fixed
        batch = (*vectors[0].shape[:-3], len(classes))
        vectors = torch.cat([v.expand(*batch, *v.shape[-2:]) for v in vectors], dim=-2)
        filled = vectors.gather(-2, slot.clamp(min=0).unsqueeze(-1).expand(*batch, *slot.shape[1:], vectors.shape[-1]))
        return torch.where(slot.unsqueeze(-1) < 0, fixed, filled)

    def whole(self, context: Tensor | None, labels: Tensor | None, classes: range) -> Tensor:
        """The prompts with their padding (c, 77, d), for the plain tower."""
        prompts = self.assemble(context, labels, classes, 0, self.fixed.shape[1])
        padding = self.clip.embed(self.tokens.new_zeros(1)).expand(len(classes), self.clip.length - prompts.shape[-2], -1)
        return torch.cat([prompts, padding], dim=-2)

    def encode(self, prompts: Prompts, labels: Tensor | None, classes: range) -> Tensor:
        """Unit text features (c, D), or (B, c, D) if the context depends on the image.  The shared prefix runs once."""
        stop = 1 + max(self.eot[classes.start : classes.stop])
        suffix = self.assemble(prompts.first, labels, classes, self.P, stop)  # ([B,] c, S, d)
        eot = self.end[classes.start : classes.stop].expand(suffix.shape[:-2])
        z = self.clip.text(self._prefix(prompts), suffix.flatten(0, -3), eot.flatten())
        return z.view(*suffix.shape[:-2], -1)

    def _prefix(self, prompts: Prompts) -> Prefix:
        """The shared prefix of one prompt, or of one per image; of a fixed template it never changes."""
        if prompts.first is None and self.constant_prefix is not None:
            return self.constant_prefix
        context = prompts.first if self.shared else None
        prefix = self.clip.prefix(self.assemble(context, None, range(1), 0, self.P).flatten(0, -3), prompts.deep)
        if prompts.first is None:
            self.constant_prefix = prefix
        return prefix

    def last_tokens(self, prompts: Prompts, labels: Tensor | None, classes: range) -> Tensor:
        """The last block's output at all positions, padding included (c, 77, d)."""
        return self.clip.tokens(self.whole(prompts.first, labels, classes), prompts.deep)

    def read(self, tokens: Tensor, classes: range) -> Tensor:
        """Unit text features (c, D) from the last block's output (c, L, d)."""
        at = torch.arange(len(classes), device=tokens.device)
        return self.clip.read(tokens[at, self.end[classes.start : classes.stop]])


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
