"""Facts against their model: a mistake in one line that says where it is and what was expected."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

from pydantic import ValidationError

from lamm_cl.config.kinds import Facts
from lamm_cl.errors import UserError, did_you_mean, shown


def validated(model: type[Facts], data: dict[str, Any], label: str) -> Any:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False)
        # A misspelt key gives two errors, "unknown" and "missing": the first one teaches.
        first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
        raise UserError(": ".join(filter(None, [label, _explained(model, data, first)]))) from None


_EXPECTED: dict[str, Callable[[dict[str, Any]], str]] = {
    "int_type": lambda ctx: "a whole number",
    "int_from_float": lambda ctx: "a whole number",
    "float_type": lambda ctx: "a number",
    "string_type": lambda ctx: "text",
    "tuple_type": lambda ctx: "a list",
    "list_type": lambda ctx: "a list",
    "dict_type": lambda ctx: "a mapping",
    "model_type": lambda ctx: "a mapping",
    "bool_type": lambda ctx: "true or false",
    "finite_number": lambda ctx: "a finite number",
    "greater_than": lambda ctx: f"a number above {ctx['gt']:g}",
    "greater_than_equal": lambda ctx: f"{ctx['ge']:g} or more",
    "less_than": lambda ctx: f"a number below {ctx['lt']:g}",
    "less_than_equal": lambda ctx: f"{ctx['le']:.0f} or less",
    "too_short": lambda ctx: "at least one entry",
    "string_too_short": lambda ctx: "a text that is not empty",
    "string_too_long": lambda ctx: f"at most {ctx['max_length']} characters",
    "literal_error": lambda ctx: ctx["expected"],
}


def expected(error: Mapping[str, Any]) -> str:
    """What a value should have been, wherever it stands: one of pydantic's errors in our words."""
    kind, ctx, value = error["type"], error.get("ctx", {}), error["input"]
    if kind not in _EXPECTED:
        return error["msg"]
    near = did_you_mean(value, re.findall(r"'([^']+)'", ctx["expected"])) if kind == "literal_error" else ""
    return f"expected {_EXPECTED[kind](ctx)}, got {shown(value)}{near}"


def _explained(model: type[Facts], data: Any, error: Mapping[str, Any]) -> str:
    kind, value = error["type"], error["input"]
    path = _keys(data, error["loc"], missing=kind == "missing")
    if kind in ("extra_forbidden", "missing"):
        *path, key = path
        fields = _fields(model, path)
        said = f"no field {shown(key)}{did_you_mean(key, fields)}" if kind != "missing" else f"'{key}' is missing"
    elif kind == "string_pattern_mismatch":
        name = "a name of letters, digits and + . _ - (it becomes a folder)"
        rules = {"use": "file.Class, as in coop.CoOp, or ./file.py:Class", "datasets": "a name or a path"}
        rule = rules.get(_section(path), name)
        said = f"expected {rule}, got {shown(value)}"
    else:
        said = expected(error)
    return ": ".join(filter(None, [".".join(map(str, path)), said]))


def _keys(data: Any, loc: tuple[int | str, ...], missing: bool) -> list[int | str]:
    """The location without pydantic's own steps (names of union members): only keys that a reader finds in the file, or misses
    there."""
    keys: list[int | str] = []
    for at, step in enumerate(loc):
        last = at == len(loc) - 1
        inside = (isinstance(data, dict) and step in data) or (isinstance(data, list | tuple) and isinstance(step, int))
        if inside:
            data = data[step] if isinstance(data, dict) or (isinstance(step, int) and step < len(data)) else None
        if inside or (missing and last and isinstance(data, dict)):
            keys.append(step)
    return keys


def _section(path: list[int | str]) -> str:
    """The last key of a path that is no position in a list."""
    return next((step for step in reversed(path) if isinstance(step, str)), "")


def _fields(model: type[Facts], path: list[int | str]) -> list[str]:
    """The field names of the models that may lie at a path below `model`."""
    models = [model]
    for step in path:
        fields = [field for each in models if (field := each.model_fields.get(str(step)))]
        models = [inner for field in fields for inner in _facts_in(field.annotation)] or models
    return [name for each in models for name in each.model_fields if name != "key"]


def _facts_in(annotation: Any) -> Iterator[type[Facts]]:
    """The models that an annotation names, however deep in unions and lists."""
    if isinstance(annotation, type) and issubclass(annotation, Facts):
        yield annotation
    for part in get_args(annotation):
        yield from _facts_in(part)
