"""Scenarios (what is measured) and method cards (what is run): YAML in, frozen models out.

A mistake in a file is a `UserError` of one line: file, key path, what was expected, the nearest right spelling.
Nothing here imports torch, so `lamm-cl list` and `show` answer at once.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from lamm_cl import yaml_facts
from lamm_cl.errors import UserError, did_you_mean, shown

# A name becomes a folder in results/, so it holds nothing a file system could read as a path.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9+._-]*$", max_length=100)]
# A dataset is a name or, one's own, a path.
Dataset = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=1000)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Rate = Annotated[float, Field(gt=0, le=10**6)]


MOST = 1000  # of whatever a piece has whole numbers of: vectors, blocks, tokens
HUB = "hf-hub:"  # what a backbone from the Hugging Face hub starts with


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _unique(values: tuple) -> tuple:
    for value in values:
        if values.count(value) > 1:
            raise PydanticCustomError("duplicate", "{value} stands there twice", {"value": repr(value)})
    return values


def _list_of(item: Any) -> Any:
    """A list with at least one entry; strict models take only tuples, YAML gives lists."""
    return Annotated[tuple[item, ...], Field(min_length=1), BeforeValidator(_to_tuple)]


def _set_of(item: Any) -> Any:
    """A list as above whose entries all differ."""
    return Annotated[
        tuple[item, ...],
        Field(min_length=1),
        BeforeValidator(lambda value: _unique(_to_tuple(value)) if isinstance(value, list | tuple) else value),
    ]


def _either(**choices: Any) -> Any:
    """A union that looks at the kind of value first, so that an error speaks of one choice and not of all."""

    def kind(value: Any) -> str:
        if isinstance(value, str) and "text" in choices:
            return "text"
        if isinstance(value, list | tuple) and "list" in choices:
            return "list"
        if isinstance(value, dict | BaseModel) and "mapping" in choices:
            return "mapping"
        return "number" if "number" in choices else "text"

    members = [Annotated[choice, Tag(tag)] for tag, choice in choices.items()]
    union = members[0]
    for member in members[1:]:
        union = union | member
    return Annotated[union, Discriminator(kind)]


# What a card says of itself alone: a card that extends another starts without it.
OWN = ("departures", "published")

Shots = _either(number=Count, text=Literal["full"])


class Facts(BaseModel):
    """Strict: an int where an int is asked, no "16" for 16, no true for 1, no unknown key."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Backbone(Facts):
    """An open_clip architecture and its weights: a tag of open_clip, a file, or "embedded".

    A repository of the Hugging Face hub, {architecture: "hf-hub:owner/name", weights: hub}, brings both. In a precision
    below fp32 the frozen towers compute under autocast.
    """

    architecture: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    weights: Annotated[str, StringConstraints(min_length=1, max_length=4000)]
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    features: Literal["fp32", "fp16"] = "fp32"

    @model_validator(mode="after")
    def _hub_brings_both(self) -> "Backbone":
        if self.architecture.startswith(HUB) != (self.weights == "hub"):
            raise PydanticCustomError("hub", "architecture {hub}OWNER/NAME goes with weights 'hub'", {"hub": HUB})
        return self


class OrderSeed(Facts):
    seed: Seed


class Warmup(Facts):
    """A constant rate `lr` during the first `epochs` epochs."""

    epochs: Count
    lr: Rate


class Training(Facts):
    """One experience of training; optimizer and schedule start afresh in the next."""

    epochs: Count
    batch: Count
    optimizer: Literal["sgd"]
    lr: Rate
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0, le=10**6)]
    schedule: Literal["cosine", "constant"]
    warmup: Warmup | None = None
    augmentation: Literal["none", "random_resized_crop+flip"]

    @model_validator(mode="after")
    def _warmup_fits(self) -> "Training":
        if self.warmup and self.warmup.epochs > self.epochs:
            raise PydanticCustomError("warmup", "warmup.epochs is more than epochs ({epochs})", {"epochs": self.epochs})
        return self


