"""One prompted CLIP.  A method is a row of three choices: context x labels x extra loss."""

from . import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import inspect
from dataclasses import dataclass
from importlib import import_module

import torch
import torch.nn.functional as F
from avalanche.models import DynamicModule
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from .clip import FrozenCLIP, Prompts
from .config import Card, Piece
from .errors import UserError, did_you_mean
from .prompts import ContextLearner, Frame, Labels

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


class Classifier(nn.Module):
    """Text features of classes: frames x labels.  What cannot change is computed once per experience and kept.

    experiences: the classes of each.  A kept entry is valid until `forget`.
    """

    def __init__(self, frames: list[Frame], labels: Labels, experiences: list[range]):
        super().__init__()
        self.frames, self.labels, self.experiences = nn.ModuleList(frames), labels, experiences
        self.kept: dict[range, Tensor] = {}

    def features(self, prompts: Prompts, classes: range) -> Tensor:
        """Unit text features (c, D), or (B, c, D) if the context depends on the image."""
        wanted = [mine for mine in self.experiences if mine.start < classes.stop and classes.start < mine.stop]
        parts = [self.kept[mine] if mine in self.kept else self.encode(prompts, mine) for mine in wanted]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)

    def encode(self, prompts: Prompts, classes: range) -> Tensor:
        prompts, labels = prompts.of(classes), self.labels(classes)
        return mean_direction([frame.encode(prompts, labels, classes) for frame in self.frames])

    @torch.no_grad()
    def keep(self, prompts: Prompts, classes: list[range]) -> None:
        """Compute the features of these experiences now, for all that is asked until they are forgotten."""
        for mine in classes:
            if mine not in self.kept:
                self.kept[mine] = self.encode(prompts, mine)

    def forget(self, classes: list[range]) -> None:
        for mine in classes:
            self.kept.pop(mine, None)


def mean_direction(features: list[Tensor]) -> Tensor:
    """Unit features under several templates -> their normalised mean."""
    return features[0] if len(features) == 1 else F.normalize(torch.stack(features).mean(dim=0), dim=-1)


class PromptedCLIP(DynamicModule):
    """Input: images (B, 3, H, W), or unit image features (B, D) where the image tower takes no prompts."""

    def __init__(self, clip: FrozenCLIP, classifier: Classifier, reference: Classifier | None, context: ContextLearner,
                 extra_loss: nn.Module | None, train_label_space: str):  # fmt: skip
        super().__init__()
        self.clip, self.context, self.labels = clip, context, classifier.labels
        self.classifier, self.reference, self.extra_loss = classifier, reference, extra_loss
        self.train_label_space = train_label_space
        self.experiences = classifier.experiences
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

    def adaptation(self, experience) -> None:
        """Take up the classes of a training experience; idempotent.

        Avalanche adapts before evaluation too: without the guard, testing on the future would reveal its classes.
        """
        if self.training and experience.current_experience == self.learned:
            self.labels.grow(self.experiences[self.learned])
            self.context.grow(self.experiences[self.learned])
            self.learned += 1
        if self.training:
            self.settle()

    def settle(self) -> None:
        """Before training: forget text features that are about to change, and compute once those that are not."""
        self.forget()
        if self.context.frozen:
            prompts = self.context.text(None, self.classes)
            seen = self.experiences[: self.learned]
            self.classifier.keep(prompts, seen[:-1])
            if self.reference:
                self.reference.keep(prompts, seen)

    def forget(self) -> None:
        changing = self.experiences[self.learned - 1 : self.learned] if self.context.frozen else self.experiences
        self.classifier.forget(changing)

    def train(self, mode: bool = True) -> "PromptedCLIP":
        """Evaluation computes the text features of all classes once; training makes them stale."""
        super().train(mode)
        if mode:
            self.forget()
        elif not self.context.reads_images:
            self.classifier.keep(self.context.text(None, self.classes), self.experiences)
        return self

    def run(self, x: Tensor, classes: range) -> Output:
        image = x if x.ndim == 2 else self.clip.image(x, self.context.image())  # (B, D)
        prompts = self.context.text(image, classes)
        tokens = None
        if getattr(self.extra_loss, "reads_tokens", False) and self.training:
            (frame,) = self.classifier.frames
            tokens = frame.last_tokens(prompts, self.labels(classes), classes)  # (c, 77, d)
            text = frame.read(tokens, classes)
        else:
            text = self.classifier.features(prompts, classes)
        similarity = image @ text.mT if text.ndim == 2 else (text @ image.unsqueeze(-1)).squeeze(-1)
        return Output(self.clip.scale * similarity, image, text, prompts, classes, tokens)

    def loss(self, x: Tensor, targets: Tensor) -> tuple[Output, dict[str, Tensor]]:
        """-> output over the classes in play, weighted loss terms by name; targets (B,) are class ids by arrival."""
        out = self.run(x, self.in_play)
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
            return torch.cat([self.run(part, self.classes).logits for part in x.split(chunk)])
        out = self.run(x, self.in_play)
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
        self.classifier.kept.clear()
        self.settle()


