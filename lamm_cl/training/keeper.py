"""When the state of an unfinished run is saved."""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import time
from pathlib import Path

from avalanche.core import SupervisedPlugin

from lamm_cl.training.state import State
from lamm_cl.training.state import write as write_state


class Keeper(SupervisedPlugin):
    """Saves the state of a run after an epoch, at most every `interval` seconds."""

    def __init__(self, folder: Path, identity: dict, state: State, interval: float):
        super().__init__()
        self.folder, self.identity, self.state, self.interval = folder, identity, state, interval
        self.last = time.monotonic()

    def after_training_epoch(self, strategy, **_) -> None:
        if time.monotonic() - self.last < self.interval:
            return
        names = {p: name for name, p in strategy.model.named_parameters()}
        momentum = {
            names[p]: kept["momentum_buffer"]
            for p, kept in strategy.optimizer.state.items()
            if kept.get("momentum_buffer") is not None
        }
        self.state.experience = strategy.experience.current_experience
        self.state.epochs = strategy.epoch + 1  # Avalanche's clock ticks after all plugins
        self.state.learned, self.state.momentum = strategy.model.learned_tensors(), momentum
        write_state(self.folder, self.identity, self.state)
        self.last = time.monotonic()