class Piece(Facts):
    """{use: coop.CoOp, n: 4} names the class CoOp of lamm_cl/methods/coop.py; the other keys are its options."""

    use: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*\.[A-Z][A-Za-z0-9]*$")]
    options: dict[str, JsonValue] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        options = {key: option for key, option in value.items() if key != "use"}
        return {"options": options} | ({"use": value["use"]} if "use" in value else {})

    @model_validator(mode="after")
    def _options_are_sane(self) -> "Piece":
        """Before anything is built of them: a thousand million vectors, a text that a template would read as a place."""
        for key, option in self.options.items():
            expected = ""
            if isinstance(option, int) and not 0 <= option <= MOST:
                expected = f"a whole number from 0 to {MOST}"
            if isinstance(option, str) and ("{" in option or "}" in option):
                expected = "a text without braces"
            if expected:
                raise PydanticCustomError("option", "{key}: expected {expected}, got {got}",
                                          {"key": key, "expected": expected, "got": shown(option)})  # fmt: skip
        return self

    @model_serializer
    def _as_in_yaml(self) -> dict[str, JsonValue]:
        return {"use": self.use, **self.options}


class Card(Facts):
    """One row of the comparison, citable number by number.

    `trainable` starts with the number of trainable parameters at ViT-B/16, then tells how it comes about.
    `published` holds numbers of papers, never ours; the key names their table.
    """

    identity: ClassVar = ("context", "labels", "loss", "training")

    key: Name
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    paper: Annotated[str, StringConstraints(min_length=1)]
    repository: str | None = None
    context: Piece
    labels: Piece
    loss: Piece | None = None
    training: Training | None = None
    trainable: str
    provenance: dict[str, str]
    departures: Annotated[tuple[_either(text=str, mapping=dict[str, JsonValue]), ...], BeforeValidator(_to_tuple)] = ()
    published: dict[str, JsonValue] = {}


class Scenario(Facts):
    """What is measured: who is seen when, and against which labels an image is scored.

    `train_on` names the dataset whose training images the classes of every dataset are learned from; None: its own.
    """

    identity: ClassVar = (
        *("name", "version", "backbone", "experiences", "order", "train_on"),
        *("train_label_space", "label_spaces"),
    )

    name: Name
    version: Count
    description: str = ""
    backbone: Backbone
    datasets: _set_of(Dataset)
    experiences: _either(number=Count, text=Literal["halves"], list=_list_of(Count))
    order: _either(text=Literal["dataset", "reversed"], mapping=OrderSeed) = "dataset"
    shots: Annotated[
        _set_of(Shots), BeforeValidator(lambda value: value if isinstance(value, list | tuple) else (value,))
    ]
    seeds: _set_of(Seed)
    methods: _set_of(Name)
    train_on: Dataset | None = None
    train_label_space: Literal["experience", "seen"] = "experience"
    label_spaces: _set_of(Literal["own", "joint"]) = ("own", "joint")
    overrides: dict[Name, dict[str, JsonValue]] = {}


