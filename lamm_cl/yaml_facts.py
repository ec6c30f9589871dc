"""YAML read as plain facts: mappings, lists, text, whole numbers, finite numbers, true, false, null, and nothing else.

A SafeLoader without its traps: 5e-4 is a number (YAML 1.1 takes it for text), `no`, `on` and 12:30 are text (YAML 1.1
takes them for a boolean and a number in base 60), a key that stands twice is an error (the first was lost in silence).
Anchors, tags and deep nesting, which no scenario or card needs and with which files attack their readers, are refused.
"""

import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from lamm_cl.errors import UserError
from lamm_cl.files import read_regular

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
TOO_LARGE = f"larger than {MAX_BYTES:,} bytes; expected a small YAML file"


def refusal(problem: str, at: Any) -> yaml.MarkedYAMLError:
    """Of an event or a node of YAML."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


class FactsLoader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}

    def __init__(self, text: str):
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise refusal("anchors and aliases (& and *) are not allowed", event)
        if event.tag is not None:
            raise refusal("tags (!) are not allowed", event)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise refusal(f"nested deeper than {MAX_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        facts: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise refusal("expected text as a key", key_node)
            if key in facts:
                raise refusal(f"the key {key[:60]!r} stands twice", key_node)
            facts[key] = self.construct_object(value_node, deep=deep)
        return facts

    def construct_float(self, node: yaml.ScalarNode) -> float:
        value = float(node.value)
        if not math.isfinite(value):
            raise refusal("expected a finite number", node)
        return value

    def construct_int(self, node: yaml.ScalarNode) -> int:
        return int(node.value)


# 18 digits fit into 64 bits; a longer row of digits stays text, and the model then says what it expected.
for tag, pattern, first in [
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", list("tf")),
    ("int", r"[-+]?[0-9]{1,18}", list("-+0123456789")),
    ("float", r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)", list("-+.0123456789")),
]:
    FactsLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})$"), first)
FactsLoader.add_constructor("tag:yaml.org,2002:int", FactsLoader.construct_int)
FactsLoader.add_constructor("tag:yaml.org,2002:float", FactsLoader.construct_float)


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file that others may have put there; raises UserError."""
    try:
        return parse(read_regular(path, MAX_BYTES), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def parse(content: bytes, label: str) -> dict[str, Any]:
    """The mapping that a YAML file holds; raises UserError, one line that starts with `label`."""
    if len(content) > MAX_BYTES:
        raise UserError(f"{label}: {TOO_LARGE}")
    try:
        loader = FactsLoader(content.decode("utf-8"))
        data = loader.get_single_data()
    except UnicodeDecodeError as error:
        raise UserError(f"{label}: not UTF-8 (byte {error.start})") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{label}: {where}{' '.join(str(error.problem).split())}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{label}: {' '.join(str(error).split())}") from None
    if data is None:
        raise UserError(f"{label}: empty; expected keys and values")
    if not isinstance(data, dict):
        raise UserError(f"{label}: expected keys and values, got {type(data).__name__}")
    return data
