"""One learner: a row of pieces on the frozen towers.  A page in methods/ fills pieces; nobody edits this file for a method."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import ContextLearner, Head, Labels, Loss, Losses, Memory, Piece, Tower
from lamm_cl.learner.shown import Experience, Frozen, Images
from lamm_cl.learner.table import TextTable
from lamm_cl.learner.text import TextFeatures, mean_direction, within
from lamm_cl.seeds import derive
from lamm_cl.towers.clip import FrozenCLIP, Prompts
from lamm_cl.towers.features import FeaturesOnly

PROMPTS = 4096  # that run through the text tower at a time in evaluation, where every image has its own


class Learner(nn.Module):
    """Input: Images.  experiences: the classes of each, which follow one another.

    texts, reference: text features of classes, learned and with the names' own tokens; None where nobody reads them.
    first: what training reads in place of texts, under the first template alone; None where it is all the same.
    """

    def __init__(self, clip: FrozenCLIP | FeaturesOnly, experiences: list[range], *, context: ContextLearner, labels: Labels,
                 head: Head, tower: Tower | None = None, extra_loss: Loss | None = None, memory: Memory | None = None,
                 texts: TextFeatures | TextTable | None = None, reference: TextFeatures | None = None,
                 first: TextFeatures | None = None,
                 train_label_space: str = "experience", seed: int = 0):  # fmt: skip
        super().__init__()
        self.clip, self.experiences, self.seed = clip, experiences, seed
        self.context, self.labels = context, labels
        self.texts, self.reference, self.first = texts, reference, first
        self.extra_loss, self.head, self.tower, self.memory = extra_loss, head, tower, memory
        self.train_label_space = train_label_space
        self.learned = 0  # experiences learned, or being learned
        # What learns in every experience; what comes with one belongs to its classes, and stays.
        self.shared = [name for name, p in self.named_parameters() if p.requires_grad]

    @property
    def pieces(self) -> list[Piece]:
        """Those there are, in the order in which they see an experience."""
        losses = self.extra_loss.parts if isinstance(self.extra_loss, Losses) else [self.extra_loss]
        row = (self.labels, self.context, self.tower, *losses, self.memory, self.head)
        return [piece for piece in row if piece is not None]

    @property
    def needs(self) -> frozenset[str]:
        """Of what a step must bring, the union over pieces."""
        return frozenset().union(*(piece.needs for piece in self.pieces)) | ({"pixels"} if self.context.prompts_images else set())

    @property
    def needs_pixels(self) -> bool:
        """Whether the image tower runs in every step, because something in it is learned."""
        return "pixels" in self.needs

    @property
    def draws(self) -> bool:
        return any(piece.draws for piece in self.pieces)

    @property
    def scores_unseen(self) -> bool:
        """Whether classes that are not learned yet have a score."""
        return self.head.scores_unseen

    @property
    def classes(self) -> range:
        """All classes of the stream."""
        return range(self.experiences[-1].stop)

    @property
    def begun(self) -> range:
        """The classes learned, or being learned."""
        return range(self.experiences[self.learned - 1].stop if self.learned else 0)

    @property
    def in_play(self) -> range:
        """The classes that compete in the training loss."""
        current = self.experiences[self.learned - 1]
        return current if self.train_label_space == "experience" else range(current.stop)

    def shared_row(self) -> Tensor:
        """The shared parameters in a row (P,)."""
        named = dict(self.named_parameters())
        return torch.cat([named[name].flatten() for name in self.shared])

    def kept_bytes(self) -> int:
        """What the method carries from one experience to the next."""
        return sum(piece.kept_bytes() for piece in self.pieces)

    # --- moments ------------------------------------------------------------------------------------------------------

    def experience(self, i: int) -> Experience:
        return Experience(i, self.experiences[i])

    def begin(self, i: int) -> None:
        """Take up the classes of experience i (from 0), to train on it; idempotent."""
        if i == self.learned:
            with self._seeded("begin", i):
                for piece in self.pieces:
                    piece.begin(self.experience(i))
            self.to(self.clip.device)
            self.learned += 1
        self.refresh()

    @torch.no_grad()
    def observe(self, i: int, frozen: Frozen) -> None:
        with self._seeded("observe", i):
            for piece in self.pieces:
                piece.observe(self.experience(i), frozen)
        self.to(self.clip.device)

    def take_up(self, i: int, observed: Callable[[int], Frozen]) -> None:
        """Experience i arrives: its classes begin, and its images are observed; idempotent."""
        fresh = i == self.learned
        self.begin(i)
        if fresh:
            self.observe(i, observed(i))

    @torch.no_grad()
    def after_epoch(self, epoch: int, epochs: int) -> None:
        for piece in self.pieces:
            piece.after_epoch(self, epoch, epochs)

    @torch.no_grad()
    def finish(self, i: int) -> None:
        with self._seeded("finish", i):
            for piece in self.pieces:
                piece.finish(self, self.experience(i))
            self.refresh()
            training = self.training
            self.eval()
            for piece in self.pieces:
                piece.keep(self, self.experience(i))
            self.train(training)

    @contextmanager
    def _seeded(self, moment: str, i: int) -> Iterator[None]:
        """torch's global generator, seeded inside and as before outside."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, moment, i))
            yield

    # --- texts --------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Before training: forget text features that are about to change, and compute once those that are not.

        One rule for all pieces: where a piece moves the text of classes learned before, nothing stays; else, where the
        current classes have vectors of their own that learn, all others stay; else everything does.
        """
        seen = self.experiences[: self.learned]
        learned = (self.context, self.labels)
        for texts, learning in ((self.texts, learned), (self.first, learned), (self.reference, (self.context,))):
            if texts is None:
                continue
            texts.constant = self._constant(learning)
            texts.forget([mine for mine in self.experiences if mine not in texts.constant])
            if texts.constant and not self.context.reads_images:
                texts.keep(self.context.text(None, self.classes), [mine for mine in seen if mine in texts.constant])

    def _constant(self, learning: tuple[Piece, ...]) -> list[range]:
        """The experiences whose text features stay while these pieces learn."""
        if any(piece.moves_text for piece in self.pieces):
            return []
        own = any(piece.learns_text for piece in learning)
        current = self.experiences[self.learned - 1 : self.learned] if own else []
        return [mine for mine in self.experiences if mine not in current]

    def train(self, mode: bool = True) -> "Learner":
        """Training makes text features stale that learn; evaluation keeps them once they were computed."""
        super().train(mode)
        for texts in (self.texts, self.first) if mode else ():
            if texts is not None:
                texts.forget([mine for mine in self.experiences if mine not in texts.constant])
        return self

    def text_features(self, prompts: Prompts, classes: range) -> Tensor:
        """(c, D), or (B, c, D).  What is asked in evaluation without gradients is kept for the next batch."""
        assert self.texts is not None
        if self.training and self.first is not None:
            return self.first.features(prompts, classes)
        if not (self.training or torch.is_grad_enabled() or self.context.reads_images):
            self.texts.keep(self.context.text(None, self.classes), within(self.experiences, classes))
        return self.texts.features(prompts, classes)

    # --- a step -------------------------------------------------------------------------------------------------------

    def output(self, x: Images, classes: range) -> Output:
        """Image features, text features and logits over `classes`."""
        out = self.features(x, classes)
        out.logits = self.head(out)
        return out

    def features(self, x: Images, classes: range) -> Output:
        """What the head is given: an output without logits."""
        image_prompts = self.context.image(x)
        image, raw, trunk = self.image_features(x, image_prompts)
        prompts = self.context.text(image, classes) if self.head.reads_text else Prompts()
        tokens = text = None
        if self.texts is not None:
            if self.needs & {"tokens", "text_tokens"} and self.training:
                assert isinstance(self.texts, TextFeatures)  # a table has no tokens
                (frame,) = self.texts.frames
                tokens = frame.last_tokens(prompts, self.labels(classes), classes, padded="tokens" in self.needs)  # (c, L, d)
                text = frame.read(tokens, classes)
            else:
                text = self.text_features(prompts, classes)
        out = Output(x, image, text, prompts, classes, self.clip.scale, tokens, image_prompts, raw, trunk)
        if text is not None and "text_raw" in self.head.needs:
            out.text_raw, out.text = text, F.normalize(text, dim=-1)
        if text is not None and "text_each" in self.head.needs:
            out.text_each, out.text = text, mean_direction(list(F.normalize(text, dim=-1)))
        return out

    def zero_shot(self, x: Images, classes: range) -> Tensor:
        """CLIP's own logits (B, c), whatever the head: for heads that add to them, and choose by how much."""
        chunk = max(1, PROMPTS // len(classes)) if self.context.reads_images else max(1, len(x))
        outs = (self.features(part, classes) for part in x.split(chunk))
        return torch.cat([out.scale * out.similarity for out in outs])

    def image_features(self, x: Images, prompts: Prompts) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """(unit, raw, trunk): from the tower where something in it is learned, else those that the step brought."""
        if x.pixels is None:
            return x.frozen, x.raw, x.trunk
        tower = {"tower": self.tower} if self.tower is not None else {}
        clip = (self.tower and self.tower.own) or self.clip
        if not self.needs & {"raw", "trunk"}:
            return clip.image(x.pixels, prompts, **tower), None, None
        found = clip.image_all(x.pixels, prompts, **tower)
        return found.unit, found.raw, found.trunk if "trunk" in self.needs else None

    @torch.no_grad()
    def frozen(self, x: Images) -> Tensor:
        """The frozen tower's unit features (B, D) of what a step brought: from its pixels where they were not brought."""
        if x.frozen is not None:
            return x.frozen
        assert x.pixels is not None
        return self.clip.image(x.pixels)

    def shown(self, frozen: Frozen, size: int) -> Iterator[tuple[Images, Tensor]]:
        """(images, class ids) of an experience as a step brings them, none augmented, at most `size` at a time."""
        needs = self.needs
        kinds = {"frozen": "unit", "raw": "raw", "trunk": "trunk"}
        wanted = [name for name in kinds if name in needs or (name == "frozen" and "pixels" not in needs)]
        images = Images(**{name: getattr(frozen, kinds[name]) for name in wanted}, ids=frozen.ids.to(self.clip.device))
        seen = (x.pixels for x, _ in frozen.batches(size)) if "pixels" in needs else repeat(None)
        for x, y, pixels in zip(images.split(size), frozen.y.split(size), seen):
            yield replace(x, pixels=pixels), y

    def loss(self, x: Images, targets: Tensor) -> tuple[Output, dict[str, Tensor]]:
        """-> output over the classes in play, weighted loss terms by name; targets (B,) are class ids by arrival."""
        out = self.output(x, self.in_play)
        return out, self.terms(out, targets)

    def terms(self, out: Output, targets: Tensor) -> dict[str, Tensor]:
        """The weighted loss terms of an output; targets as in `loss`."""
        targets = targets - out.classes.start
        terms = self._supervised(out, targets)
        if self.extra_loss is not None:
            extra = self.extra_loss(self, out, targets)
            terms |= {name: self.extra_loss.weights[name] * term for name, term in extra.items()}
        return terms

    def _supervised(self, out: Output, targets: Tensor) -> dict[str, Tensor]:
        """The head's terms, and a memory's own in their place on samples of earlier experiences."""
        memory, apart = self.memory, getattr(self.memory, "terms", None)
        old = targets < self.experiences[self.learned - 1].start - out.classes.start
        if memory is None or apart is None or not old.any():
            return dict(self.head.terms(out, targets))
        terms = {} if old.all() else dict(self.head.terms(out.of(~old), targets[~old]))
        mine = apart(self, out.of(old), targets[old])
        return terms | {name: memory.weights[name] * term for name, term in mine.items()}

    def backward(self, terms: dict[str, Tensor], total: Tensor) -> None:
        """Gradients of a step, of `total` unless the loss combines those of the terms itself."""
        combine = getattr(self.extra_loss, "backward", None)
        if combine is not None:
            combine(self, terms)
        else:
            total.backward()

    def forward(self, x: Images) -> Tensor:
        """Logits (B, C) of all classes.

        In training those out of play are at -inf, as Avalanche's plugins expect; in evaluation those of classes that a head
        cannot score yet are.
        """
        low = torch.finfo(torch.float32).min
        if not self.training:
            classes = self.classes if self.scores_unseen else self.begun
            if not classes:
                return torch.full((len(x), len(self.classes)), low, device=self.clip.device)
            chunk = max(1, PROMPTS // len(classes)) if self.context.reads_images else len(x)
            logits = torch.cat([self.output(part, classes).logits for part in x.split(chunk)])
            return F.pad(logits, (0, len(self.classes) - len(classes)), value=low)
        out = self.output(x, self.in_play)
        rest = len(self.classes) - out.classes.stop
        return F.pad(out.logits, (out.classes.start, rest), value=torch.finfo(out.logits.dtype).min)

    # --- what is learned ----------------------------------------------------------------------------------------------

    def _learned(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers, each under its first name."""
        found: dict[str, Tensor] = {}
        known: set[int] = set()
        for name, tensor in self.state_dict(keep_vars=True).items():
            if id(tensor) not in known:
                known.add(id(tensor))
                found[name] = tensor
        return found

    def learned_tensors(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self._learned().items()}

    @torch.no_grad()
    def load_learned(self, tensors: dict[str, Tensor]) -> None:
        """Put learned tensors in place of ours; the model must have begun the same experience.

        A buffer may have another shape than ours: it is replaced.
        """
        ours = self._learned()
        assert ours.keys() == tensors.keys(), ours.keys() ^ tensors.keys()
        for name, tensor in tensors.items():
            if isinstance(ours[name], nn.Parameter) or ours[name].shape == tensor.shape:
                ours[name].copy_(tensor)
            else:
                owner, _, last = name.rpartition(".")
                setattr(self.get_submodule(owner), last, tensor.to(self.clip.device))
        for texts in (self.texts, self.first, self.reference):
            if texts is not None:
                texts.kept.clear()
        self.refresh()
