"""Methods, scenarios and datasets from outside the package, by name: folders, and what installed packages bring.

    DIR/baselines/*.yaml, DIR/scenarios/*.yaml      cards, scenarios
    DIR/*.yaml                                      either: a scenario is what has `datasets`
    DIR/datasets/NAME, NAME.json, NAME.csv, NAME.npz      datasets: folders of images, lists, files of features

A package names itself in the entry points `lamm_cl.library`; its folder is such a DIR. What a scenario takes from there is
written out in it (cards) or replaced by its path (datasets), so that it means the same wherever it is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from lamm_cl import yaml_facts
from lamm_cl.errors import UserError

GROUP = "lamm_cl.library"
DATA = (".json", ".csv", ".npz")
KINDS = {"scenarios": True, "baselines": False}  # folder -> whether its files have `datasets`


@dataclass(frozen=True)
class Library:
    """Folders as above.  Raises UserError for a folder that is none, or a name that stands for two things."""

    folders: tuple[Path, ...] = ()

    @cached_property
    def cards(self) -> dict[str, Path]:
        return self._files("baselines")

    @cached_property
    def scenarios(self) -> dict[str, Path]:
        return self._files("scenarios")

    @cached_property
    def datasets(self) -> dict[str, Path]:
        found = (
            path
            for folder in self._checked()
            if (folder / "datasets").is_dir()
            for path in sorted((folder / "datasets").iterdir())
            if not path.name.startswith(".") and (path.is_dir() or path.suffix.lower() in DATA)
        )
        return _by_name("datasets", ((path.name if path.is_dir() else path.stem, path) for path in found))

    def dataset(self, name: str) -> str:
        """The path of a dataset of the library; any other name, or a path, as it is."""
        return str(self.datasets.get(name, name))

    def _files(self, kind: str) -> dict[str, Path]:
        listed = []
        for folder in self._checked():
            mixed = (path for path in sorted(folder.glob("*.yaml")) if ("datasets" in yaml_facts.read(path)) is KINDS[kind])
            listed += [*mixed, *sorted((folder / kind).glob("*.yaml"))]
        return _by_name(kind, ((path.stem, path) for path in listed))

    def _checked(self) -> tuple[Path, ...]:
        for folder in self.folders:
            if not folder.is_dir():
                raise UserError(f"--library {folder}: no such folder; expected one with baselines/, scenarios/ or datasets/")
        return self.folders


NONE = Library()


def _by_name(kind: str, listed) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, path in listed:
        if name in found:
            raise UserError(f"{kind}: {name!r} is there twice, as {found[name]} and as {path}; rename one")
        found[name] = path
    return found


def opened(folders: Sequence[Path]) -> Library:
    """The folders, and those of installed packages."""
    return Library((*dict.fromkeys(folders), *installed()))


def installed() -> tuple[Path, ...]:
    """The folders of packages with an entry point `lamm_cl.library`. None of them is imported, only the packages above one."""
    found = []
    for entry in entry_points(group=GROUP):
        try:
            spec = find_spec(entry.module)
        except (ImportError, ValueError):
            spec = None
        places = list(spec.submodule_search_locations or ()) if spec else []
        if not places:
            raise UserError(f"entry point {entry.name!r} of {GROUP}: no package {entry.module!r}; expected one with a folder")
        found.append(Path(places[0]))
    return tuple(dict.fromkeys(found))
