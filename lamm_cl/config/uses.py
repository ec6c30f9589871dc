"""What `use` names: a class of methods/, of a file of one's own, or of an installed module.

    coop.CoOp               the class CoOp of lamm_cl/methods/coop.py
    ./mymethod.py:Mine      of a file; in a card, beside the card
    mypackage.heads:Mine    of a module on Python's path
"""

from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from lamm_cl.files import PACKAGE

PATTERN = r"^([a-z][a-z0-9_]*\.[A-Z][A-Za-z0-9]*|[^\x00-\x1f\x7f:]+(\.py)?:[A-Z][A-Za-z0-9_]*)$"


class Use(NamedTuple):
    """A class and where it is written: `file` is None where there is no such file; `shown` is how messages call it."""

    module: str
    name: str
    file: Path | None
    shown: str


def of(use: str) -> Use:
    """Nothing is imported (the packages above a module are)."""
    where, colon, name = use.rpartition(":")
    if not colon:
        stem, _, name = use.partition(".")
        module, path = f"lamm_cl.methods.{stem}", PACKAGE / "methods" / f"{stem}.py"
        return Use(module, name, path if path.is_file() else None, f"no file {stem!r} in lamm_cl/methods")
    if where.endswith(".py"):
        path = Path(where).expanduser()
        return Use(f"lamm_cl_outside_{path.stem}", name, path if path.is_file() else None, f"no file {where!r}")
    return Use(where, name, _source(where), f"no module {where!r}")


def _source(module: str) -> Path | None:
    try:
        spec = find_spec(module) if "." in module else PathFinder.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def is_outside(use: str) -> bool:
    return ":" in use


def placed(facts: Any, folder: Path) -> Any:
    """Nested facts of a card or a scenario with every `use: ./file.py:Class` as a path of its own: files lie beside the YAML."""
    if isinstance(facts, list):
        return [placed(each, folder) for each in facts]
    if not isinstance(facts, dict):
        return facts
    found = {key: placed(value, folder) for key, value in facts.items()}
    use = found.get("use")
    if isinstance(use, str) and ".py:" in use:
        where, _, name = use.rpartition(":")
        found["use"] = f"{(folder / Path(where).expanduser()).resolve()}:{name}"
    return found


def without_place(facts: Any) -> Any:
    """Nested facts where a file of one's own is told by its name: its folder decides nothing."""
    if isinstance(facts, list):
        return [without_place(each) for each in facts]
    if not isinstance(facts, dict):
        return facts
    found = {key: without_place(value) for key, value in facts.items()}
    use = found.get("use")
    if isinstance(use, str) and ".py:" in use:
        found["use"] = use.rpartition("/")[2]
    return found
