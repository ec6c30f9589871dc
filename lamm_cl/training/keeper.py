"""When the state of an unfinished run is saved."""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import time
from collections.abc import Callable
from pathlib import Path

from avalanche.core import SupervisedPlugin
from torch import Tensor

from lamm_cl.learner.model import Learner
from lamm_cl.training.state import State
from lamm_cl.training.state import write as write_state


class Keeper(SupervisedPlugin):
    """Saves the state of a run after an epoch or an experience, at most every `interval` seconds. `check` is asked before, and
    may stop the run."""

    def __init__(self, folder: Path, identity: dict, state: State, interval: float, check: Callable[[], None]):
        super().__init__()
        self.folder, self.identity, self.state, self.interval = folder, identity, state, interval
        self.check = check
        self.last = time.monotonic()

    def after_training_epoch(self, strategy, **_) -> None:
        if time.monotonic() - self.last < self.interval:
            return
        names = {p: name for name, p in strategy.model.named_parameters()}
        self.state.optimizer = {
            names[p]: {key: value for key, value in kept.items() if isinstance(value, Tensor)}
            for p, kept in strategy.optimizer.state.items()
        }
        # Avalanche's clock ticks after all plugins
        self._save(strategy.model, strategy.experience.current_experience, strategy.epoch + 1)

    def keep_between(self, model: Learner, i: int) -> None:
        """Experience i (from 0) is learned and tested: what closed forms cost is not paid twice."""
        if time.monotonic() - self.last >= self.interval:
            self.state.optimizer = {}
            self._save(model, i + 1, 0)

    def _save(self, model: Learner, experience: int, epochs: int) -> None:
        self.state.experience, self.state.epochs = experience, epochs
        self.state.learned = model.learned_tensors()
        self.check()
        write_state(self.folder, self.identity, self.state)
        self.last = time.monotonic()
