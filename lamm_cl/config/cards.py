"""Scenarios and method cards: found by name or path, extended, overridden; YAML in, models out.

A mistake in a file is a `UserError` of one line: file, key path, what was expected, the nearest right spelling.
"""

import errno
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lamm_cl import yaml_facts
from lamm_cl.config.explained import validated
from lamm_cl.config.libraries import NONE, Library
from lamm_cl.config.schema import HUB, OWN, Backbone, Card, Scenario
from lamm_cl.config.uses import placed
from lamm_cl.errors import UserError, did_you_mean, shown
from lamm_cl.files import PACKAGE, read_regular


def scenario_names() -> list[str]:
    """The scenarios shipped with the package."""
    return _names("scenarios")


def card_names() -> list[str]:
    """The method cards shipped with the package."""
    return _names("baselines")


def load_scenario(name_or_path: str | Path, library: Library = NONE) -> Scenario:
    """A scenario by name, shipped or of the library, or any by path (ending in .yaml); its method cards are resolved once as a
    check."""
    path, label = _find("scenarios", name_or_path, "scenario", library.scenarios)
    data = _extended(path, label, (), library)
    _inline_cards(data, path.parent, library)  # of the methods that it inherits, too
    _inline_datasets(data, library)
    scenario = validated(Scenario, data, label)
    for method in dict.fromkeys([*scenario.methods, *scenario.overrides]):
        card_for(scenario, method, label)
    return scenario


