"""The datasets of a command as its scenario sees them, each loaded once."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lamm_cl.config.schema import Scenario
    from lamm_cl.data.dataset import Dataset


class Datasets:
    """Name -> dataset, as `data.measured` has it."""

    def __init__(self, scenario: "Scenario", data_root: Path | None, cache: Path):
        self.scenario, self.data_root, self.cache = scenario, data_root, cache
        self.loaded: dict[tuple[str, str | None], Dataset] = {}
        self.seen: dict[str, Dataset] = {}

    def __call__(self, name: str) -> "Dataset":
        """UserError for what is missing or no dataset."""
        from lamm_cl.data.measured import measured

        if name not in self.seen:
            self.seen[name] = measured(self.scenario, name, self._load)
        return self.seen[name]

    def _load(self, name: str, split: str | None) -> "Dataset":
        from lamm_cl.data import catalogue

        if (name, split) not in self.loaded:
            self.loaded[name, split] = catalogue.load(name, self.data_root, self.cache, split)
        return self.loaded[name, split]
