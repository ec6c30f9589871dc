"""One learner.  A method is a row of three choices: context x labels x extra loss."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamm_cl.learner.pieces import ContextLearner
from lamm_cl.learner.text import TextFeatures
from lamm_cl.towers.clip import FrozenCLIP, Prompts

PROMPTS = 4096  # that run through the text tower at a time in evaluation, where every image has its own


@dataclass
class Output:
    """Everything a loss may look at.  classes: the c classes in play."""

    logits: Tensor  # (B, c)
    image: Tensor  # (B, D)
    text: Tensor  # (c, D), or (B, c, D) if the context depends on the image
    prompts: Prompts  # of the text tower
    classes: range
    tokens: Tensor | None = None  # (c, 77, d), the last tokens of the text tower, for losses that read them


class Learner(nn.Module):
    """Input: images (B, 3, H, W), or unit image features (B, D) where the image tower takes no prompts."""

    def __init__(self, clip: FrozenCLIP, texts: TextFeatures, reference: TextFeatures | None, context: ContextLearner,
                 extra_loss: nn.Module | None, train_label_space: str):  # fmt: skip
        super().__init__()
        self.clip, self.context, self.labels = clip, context, texts.labels
        self.texts, self.reference, self.extra_loss = texts, reference, extra_loss
        self.train_label_space = train_label_space
        self.experiences = texts.experiences
        self.learned = 0  # experiences learned, or being learned

    @property
    def needs_pixels(self) -> bool:
        """Whether the image tower takes prompts, so that image features cannot be computed in advance."""
        return self.context.prompts_images

    @property
    def classes(self) -> range:
        """All classes of the stream."""
        return range(self.experiences[-1].stop)

    @property
    def in_play(self) -> range:
        """The classes that compete in the training loss."""
        current = self.experiences[self.learned - 1]
        return current if self.train_label_space == "experience" else range(current.stop)

    def begin(self, i: int) -> None:
        """Take up the classes of experience i (from 0), to train on it; idempotent."""
        if i == self.learned:
            self.labels.grow(self.experiences[i])
            self.context.grow(self.experiences[i])
            self.learned += 1
        self.refresh()

    def refresh(self) -> None:
        """Before training: forget text features that are about to change, and compute once those that are not."""
        self.forget()
        if self.context.frozen:
            prompts = self.context.text(None, self.classes)
            seen = self.experiences[: self.learned]
            self.texts.keep(prompts, seen[:-1])
            if self.reference:
                self.reference.keep(prompts, seen)

    def forget(self) -> None:
        changing = self.experiences[self.learned - 1 : self.learned] if self.context.frozen else self.experiences
        self.texts.forget(changing)

    def train(self, mode: bool = True) -> "Learner":
        """Evaluation computes the text features of all classes once; training makes them stale."""
        super().train(mode)
        if mode:
            self.forget()
        elif not self.context.reads_images:
            self.texts.keep(self.context.text(None, self.classes), self.experiences)
        return self

    def output(self, x: Tensor, classes: range) -> Output:
        image = x if x.ndim == 2 else self.clip.image(x, self.context.image())  # (B, D)
        prompts = self.context.text(image, classes)
        tokens = None
        if getattr(self.extra_loss, "reads_tokens", False) and self.training:
            (frame,) = self.texts.frames
            tokens = frame.last_tokens(prompts, self.labels(classes), classes)  # (c, 77, d)
            text = frame.read(tokens, classes)
        else:
            text = self.texts.features(prompts, classes)
        similarity = image @ text.mT if text.ndim == 2 else (text @ image.unsqueeze(-1)).squeeze(-1)
        return Output(self.clip.scale * similarity, image, text, prompts, classes, tokens)

    def loss(self, x: Tensor, targets: Tensor) -> tuple[Output, dict[str, Tensor]]:
        """-> output over the classes in play, weighted loss terms by name; targets (B,) are class ids by arrival."""
        out = self.output(x, self.in_play)
        targets = targets - out.classes.start
        terms = {"cross_entropy": F.cross_entropy(out.logits, targets)}
        if self.extra_loss is not None:
            extra = self.extra_loss(self, out, targets)
            terms |= {name: self.extra_loss.weights[name] * term for name, term in extra.items()}
        return out, terms

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of all classes; in training those out of play are at -inf, as Avalanche's plugins expect."""
        if not self.training:
            chunk = max(1, PROMPTS // len(self.classes)) if self.context.reads_images else len(x)
            return torch.cat([self.output(part, self.classes).logits for part in x.split(chunk)])
        out = self.output(x, self.in_play)
        rest = len(self.classes) - out.classes.stop
        return F.pad(out.logits, (out.classes.start, rest), value=torch.finfo(out.logits.dtype).min)

    def learned_tensors(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.named_parameters()}

    @torch.no_grad()
    def load_learned(self, tensors: dict[str, Tensor]) -> None:
        """Put learned tensors in place of ours; the model must have grown to the same experience."""
        ours = dict(self.named_parameters())
        assert ours.keys() == tensors.keys()
        for name, tensor in tensors.items():
            ours[name].copy_(tensor)
        self.texts.kept.clear()
        self.refresh()