def content_hash(model: Scenario | Card) -> str:
    """sha256 (hex) of the canonical JSON of what decides the numbers of a run.

    Texts (description, provenance, published, ...) are left out, and of a scenario its lists (datasets, methods, shots,
    seeds), which say how many runs there are, not what one of them is: a scenario may grow without losing its results.
    """
    return hashlib.sha256(json.dumps(identity(model), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def identity(model: Scenario | Card) -> dict[str, Any]:
    """The part that `content_hash` hashes, as plain JSON types.

    What is at its default is left out: a field that a later version adds does not disown the results there are. It also
    means that a default must never change.
    """
    return model.model_dump(mode="json", include=set(model.identity), exclude_defaults=True)


def from_record(model: type[Scenario] | type[Card], facts: dict[str, Any], where: str) -> Any:
    """The scenario or card that a record was made with. Raises UserError, beginning with `where`."""
    return _validated(model, {key: value for key, value in facts.items() if key != "hash"}, where)


def difference(old: Any, new: Any, path: str = "") -> str:
    """The first place where two nested facts differ, "training.epochs: 10, now 50"; "" where they agree."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            found = difference(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
            if found:
                return found
        return ""
    return "" if old == new else f"{path}: {shown(old)}, now {shown(new)}"


# --- finding and reading files ----------------------------------------------------------------------------------------


def scenario_names() -> list[str]:
    """The scenarios shipped with the package."""
    return _names("scenarios")


def card_names() -> list[str]:
    """The method cards shipped with the package."""
    return _names("baselines")


def load_scenario(name_or_path: str | Path) -> Scenario:
    """A shipped scenario by name, or any by path (ending in .yaml); its method cards are resolved once as a check."""
    path, label = _find("scenarios", name_or_path, "scenario")
    data = _read(path, label)
    _inline_cards(data, path.parent)
    scenario = _validated(Scenario, data, label)
    for method in dict.fromkeys([*scenario.methods, *scenario.overrides]):
        card_for(scenario, method, label)
    return scenario


def load_card(key_or_path: str | Path) -> Card:
    """A shipped method card by key, or any by path (ending in .yaml)."""
    return _load_card(key_or_path, below=())


def resolve(card: Card, overrides: dict[str, Any], where: str = "overrides") -> Card:
    """The card with `overrides` merged in, validated again; an error names `where` and the key.

    Mappings merge key by key, everything else is replaced; a piece with another `use` is replaced as a whole.
    """
    return _validated(Card, _merge(card.model_dump(mode="json"), overrides), where)


def card_for(scenario: Scenario, method: str, label: str = "") -> Card:
    """The card of one method of a scenario, with the scenario's overrides.

    A method that is no shipped card needs an override that names the card it `extends` (an ablation, a variant).
    """
    partial = dict(scenario.overrides.get(method, {}))
    extends = "extends" in partial
    base = partial.pop("extends", method)
    where = ": ".join(filter(None, [label, f"overrides.{method}" if partial else ""]))
    if base is None:
        return _validated(Card, {"key": method} | partial, where)
    if not isinstance(base, str) or base not in card_names():
        raise UserError(f"{where or 'methods'}: no method card {shown(base)}{did_you_mean(base, card_names())}")
    card = _shipped_card(base)
    if extends:
        card = card.model_copy(update={field: Card.model_fields[field].default for field in OWN})
    return resolve(card, {"key": method} | partial, where)


def with_card(scenario: Scenario, path: str | Path) -> tuple[Scenario, str]:
    """The scenario with the card of a file added under the file's stem, and that stem."""
    card = load_card(path)
    overrides = scenario.overrides | {card.key: _standing_alone(card)}
    return scenario.model_copy(update={"overrides": overrides}), card.key


def replace_backbone(scenario: Scenario, named: str | None, precision: str | None) -> Scenario:
    """The scenario on another backbone, ARCH:WEIGHTS or hf-hub:OWNER/NAME, or in another precision; None: as it is.

    ARCH alone means OpenAI's weights, or for the embedded architecture its own.
    """
    facts = scenario.backbone.model_dump()
    if named and named.startswith(HUB):
        facts |= {"architecture": named, "weights": "hub"}
    elif named:
        architecture, _, weights = named.partition(":")
        own = "embedded" if architecture == "lamm-cl-mini" else "openai"
        facts |= {"architecture": architecture, "weights": weights or own}
    backbone = _validated(Backbone, facts | ({"precision": precision} if precision else {}), "--backbone")
    return scenario.model_copy(update={"backbone": backbone})


@cache
def _shipped_card(key: str) -> Card:
    return load_card(key)


def _load_card(key_or_path: str | Path, below: tuple[Path, ...]) -> Card:
    path, label = _find("baselines", key_or_path, "method card")
    if path in below:
        raise UserError(f"{label}: extends: the card extends itself")
    data = _read(path, label)
    if "key" in data:
        raise UserError(f"{label}: no field 'key' in a card file; the file's name is the key")
    base = data.pop("extends", None)
    if base is not None:
        if not isinstance(base, str):
            raise UserError(f"{label}: extends: expected the name of a card, got {shown(base)}")
        beside = path.parent / base
        parent = _load_card(beside if base.endswith(".yaml") else base, (*below, path))
        data = _merge(parent.model_dump(mode="json", exclude=set(OWN)), data)
    return _validated(Card, data | {"key": path.stem}, label)


def _inline_cards(data: dict[str, Any], folder: Path) -> None:
    """Replace `extends: file.yaml` by the card itself: a scenario then means the same wherever it is read."""
    overrides = data.get("overrides")
    for method, partial in overrides.items() if isinstance(overrides, dict) else ():
        base = partial.get("extends") if isinstance(partial, dict) else None
        if isinstance(base, str) and base.endswith(".yaml"):
            rest = {key: value for key, value in partial.items() if key != "extends"}
            overrides[method] = _merge(_standing_alone(load_card(folder / base)), rest)


def _standing_alone(card: Card) -> dict[str, Any]:
    return {"extends": None} | card.model_dump(mode="json", exclude={"key"})


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = base.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value) if both and value.get("use", old.get("use")) == old.get("use") else value
    return merged


def _shipped(kind: str) -> Path:
    """scenarios/ and baselines/ lie inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return package / kind if (package / kind).is_dir() else package.parent / kind


def _names(kind: str) -> list[str]:
    return sorted(path.stem for path in _shipped(kind).glob("*.yaml"))


def _find(kind: str, name_or_path: str | Path, what: str) -> tuple[Path, str]:
    """-> the file, and how messages call it."""
    text = str(name_or_path)
    if isinstance(name_or_path, str) and name_or_path in _names(kind):
        return _shipped(kind) / f"{name_or_path}.yaml", f"{kind}/{name_or_path}.yaml"
    if text.endswith((".yaml", ".yml")) or "/" in text:
        return Path(name_or_path), text
    raise UserError(f"no {what} {shown(text)}{did_you_mean(text, _names(kind))} (a path ends in .yaml)")


def _read(path: Path, label: str) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except IsADirectoryError:
        raise UserError(f"{label}: is a folder; expected a YAML file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        beside = [each.name for each in path.parent.glob("*.yaml")] if isinstance(error, FileNotFoundError) else []
        raise UserError(f"{label}: cannot be read: {reason}{did_you_mean(path.name, beside)}") from None
    return yaml_facts.parse(content, label)


# --- errors of one line -----------------------------------------------------------------------------------------------


def _validated(model: type[Facts], data: dict[str, Any], label: str) -> Any:
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
    "dict_type": lambda ctx: "a mapping",
    "model_type": lambda ctx: "a mapping",
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


def _explained(model: type[Facts], data: Any, error: dict[str, Any]) -> str:
    path = _keys(data, error["loc"])
    kind, ctx, value = error["type"], error.get("ctx", {}), error["input"]
    if kind in ("extra_forbidden", "missing"):
        *path, key = path
        fields = _fields(model, path)
        said = f"no field {shown(key)}{did_you_mean(key, fields)}" if kind != "missing" else f"'{key}' is missing"
    elif kind == "string_pattern_mismatch":
        name = "a name of letters, digits and + . _ - (it becomes a folder)"
        rule = {"use": "file.Class, as in coop.CoOp", "datasets": "a name or a path"}.get(_section(path), name)
        said = f"expected {rule}, got {shown(value)}"
    elif kind in _EXPECTED:
        near = did_you_mean(value, re.findall(r"'([^']+)'", ctx["expected"])) if kind == "literal_error" else ""
        said = f"expected {_EXPECTED[kind](ctx)}, got {shown(value)}{near}"
    else:
        said = error["msg"]
    return ": ".join(filter(None, [".".join(map(str, path)), said]))


def _keys(data: Any, loc: tuple[int | str, ...]) -> list[int | str]:
    """The location without pydantic's own steps (names of union members): only keys that a reader finds in the file."""
    keys: list[int | str] = []
    for step, last in zip(loc, [False] * (len(loc) - 1) + [True], strict=True):
        inside = (isinstance(data, dict) and step in data) or (isinstance(data, list | tuple) and isinstance(step, int))
        if inside:
            data = data[step] if not isinstance(data, list | tuple) or step < len(data) else None
        if inside or (last and isinstance(data, dict)):
            keys.append(step)
    return keys


def _section(path: list[int | str]) -> str:
    """The last key of a path that is no position in a list."""
    return next((step for step in reversed(path) if isinstance(step, str)), "")


def _fields(model: type[Facts], path: list[int | str]) -> list[str]:
    """The field names of the model that lies at a path below `model`."""
    for step in path:
        field = model.model_fields.get(str(step))
        model = next(_facts_in(field.annotation), model) if field else model
    return [name for name in model.model_fields if name != "key"]


def _facts_in(annotation: Any) -> Iterator[type[Facts]]:
    """The models that an annotation names, however deep in unions and lists."""
    if isinstance(annotation, type) and issubclass(annotation, Facts):
        yield annotation
    for part in get_args(annotation):
        yield from _facts_in(part)