def build(card: Card, clip: FrozenCLIP, names: list[str], experiences: list[range], *, template: str = "a photo of a {}.",
          dataset: str = "", shots: float = 1, train_label_space: str = "experience", seed: int = 0) -> PromptedCLIP:  # fmt: skip
    """The model that a method card describes; its pieces are named "file.Class" in lamm_cl.methods.

    names: by order of arrival, underscores already spaces.  Initial values are drawn from `seed` alone.
    """
    given = dict(clip=clip, names=names, template=template, dataset=dataset, shots=shots)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        context = piece(card, "context", given)
        labels = piece(card, "labels", given)
        extra_loss = piece(card, "loss", given)
        context.settle(names)
        labels.settle(clip, names)
        frames = [Frame(clip, names, t, context, labels) for t in context.templates]
        reference = None
        if getattr(extra_loss, "reads_reference", False):
            reference = Classifier([Frame(clip, names, t, context, Labels()) for t in context.templates], Labels(), experiences)
    classifier = Classifier(frames, labels, experiences)
    return PromptedCLIP(clip, classifier, reference, context, extra_loss, train_label_space).to(clip.device)


def piece(card: Card, field: str, given: dict) -> nn.Module | None:
    """{use: coop.CoOp, n: 4} -> lamm_cl.methods.coop.CoOp(n=4, and those of `given` that it asks for by name)."""
    entry: Piece | None = getattr(card, field)
    if entry is None:
        return None
    where = f"{card.key}: {field}"
    cls = find(entry.use, where)
    parameters = inspect.signature(cls.__init__).parameters
    mine = {name: p for name, p in parameters.items() if name != "self" and name not in given}
    for name, value in entry.options.items():
        if name not in mine:
            raise UserError(f"{where}: {entry.use} has no option {name!r}{did_you_mean(name, mine)}")
        try:
            TypeAdapter(mine[name].annotation).validate_python(value, strict=True)
        except ValidationError as error:
            raise UserError(f"{where}: {name}: {value!r}: {error.errors()[0]['msg']}") from None
    for name, p in mine.items():
        if p.default is p.empty and name not in entry.options and p.kind is p.KEYWORD_ONLY:
            raise UserError(f"{where}: {entry.use} needs {name!r}")
    return cls(**{name: value for name, value in given.items() if name in parameters}, **entry.options)


def find(use: str, where: str) -> type:
    """ "coop.CoOp" -> the class lamm_cl.methods.coop.CoOp."""
    file, _, name = use.partition(".")
    try:
        module = import_module(f"lamm_cl.methods.{file}")
    except ModuleNotFoundError:
        raise UserError(f"{where}: use: no file {file!r} in lamm_cl/methods") from None
    public = [n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, nn.Module)]
    if name not in public:
        raise UserError(f"{where}: use: {use!r} does not exist{did_you_mean(name, public)}")
    return getattr(module, name)
