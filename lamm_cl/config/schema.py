"""What a scenario (what is measured) and a method card (what is run) may say, as frozen models.

Nothing in this package imports torch, so `lamm-cl list` and `show` answer at once.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from lamm_cl.errors import shown

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

    identity: ClassVar = ("context", "labels", "loss", "training", "head", "tower", "memory", "label_space")

    key: Name
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    paper: Annotated[str, StringConstraints(min_length=1)]
    repository: str | None = None
    context: Piece | None = None  # the words "a photo of a"
    labels: Piece | None = None  # the names' own tokens
    loss: Piece | None = None
    head: Piece | None = None  # the cosine with the text, at CLIP's scale
    tower: Piece | None = None
    memory: Piece | None = None
    label_space: Literal["experience", "seen"] | None = None  # which classes compete in the loss; null: the scenario's
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
