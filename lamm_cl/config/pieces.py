"""The options of a card's pieces, checked against the classes in methods/ without importing them, since that takes torch.

What learner/build.py says when it builds a model is said here, in the same words, before the first run.  Files are read as
syntax trees: of a class the nearest `__init__` among its bases, of that the parameters and the kinds that their annotations
name.  An annotation that is not understood is left to who builds.
"""

import ast
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import Field, TypeAdapter, ValidationError

from lamm_cl.config import uses
from lamm_cl.config.explained import expected
from lamm_cl.config.schema import Card, Piece
from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.files import PACKAGE

# What whoever builds hands to a class that asks for it.
GIVEN = {"clip", "names", "template", "spoken", "dataset", "shots", "experiences"}
PLAIN: dict[str, Any] = {kind.__name__: kind for kind in (int, float, str, bool, list, dict, tuple)} | {"Any": Any}
TORCH = {"nn", "torch"}  # what bases that are torch's begin with
Class = tuple[str, ast.ClassDef]  # the module it is written in, and its tree


class Unknown(Exception):
    """An annotation that is not understood."""


def check(card: Card) -> None:
    """UserError for a piece that does not exist, an option that its class does not have or that is of another kind, or one that
    is missing."""
    for field, entry in card.pieces():
        _check(entry, f"{card.key}: {field}")


def _check(entry: Piece, where: str) -> None:
    module, parameters = _parameters(_find(entry.use, where))
    mine = {name: facts for name, facts in parameters.items() if name not in GIVEN}
    for name, value in entry.options.items():
        if name not in mine:
            raise UserError(f"{where}: {entry.use} has no option {name!r}{did_you_mean(name, mine)}")
        try:
            TypeAdapter(_kind(module, mine[name][0])).validate_python(value, strict=True)
        except Unknown:
            continue
        except ValidationError as error:
            raise UserError(f"{where}: {name}: {expected(error.errors()[0])}") from None
    for name, (_, needed) in mine.items():
        if needed and name not in entry.options:
            raise UserError(f"{where}: {entry.use} needs {name!r}")


def _find(use: str, where: str) -> Class:
    found = uses.of(use)
    if found.file is None:
        raise UserError(f"{where}: use: {found.shown}")
    module = found.module if found.module.startswith("lamm_cl.") else str(found.file)
    public = [each for each in _names(module) if _is_piece(module, each)]
    if found.name not in public:
        raise UserError(f"{where}: use: {use!r} does not exist{did_you_mean(found.name, public)}")
    there = _class(module, found.name)
    assert there is not None
    return there


def _path(module: str) -> Path:
    """Of a module of the package; a file of one's own is called by its path."""
    if module.endswith(".py"):
        return Path(module)
    return PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text("utf-8"))


@cache
def _names(module: str) -> dict[str, ast.ClassDef | tuple[str, str]]:
    """What a file calls a class: its own, or (module, name) of one that it imports from lamm_cl."""
    found: dict[str, ast.ClassDef | tuple[str, str]] = {}
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = node
        if isinstance(node, ast.ImportFrom) and (of := node.module or "").startswith("lamm_cl.") and _path(of).is_file():
            found |= {alias.asname or alias.name: (of, alias.name) for alias in node.names}
    return found


def _class(module: str, name: str) -> Class | None:
    """The class that a file calls so; None for what is none of ours."""
    found = _names(module).get(name)
    if isinstance(found, tuple):
        return _class(*found)
    return (module, found) if found is not None else None


def _bases(found: Class) -> Iterator[Class | None]:
    """Of a class, in order; None for torch's."""
    module, tree = found
    for base in tree.bases:
        match base:
            case ast.Attribute(value=ast.Name(id=name)) if name in TORCH:
                yield None
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if other := _imported(module, name):
                if ours := _class(other, attribute):
                    yield ours
            case ast.Name(id=name) if ours := _class(module, name):
                yield ours


def _imported(module: str, name: str) -> str | None:
    """The module of lamm_cl that a file calls so, as in `from lamm_cl.learner import pieces`."""
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lamm_cl"):
            for alias in node.names:
                if (alias.asname or alias.name) == name and _path(f"{node.module}.{alias.name}").is_file():
                    return f"{node.module}.{alias.name}"
    return None


def _is_piece(module: str, name: str) -> bool:
    """Whether a class is one of torch's modules, by its bases."""
    found = _class(module, name)
    return found is not None and any(base is None or _is_piece(base[0], base[1].name) for base in _bases(found))


def _parameters(found: Class) -> tuple[str, dict[str, tuple[ast.expr | None, bool]]]:
    """The module of the nearest __init__, the class's own or of its bases in order, and of its parameters: name -> annotation,
    and whether it must be given."""
    module, tree = found
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = node.args
            plain = [*arguments.posonlyargs, *arguments.args][1:]
            named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            more = [each for each in (arguments.vararg, arguments.kwarg) if each]
            parameters: dict[str, tuple[ast.expr | None, bool]] = {each.arg: (each.annotation, False) for each in plain}
            parameters |= {each.arg: (each.annotation, default is None) for each, default in named}
            return module, parameters | {each.arg: (None, False) for each in more}
    return next((_parameters(base) for base in _bases(found) if base and _has_init(base)), (module, {}))


def _has_init(found: Class) -> bool:
    own = any(isinstance(node, ast.FunctionDef) and node.name == "__init__" for node in found[1].body)
    return own or any(base and _has_init(base) for base in _bases(found))


def _kind(module: str, annotation: ast.expr | None) -> Any:
    """The type that an annotation of this module spells. Raises Unknown."""
    match annotation:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str(text)):  # a postponed one
            return _kind(module, ast.parse(text, mode="eval").body)
        case ast.Name(id=name) if name in PLAIN:
            return PLAIN[name]
        case ast.Name(id=name):
            return _alias(module, name)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_kind(module, left), _kind(module, right)]  # noqa: UP007  of types that are known only now
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            return Literal[tuple(_constant(each) for each in _items(values))]
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[kind, *facts])):
            return Annotated[(_kind(module, kind), *map(_fact, facts))]
        case ast.Subscript(value=ast.Name(id=name), slice=kinds) if name in ("list", "dict", "tuple"):
            inside = tuple(... if _is_dots(each) else _kind(module, each) for each in _items(kinds))
            return PLAIN[name][inside if len(inside) > 1 else inside[0]]
    raise Unknown


def _alias(module: str, name: str) -> Any:
    """What a name stands for that is assigned in the file, or imported: from config/ for its value, else for its text."""
    for node in _tree(module).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=assigned)], value=value) if assigned == name:
                return _kind(module, value)
            case ast.ImportFrom(module=str(source), names=names):
                for alias in names:
                    if (alias.asname or alias.name) == name and source.startswith("lamm_cl.config."):
                        return getattr(import_module(source), alias.name)
                    if (alias.asname or alias.name) == name and source.startswith("lamm_cl.") and _path(source).is_file():
                        return _alias(source, alias.name)
    raise Unknown


def _items(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _is_dots(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def _constant(node: ast.expr) -> Any:
    try:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):  # -10**6
            return -_constant(node.operand)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):  # 10**6, 10**-6
            return _constant(node.left) ** _constant(node.right)
        return ast.literal_eval(node)
    except ValueError:
        raise Unknown from None


def _fact(node: ast.expr) -> Any:
    """`Field(ge=1)`."""
    field: Callable = Field
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Field" and not node.args:
        return field(**{each.arg: _constant(each.value) for each in node.keywords if each.arg})
    raise Unknown
