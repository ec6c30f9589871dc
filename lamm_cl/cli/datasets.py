"""The datasets of a command, each loaded once."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lamm_cl.data.dataset import Dataset


class Datasets:
    """Name -> dataset, with the training images of `train_on` if a scenario learns its classes there."""

    def __init__(self, train_on: str | None, data_root: Path | None, cache: Path):
        self.train_on, self.data_root, self.cache = train_on, data_root, cache
        self.loaded: dict[str, Dataset] = {}

    def __call__(self, name: str) -> "Dataset":
        """UserError for what is missing or no dataset."""
        from lamm_cl.data.dataset import learned_from

        dataset = self._load(name)
        return learned_from(dataset, self._load(self.train_on)) if self.train_on else dataset

    def _load(self, name: str) -> "Dataset":
        from lamm_cl.data import catalogue

        if name not in self.loaded:
            self.loaded[name] = catalogue.load(name, self.data_root, self.cache)
        return self.loaded[name]
