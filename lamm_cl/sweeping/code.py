"""The code that decides the numbers of a run, by content: comments, docstrings, blank lines and the commit do not count."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from lamm_cl.config import uses
from lamm_cl.config.schema import Card
from lamm_cl.files import PACKAGE

METHODS = "methods/"
HOUSE = ("learner/*.py", "towers/*.py", "training/*.py", "data/fewshot.py", "data/images.py", "seeds.py")
NO_NUMBERS = {f"training/{name}.py" for name in ("facts", "keeper", "logs", "predictions", "state")}  # they watch and store
NO_NUMBERS |= {f"training/{name}.py" for name in ("benchmarks", "modules", "outside", "reload")}  # no run does


def of_card(card: Card) -> dict[str, str]:
    """File -> hash: the files of a card's pieces in methods/, and those of the house."""
    return of_methods(card) | {name: of_file(name) for name in _house()}


def of_methods(card: Card) -> dict[str, str]:
    """File -> hash, of the pieces alone; a file of one's own is told without its folder (files of one name together)."""
    found: dict[str, list[str]] = {}
    for name in of_pieces(card):
        told = f"{METHODS}own/{Path(name).name}" if Path(name).is_absolute() else name
        found.setdefault(told, []).append(of_file(name))
    return {told: "+".join(sorted(hashes)) for told, hashes in found.items()}


def of_pieces(card: Card) -> list[str]:
    """The files in methods/ that the pieces of a card are in, and those that they import from there."""
    found: list[str] = []
    todo = [_file(piece.use) for _, piece in card.pieces()]
    for name in todo:
        if name not in found and (PACKAGE / name).is_file():
            found.append(name)
            todo += _imported(name)
    return sorted(found)


def _file(use: str) -> str:
    """Where a piece is written, from the package on; a file of one's own by its path."""
    if uses.is_outside(use):
        return str(uses.of(use).file or use)
    return f"{METHODS}{use.partition('.')[0]}.py"


@cache
def of_file(name: str) -> str:
    """16 hexadecimal digits for what a file of the package says to Python, in every version of Python the same."""
    return hashlib.sha256(_canonical(_parsed(name)).encode()).hexdigest()[:16]


@cache
def _house() -> tuple[str, ...]:
    found = (str(path.relative_to(PACKAGE)) for pattern in HOUSE for path in sorted(PACKAGE.glob(pattern)))
    return tuple(name for name in found if name not in NO_NUMBERS and Path(name).name != "__init__.py")


@cache
def _parsed(name: str) -> ast.Module:
    return ast.parse((PACKAGE / name).read_text("utf-8"))


@cache
def _imported(name: str) -> tuple[str, ...]:
    """Files in methods/ that one of them imports from; of a file of one's own also those beside it, and in its package."""
    beside = [str(path) for path in _beside(Path(name))] if Path(name).is_absolute() else []
    modules = [node.module or "" for node in ast.walk(_parsed(name)) if isinstance(node, ast.ImportFrom)]
    return (*(f"{METHODS}{module.split('.')[2]}.py" for module in modules if module.startswith("lamm_cl.methods.")), *beside)


def _beside(file: Path) -> Iterator[Path]:
    """What a file of one's own imports from its folder, or from anywhere in the package that it belongs to."""
    root = file.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    mine = root if root == file.parent else root / file.relative_to(root).parts[0]
    for node in ast.walk(_parsed(str(file))):
        base, modules = root, []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1] if node.level else root
            modules = [node.module or "", *(f"{node.module or ''}.{alias.name}" for alias in node.names)]
        for module in filter(None, modules):
            path = base.joinpath(*module.strip(".").split(".")).with_suffix(".py")
            if path.is_file() and path.is_relative_to(mine):
                yield path


def _canonical(node: object) -> str:
    """A syntax tree as text. Fields that are absent or empty are left out: later versions of Python add such."""
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    told = ",".join(f"{name}={_canonical(value)}" for name, value in fields.items() if value not in (None, []))
    return f"{type(node).__name__}({told})"
