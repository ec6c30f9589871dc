"""What a method may choose, and when it is asked: the base classes of its pieces.

A method is a row of pieces: context x labels x tower x head x loss x memory.  Each base class does nothing until a page in
methods/ fills it, and a page implements moments only: it edits neither the model nor the loop.

    begin(e)                 an experience arrives: new parameters, old ones freeze; before the optimizer is made
    observe(e, frozen)       its images through the frozen tower: sums, closed forms, caches
    forward                  every step (what it gives is declared by the kind of piece), and Head.terms, Loss.backward
    after_epoch(model, epoch, epochs)
    finish(model, e)         it is learned: fuse, average, solve, choose exemplars; before the test
    keep(model, e)           every piece has finished: take with it what the next experience is held to

join(model) comes once, before all: the row is complete.

Two rules keep state small and resume free.  What a later experience or the test needs is a parameter or a persistent buffer: it
is among the learned tensors and in the state.  What `observe` sums up is a plain attribute and never saved: it is a pure function
of the stream, and a run that goes on replays `begin` and `observe` of past experiences.  Neither may therefore read a value that
was learned, unless into a persistent buffer.  Random draws in all moments come from torch's global generator, which the caller
seeds by the run's seed and the moment.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lamm_cl.errors import UserError
from lamm_cl.learner.output import Output
from lamm_cl.learner.prompts import Atom, noise, start
from lamm_cl.learner.shown import Experience, Frozen, Images
from lamm_cl.towers.additions import Additions
from lamm_cl.towers.clip import FrozenCLIP, Prompts

# What options are annotated with, so that no thousand million vectors are built before anybody is told.
Few = Annotated[int, Field(ge=1, le=1000)]  # vectors, blocks, tokens
Weight = Annotated[float, Field(ge=0, le=10**6)]  # of a loss term


class Piece(nn.Module):
    """What all pieces share.

    needs: what a step must bring or make: frozen, raw, trunk, pixels (of Images); tokens, reference (of the text side, for a
        loss), text_tokens (tokens without the padding behind the longest text), text_raw, text_each (for a head).
    draws: its forward draws random numbers: the loop then seeds torch around every step.
    looks_again: `finish` takes all images of the experience through the towers as they were learned, once (Frozen.batches).
    counted: the passes of images and prompts that it takes are among those that training/work.py counts.
    sums: names of plain attributes (a tensor, or a list or tuple of them) that `observe` sums up and a later experience needs:
        they count as kept.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    draws: ClassVar[bool] = False
    looks_again: ClassVar[bool] = False
    counted: ClassVar[bool] = True
    sums: ClassVar[tuple[str, ...]] = ()

    @property
    def moves_text(self) -> bool:
        """Whether its parameters change the text of classes learned before: then nothing of the text may be kept."""
        return False

    @property
    def learns_text(self) -> bool:
        """Of a context and labels: whether what they learn is in the text of the classes being learned."""
        return bool(learning(self))

    def join(self, model: nn.Module) -> None:
        """The row of pieces is complete, and nothing has arrived.  Raises UserError where the piece could not act in it."""

    def note(self, model: nn.Module) -> str:
        """What who runs this row of pieces must know, in one line; "" if nothing."""
        return ""

    def begin(self, e: Experience) -> None:
        """An experience arrives: new parameters, old ones freeze."""

    def observe(self, e: Experience, frozen: Frozen) -> None:
        """See the experience's images through the frozen tower; gradients are off."""

    def after_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        """Epoch `epoch` (from 0) of `epochs` is done; gradients are off."""

    def finish(self, model: nn.Module, e: Experience) -> None:
        """The experience is learned; gradients are off."""

    def keep(self, model: nn.Module, e: Experience) -> None:
        """Every piece has finished; the model is in evaluation, gradients are off."""

    def kept_bytes(self) -> int:
        """What is carried from one experience to the next: parameters, persistent buffers, and the sums of `observe`."""
        tensors = {id(tensor): tensor for tensor in self.state_dict(keep_vars=True).values()}
        for name in self.sums:
            found = getattr(self, name, None)
            tensors |= {id(tensor): tensor for tensor in ([found] if isinstance(found, Tensor) else found or ())}
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def learning(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn now."""
    return [p for p in module.parameters() if p.requires_grad]


def check_shared(model: nn.Module, where: str) -> None:
    """Raises UserError if no parameter learns in every experience: there is nothing to hold."""
    if not model.shared:
        told = "what is learned for a class is frozen when the next classes come, so there is nothing to hold"
        raise UserError(f"{where}: nothing that learns is shared by old and new classes: {told}")


def count_learning(module: nn.Module) -> int:
    """Of how many numbers they are."""
    return sum(p.numel() for p in learning(module))


class ContextLearner(Piece):
    """What stands around the name.  The image tower runs first, so that the text side may look at its features.

    templates: the base texts around "{}", the name;  n: how many context vectors stand in place of their first n tokens;
    first_trains: of several templates only the first one in training.
    """

    templates: Sequence[str]
    n: int = 0
    prompts_images = False  # True: the image tower takes prompts, so image features cannot be computed in advance
    reads_images = False  # True: every image has its own context, so text features cannot be computed in advance
    shared = True  # False: every class has its own context
    first_trains = False

    def image(self, x: Images) -> Prompts:
        """Prompts of the image tower; x: what the step brings, for prompts that are chosen by the frozen feature."""
        return Prompts()

    def text(self, x: Tensor | None, classes: range) -> Prompts:
        """x: unit image features (B, D), for contexts that depend on the image."""
        return Prompts()

    def arrange(self, phrase: list[Atom], name: list[Atom]) -> list[Atom]:
        return phrase + name

    @property
    def moves_text(self) -> bool:
        """A context that is learned is shared by all classes; one of its own for each class says no."""
        return self.learns_text


class Words(ContextLearner):
    """A fixed context: "a photo of a"."""

    def __init__(self, *, init: str = "a photo of a"):
        super().__init__()
        self.templates = (f"{init} {{}}.",)


class DeepContext(ContextLearner):
    """Text prompts P_0 .. P_{depth-1} (n, d): P_0 is the context, the others replace it at the input of the blocks 1, 2, ..."""

    prompts_images = True

    def __init__(self, clip: FrozenCLIP, *, n: Few, init: str | None, depth: Few):
        super().__init__()
        if not 1 <= depth <= clip.depth:
            raise UserError(f"context: depth: {depth}, but the towers have {clip.depth} blocks")
        template, first = start(clip, n, init)
        self.n, self.templates = n, (template,)
        self.P = nn.ParameterList([first, *(noise(n, clip.d) for _ in range(depth - 1))])

    def text(self, x: Tensor | None, classes: range) -> Prompts:
        first, *deep = self.P
        return Prompts(first.unsqueeze(0), deep)


class Labels(Piece):
    """What stands for the name of a class.  Here: its own tokens, as in every method but LAMM."""

    k: int = 0

    def place(self, phrase: list[Atom], name: list[Atom]) -> tuple[list[Atom], list[Atom]]:
        """Where the label vectors stand: in the phrase or in the name of one prompt."""
        return phrase, name

    def forward(self, classes: range) -> Tensor | None:
        """-> label vectors (c, k, d)."""
        return None


class Head(Piece):
    """How features become logits, with its own loss terms.  Here: CLIP's own, the cosine with the text at its scale.

    reads_text: False: the text tower never runs, and the card needs neither context nor labels.
    scores_unseen: False: a class that is not learned yet has no score: undefined, not chance.
    """

    reads_text: ClassVar[bool] = True
    scores_unseen: ClassVar[bool] = True

    def forward(self, out: Output) -> Tensor:
        """-> logits (B, c) of out.classes."""
        return out.scale * out.similarity

    def terms(self, out: Output, targets: Tensor) -> dict[str, Tensor]:
        """The loss terms that are the head's own; targets (B,) count from the first class in play."""
        return {"cross_entropy": F.cross_entropy(out.logits, targets)}


class Loss(Piece):
    """What else is minimised, and how gradients are combined.  weights: name of a term -> its weight."""

    weights: dict[str, float]

    def forward(self, model: nn.Module, out: Output, targets: Tensor) -> dict[str, Tensor]:
        """The unweighted terms; targets (B,) count from the first class in play."""
        raise NotImplementedError

    # A loss that combines gradients itself also has
    #     def backward(self, model: nn.Module, terms: dict[str, Tensor]) -> None
    # which sees all weighted terms by name, and leaves gradients in the parameters.


class Losses(Loss):
    """Several at once, all their terms together; they see an experience in this order.  One may combine gradients."""

    def __init__(self, parts: Sequence[Loss]):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.needs = frozenset().union(*(part.needs for part in parts))  # type: ignore[misc]
        self.weights = {name: weight for part in parts for name, weight in part.weights.items()}
        if len(self.weights) < sum(len(part.weights) for part in parts):
            raise UserError(f"two losses have a term of one name: {', '.join(self.weights)}")
        combining = [part for part in parts if hasattr(part, "backward")]
        if len(combining) > 1:
            raise UserError(f"{' and '.join(type(each).__name__ for each in combining)} both combine gradients; expected one")
        if combining:
            self.backward = combining[0].backward

    def forward(self, model: nn.Module, out: Output, targets: Tensor) -> dict[str, Tensor]:
        return {name: term for part in self.parts for name, term in part(model, out, targets).items()}


class Tower(Piece, Additions):
    """What is added inside the frozen blocks of the towers: Additions that are learned.

    One that changes the text tower says so by `moves_text`; one that also draws there needs "tokens": all positions of every
    class then run in training, for a shared prefix would draw once for all classes.

    own: towers with weights that learn (FrozenCLIP.unfrozen), through which images and texts then go; None: the frozen ones.
    whole_texts: texts go through all positions at the test too, for one that draws there.
    """

    needs = frozenset({"pixels"})
    own: FrozenCLIP | None = None
    whole_texts: ClassVar[bool] = False


class Memory(Piece):
    """Which old samples join an experience: ids, never pixels."""

    weights: dict[str, float]

    def samples(self, e: Experience) -> Tensor:
        """-> positions in the training split (m,) of samples of earlier experiences."""
        return torch.empty(0, dtype=torch.int64)

    def note(self, model: nn.Module) -> str:
        if model.shared:
            return ""
        told = "what was learned for old ones is frozen, and their images only tell the new ones what they are not"
        return f"memory: nothing that learns is shared by old and new classes: {told}"

    # A memory that minimises something else on its samples than the head does has `weights`, and also
    #     def terms(self, model: nn.Module, out: Output, targets: Tensor) -> dict[str, Tensor]
    # as a loss has, of the old samples of a step; the head's terms are then of the current ones alone.