def _extended(path: Path, label: str, below: tuple[Path, ...], library: Library) -> dict[str, Any]:
    """The fields of a scenario file: its own, and those that it leaves out of the one that it extends, whole fields each.

    A name says what is measured and a description what is special, so both are a scenario's own.  One order takes the place of
    several, and several that of one.
    """
    if path in below:
        raise UserError(f"{label}: extends: the scenario extends itself")
    data = placed(_read(path, label), path.parent)
    _inline_cards(data, path.parent, library)
    base = data.pop("extends", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise UserError(f"{label}: extends: expected the name of a scenario, got {shown(base)}")
    try:
        beside = path.parent / base if base.endswith((".yaml", ".yml")) else base
        found, its = _find("scenarios", beside, "scenario", library.scenarios)
    except UserError as error:
        raise UserError(f"{label}: extends: {error}") from None
    inherited = _extended(found, its, (*below, path), library)
    own = {"name", "description"} | {other for one, other in (("order", "orders"), ("orders", "order")) if one in data}
    return {key: value for key, value in inherited.items() if key not in own} | data


def load_card(key_or_path: str | Path, library: Library = NONE) -> Card:
    """A method card by key, shipped or of the library, or any by path (ending in .yaml)."""
    return _load_card(key_or_path, (), library)


def resolve(card: Card, overrides: dict[str, Any], where: str = "overrides") -> Card:
    """The card with `overrides` merged in, validated again; an error names `where` and the key.

    Mappings merge key by key, everything else is replaced; a piece with another `use` is replaced as a whole.
    """
    return validated(Card, _merge(card.model_dump(mode="json"), overrides), where)


def card_for(scenario: Scenario, method: str, label: str = "") -> Card:
    """The card of one method of a scenario, with the scenario's overrides.

    A method that is no shipped card needs an override that names the card it `extends` (an ablation, a variant).
    """
    partial = dict(scenario.overrides.get(method, {}))
    extends = "extends" in partial
    base = partial.pop("extends", method)
    where = ": ".join(filter(None, [label, f"overrides.{method}" if partial else ""]))
    if base is None:
        return validated(Card, {"key": method} | partial, where)
    if not isinstance(base, str) or base not in card_names():
        raise UserError(f"{where or 'methods'}: no method card {shown(base)}{did_you_mean(base, card_names())}")
    card = _shipped_card(base)
    if extends:
        card = card.model_copy(update={field: Card.model_fields[field].default for field in OWN})
    return resolve(card, {"key": method} | partial, where)


def with_card(scenario: Scenario, path: str | Path, library: Library = NONE) -> tuple[Scenario, str]:
    """The scenario with the card of a file, or of the library, added under the file's stem, and that stem."""
    card = load_card(path, library)
    overrides = scenario.overrides | {card.key: _standing_alone(card)}
    return scenario.model_copy(update={"overrides": overrides}), card.key


def replace_backbone(scenario: Scenario, named: str | None, precision: str | None) -> Scenario:
    """The scenario on another backbone, ARCH:WEIGHTS or hf-hub:OWNER/NAME, or in another precision; None: as it is.

    ARCH alone means OpenAI's weights, or for the embedded architecture its own.
    """
    facts = scenario.backbone.model_dump() | (_spoken(named) if named else {})
    backbone = validated(Backbone, facts | ({"precision": precision} if precision else {}), "--backbone")
    return scenario.model_copy(update={"backbone": backbone})


def backbone_named(named: str) -> Backbone:
    """ARCH:WEIGHTS, as `replace_backbone` reads it."""
    return validated(Backbone, _spoken(named), "--backbone")


def _spoken(named: str) -> dict[str, str]:
    if named.startswith(HUB):
        return {"architecture": named, "weights": "hub"}
    architecture, _, weights = named.partition(":")
    own = "embedded" if architecture == "lamm-cl-mini" else "openai"
    return {"architecture": architecture, "weights": weights or own}


@cache
def _shipped_card(key: str) -> Card:
    return load_card(key)


def _load_card(key_or_path: str | Path, below: tuple[Path, ...], library: Library) -> Card:
    path, label = _find("baselines", key_or_path, "method card", library.cards)
    if path in below:
        raise UserError(f"{label}: extends: the card extends itself")
    data = placed(_read(path, label), path.parent)
    if "key" in data:
        raise UserError(f"{label}: no field 'key' in a card file; the file's name is the key")
    base = data.pop("extends", None)
    if base is not None:
        if not isinstance(base, str):
            raise UserError(f"{label}: extends: expected the name of a card, got {shown(base)}")
        beside = path.parent / base
        parent = _load_card(beside if base.endswith(".yaml") else base, (*below, path), library)
        data = _merge(parent.model_dump(mode="json", exclude=set(OWN)), data)
    return validated(Card, data | {"key": path.stem}, label)


def _inline_cards(data: dict[str, Any], folder: Path, library: Library) -> None:
    """Replace `extends: file.yaml`, and cards of the library, by the card itself: a scenario then means the same wherever it is
    read."""
    methods, overrides = data.get("methods"), data.get("overrides", {})
    if not isinstance(overrides, dict):
        return
    named = [each for each in methods if isinstance(each, str)] if isinstance(methods, list) else []
    for method in dict.fromkeys([*named, *overrides]):
        partial = overrides.get(method, {})
        if not isinstance(partial, dict):
            continue
        base = partial.get("extends", method)
        if isinstance(base, str) and base.endswith(".yaml"):
            card = load_card(folder / base, library)
        elif isinstance(base, str) and base in library.cards:
            card = load_card(base, library)
        else:
            continue
        rest = {key: value for key, value in partial.items() if key != "extends"}
        if base in library.cards and base != method:  # a variant, as of a shipped card
            card = card.model_copy(update={field: Card.model_fields[field].default for field in OWN})
        data.setdefault("overrides", {})[method] = _merge(_standing_alone(card), rest)


def _inline_datasets(data: dict[str, Any], library: Library) -> None:
    """Replace the names of the library's datasets by their paths."""
    if isinstance(listed := data.get("datasets"), list):
        data["datasets"] = [_pathed(each, library) for each in listed]
    if isinstance(source := data.get("train_on"), str):
        data["train_on"] = library.dataset(source)


def _pathed(dataset: Any, library: Library) -> Any:
    """A dataset, or a chain of them."""
    if isinstance(dataset, list):
        return [_pathed(each, library) for each in dataset]
    return library.dataset(dataset) if isinstance(dataset, str) else dataset


def _standing_alone(card: Card) -> dict[str, Any]:
    return {"extends": None} | card.model_dump(mode="json", exclude={"key"})


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("use", old.get("use")) == old.get("use"):
            value = _merge(old, value)
        merged[key] = value
    return merged


def _shipped(kind: str) -> Path:
    """scenarios/ and baselines/ lie inside the package in a wheel, beside it in a checkout."""
    return PACKAGE / kind if (PACKAGE / kind).is_dir() else PACKAGE.parent / kind


def _names(kind: str) -> list[str]:
    return sorted(path.stem for path in _shipped(kind).glob("*.yaml"))


def _find(kind: str, name_or_path: str | Path, what: str, outside: Mapping[str, Path]) -> tuple[Path, str]:
    """-> the file, and how messages call it."""
    text = str(name_or_path)
    if text in outside:
        if text in _names(kind):
            raise UserError(f"{outside[text]}: {kind}/{text}.yaml is shipped under the same name; rename the file")
        return outside[text], str(outside[text])
    if isinstance(name_or_path, str) and name_or_path in _names(kind):
        return _shipped(kind) / f"{name_or_path}.yaml", f"{kind}/{name_or_path}.yaml"
    if text.endswith((".yaml", ".yml")) or "/" in text:
        return Path(name_or_path), text
    raise UserError(f"no {what} {shown(text)}{did_you_mean(text, [*_names(kind), *outside])} (a path ends in .yaml)")


def _read(path: Path, label: str) -> dict[str, Any]:
    try:
        content = read_regular(path, yaml_facts.MAX_BYTES)
    except IsADirectoryError:
        raise UserError(f"{label}: is a folder; expected a YAML file") from None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EFBIG:
            raise UserError(f"{label}: {yaml_facts.TOO_LARGE}") from None
        reason = getattr(error, "strerror", None) or error
        beside = [each.name for each in path.parent.glob("*.yaml")] if isinstance(error, FileNotFoundError) else []
        raise UserError(f"{label}: cannot be read: {reason}{did_you_mean(path.name, beside)}") from None
    return yaml_facts.parse(content, label)
