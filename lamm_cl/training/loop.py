"""Avalanche's own loop with a method's loss.  The only importer of avalanche.training.

Ways round Avalanche 0.6, each with a test: the optimizer is made after the model has grown, over what requires a gradient; the
schedule is set by epoch, since a scheduler plugin loses the warm-up from the second experience on; batches are drawn by a
generator of our own, since every DataLoader iterator draws from the global one and an added evaluation would change the training.
"""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor
from torch.optim import Optimizer

from lamm_cl.config.lengths import Length, length, training_of
from lamm_cl.config.schema import Training
from lamm_cl.learner.model import Learner
from lamm_cl.learner.shown import Images
from lamm_cl.seeds import derive
from lamm_cl.training.features import onto
from lamm_cl.training.optimizing import clip, optimizer, set_rate
from lamm_cl.training.sources import EVAL_BATCH, Source, Sources
from lamm_cl.training.state import State


@dataclass
class Batches:
    """[Images, targets] batches of some samples.  order: a generator to shuffle with, or None."""

    source: Source
    samples: Tensor
    targets: Tensor
    size: int
    epoch: int = 0
    order: torch.Generator | None = None
    steps: int | None = None  # the first so many alone

    def __iter__(self) -> Iterator[list[Images | Tensor]]:
        n = len(self.samples)
        positions = torch.arange(n) if self.order is None else torch.randperm(n, generator=self.order)
        positions = positions if self.steps is None else positions[: self.steps * self.size]
        images = self.source.batches(self.samples[positions].split(self.size), self.epoch)
        targets = onto(self.source.device, self.targets[positions]).split(self.size)
        yield from map(list, zip(images, targets, strict=True))

    def __len__(self) -> int:
        whole = math.ceil(len(self.samples) / self.size)
        return whole if self.steps is None else min(whole, self.steps)


class Loop(SupervisedTemplate):
    """Avalanche's own loop with the method's loss, and a fresh optimizer and schedule per experience."""

    def __init__(self, *, model: Learner, training: Training | None, sources: Sources, seed: int, shots: float = 1,
                 progress: Callable[[int, int], None] = lambda experience, epoch: None, **kwargs):  # fmt: skip
        with warnings.catch_warnings(action="ignore"):  # "no loggers": its metrics know one label space, so none is asked for
            evaluator = EvaluationPlugin()
        super().__init__(model=model, optimizer=None, train_epochs=0, eval_mb_size=EVAL_BATCH, evaluator=evaluator, **kwargs)
        self.training, self.sources, self.seed, self.progress = training, sources, seed, progress
        self.shots = shots
        self.current: Training | None = None  # the numbers of the current experience
        self.length: Length | None = None
        self.resumed: State | None = None  # where the next experience goes on
        self.replayed: dict[int, int] = {}  # how many samples of earlier experiences join each one

    @property
    def epoch(self) -> int:
        """Epochs of the current experience that are done."""
        return self.clock.train_exp_epochs + (self.resumed.epochs if self.resumed else 0)

    def model_adaptation(self, model=None) -> Learner:
        """Avalanche adapts before evaluation too, where testing on the future must not reveal its classes."""
        if self.is_training:
            self.take_up(self.experience.current_experience)
        return self.model

    def take_up(self, i: int) -> None:
        """Experience i arrives: its classes begin, and its images are observed through the frozen tower."""
        self.model.take_up(i, self.sources.observed)
        self.replayed[i] = len(self.samples_before(i))

    def check_model_and_optimizer(self, **_) -> None:
        self.model = self.model_adaptation()
        if self.training:  # zero-shot CLIP has nothing to train
            self.current = training_of(self.training, self.experience.current_experience, self.shots)
            self.length = length(self.current, len(self.samples()[0]))
            self.train_epochs = self.length.epochs
            self.optimizer = optimizer(self.current, self.model) if self.train_epochs else None
        if self.resumed:
            self.train_epochs -= self.resumed.epochs
            restore(self.model, self.optimizer, self.resumed)

    def make_train_dataloader(self, **_) -> None:
        self.dataloader = []  # made afresh for every epoch

    def make_eval_dataloader(self, **_) -> None:
        self.dataloader = Batches(self.sources.test, self.experience.samples, self.experience.targets, EVAL_BATCH)

    def _before_training_epoch(self, **kwargs) -> None:
        i, epoch = self.experience.current_experience, self.epoch
        self.progress(i, epoch)
        set_rate(self.optimizer, epoch, 0, self.length.per_epoch)
        order = torch.Generator().manual_seed(derive(self.seed, "shuffle", i, epoch))
        samples, targets = self.samples()
        steps = self.length.steps_of(epoch)
        self.dataloader = Batches(self.sources.train, samples, targets, self.current.batch, epoch, order, steps)
        super()._before_training_epoch(**kwargs)

    def samples(self) -> tuple[Tensor, Tensor]:
        """What the current experience is trained on, exemplars of earlier ones included, and their targets."""
        samples, targets = self.experience.samples, self.experience.targets
        old = self.samples_before(self.experience.current_experience)
        return torch.cat([samples, old]), torch.cat([targets, self.sources.parts.train_targets[old]])

    def samples_before(self, i: int) -> Tensor:
        """Those of experiences before i that a memory shows in it (m,)."""
        memory = self.model.memory
        return memory.samples(self.model.experience(i)) if memory is not None else torch.empty(0, dtype=torch.int64)

    def _before_training_iteration(self, **kwargs) -> None:
        step, per_epoch = self.clock.train_epoch_iterations, self.length.per_epoch
        if self.current.per == "step":
            set_rate(self.optimizer, self.epoch, step, per_epoch)
        if self.model.draws:
            i = self.experience.current_experience
            torch.manual_seed(derive(self.seed, "noise", i, self.epoch * per_epoch + step))
        super()._before_training_iteration(**kwargs)

    def backward(self) -> None:
        self.model.backward(self.terms, self.loss)

    def optimizer_step(self) -> None:
        clip(self.current, self.optimizer)
        super().optimizer_step()

    def _after_training_epoch(self, **kwargs) -> None:
        if not torch.isfinite(self.loss):
            i = self.experience.current_experience
            raise FloatingPointError(f"the loss is {self.loss.item()} in experience {i + 1}, epoch {self.epoch}")
        self.model.after_epoch(self.epoch, self.length.epochs)
        super()._after_training_epoch(**kwargs)

    def _after_training_exp(self, **kwargs) -> None:
        self.model.finish(self.experience.current_experience)
        super()._after_training_exp(**kwargs)

    def forward(self) -> Tensor:
        if not self.is_training:
            return self.model(self.mb_x)
        output, self.terms = self.model.loss(self.mb_x, self.mb_y)
        return output.logits

    def criterion(self) -> Tensor:
        return sum(self.terms.values()) if self.is_training else self._make_empty_loss()


def restore(model: Learner, optimizer: Optimizer | None, state: State) -> None:
    """Put the learned tensors and what the optimizer keeps in place; the model has begun that experience already."""
    model.load_learned(state.learned)
    ours = dict(model.named_parameters())
    for name, kept in state.optimizer.items():
        place = ours[name].device
        optimizer.state[ours[name]] = {key: value if key == "step" else value.to(place) for key, value in kept.items()}
