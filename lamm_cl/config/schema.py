"""What a scenario (what is measured) and a method card (what is run) may say, as frozen models.

Nothing in this package imports torch, so `lamm-cl list` and `show` answer at once.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, StringConstraints, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from lamm_cl.config import uses
from lamm_cl.config.kinds import (
    AList,
    AMapping,
    Amount,
    ANumber,
    AText,
    Count,
    Dataset,
    Facts,
    Grown,
    ListOf,
    Name,
    Rate,
    Seed,
    SetOf,
    Share,
    Template,
    all_different,
    by_kind,
    to_tuple,
)
from lamm_cl.errors import shown

HUB = "hf-hub:"  # what a backbone from the Hugging Face hub starts with
CHAIN = " + "  # between the datasets of a chain, where it is named in one text
FEATURES = "features"  # the architecture of a backbone whose features are given: there are no towers

# What a card says of itself alone: a card that extends another starts without it.
OWN = ("departures", "published")

Shots = Annotated[ANumber[Count] | AText[Literal["full"]], by_kind("number", "text")]


class Backbone(Grown):
    """An open_clip architecture and its weights: a tag of open_clip, a file, or "embedded".

    A repository of the Hugging Face hub, {architecture: "hf-hub:owner/name", weights: hub}, brings both. In a precision
    below fp32 the frozen towers compute under autocast. Where datasets are features, there are no towers, and
    {architecture: features, weights: "ViT-B-32 openai"} says what made them.

    resize: how an image that is no square becomes one: crop (the short side to size, then the centre: CLIP's own) or squeeze
    (both sides to size; the ratio of the sides is lost).
    """

    later: ClassVar = ("resize",)

    architecture: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    weights: Annotated[str, StringConstraints(min_length=1, max_length=4000)]
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    features: Literal["fp32", "fp16"] = "fp32"
    resize: Literal["crop", "squeeze"] = "crop"

    @model_validator(mode="after")
    def _hub_brings_both(self) -> "Backbone":
        if self.architecture.startswith(HUB) != (self.weights == "hub"):
            raise PydanticCustomError("hub", "architecture {hub}OWNER/NAME goes with weights 'hub'", {"hub": HUB})
        return self


class OrderSeed(Facts):
    seed: Seed


# Of the classes: the dataset's, that backwards, a shuffled one, or a stored one: names or class ids, the first to arrive first.
Order = Annotated[
    AText[Literal["dataset", "reversed"]] | AMapping[OrderSeed] | AList[ListOf[str | Annotated[int, Field(ge=0, le=10**9)]]],
    by_kind("text", "mapping", "list"),
]


def _one_of(what: dict[str, Any]) -> str:
    """What is wrong where exactly one of some fields must be given; "" if nothing is."""
    given = [name for name, value in what.items() if value is not None]
    if len(given) == 1:
        return ""
    return f"expected one of {', '.join(what)}, got {' and '.join(given) or 'none'}{' (null takes one away)' * bool(given)}"


class Warmup(Facts):
    """The rate in the first n epochs or steps: a constant `lr`, or linear: 1/n of the training's lr, 2/n, ..., all of it."""

    use: Literal["constant", "linear"] = "constant"
    epochs: Count | None = None
    steps: Count | None = None
    lr: Rate | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        said = _one_of({"epochs": self.epochs, "steps": self.steps})
        if (self.lr is None) == (self.use == "constant"):
            said = "'lr' is missing" if self.lr is None else "lr: a linear warm-up ends at the training's"
        if said:
            raise PydanticCustomError("warmup", "{said}", {"said": said})
        return self


class Adam(Facts):
    """torch's: in "adam" weight decay is added to the gradient, in "adamw" it acts on the weights alone."""

    use: Literal["adam", "adamw"]
    betas: Annotated[tuple[Share, Share], BeforeValidator(to_tuple)] = (0.9, 0.999)
    eps: Rate = 1e-8


class Schedule(Facts):
    """How the learning rate changes, per epoch or per step.

    cosine, annealing: half a cosine from `lr` to `floor`, counted from the end of the warm-up.  "cosine" is Dassl's: its length
    is the whole experience, so behind a warm-up it ends above the floor.  "annealing" is torch's CosineAnnealingLR over what
    the warm-up leaves.  Without a warm-up they are the same.
    milestones: times `factor` at each milestone, an epoch or a step counted from 0, warm-up included.
    period: how many epochs or steps half a cosine takes instead; behind it the rate rises again, as torch's.
    """

    use: Literal["cosine", "annealing", "milestones"] = "milestones"
    per: Literal["epoch", "step"] = "epoch"
    floor: Amount = 0.0
    milestones: ListOf[Count] | None = None
    factor: Rate | None = None
    period: Count | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        mine, said = self.use == "milestones", ""
        for name in ("milestones", "factor"):
            if (getattr(self, name) is None) == mine:
                said = said or (f"'{name}' is missing" if mine else f"{name} goes with use: milestones")
        milestones = list(self.milestones or ())
        if mine and not said and milestones != sorted(set(milestones)):
            said = f"expected rising milestones, got {milestones}"
        if mine and (self.floor or self.period):
            said = said or f"{'floor' if self.floor else 'period'} goes with a cosine"
        if said:
            raise PydanticCustomError("schedule", "{said}", {"said": said})
        return self


class Rates(Facts):
    """Factors on the learning rate, floor and warm-up included, piece by piece."""

    context: Rate = 1.0
    labels: Rate = 1.0
    tower: Rate = 1.0
    head: Rate = 1.0
    loss: Rate = 1.0


class Own(Facts):
    """What some parameters learn with instead; the schedule keeps its form and its floor."""

    lr: Rate
    weight_decay: Amount


Optimizer = Annotated[AText[Literal["sgd", "adam", "adamw"]] | AMapping[Adam], by_kind("text", "mapping")]
Scheduled = Annotated[
    AText[Literal["constant", "cosine", "annealing", "lagging"]] | AMapping[Schedule],  # lagging: CODA-Prompt's
    by_kind("text", "mapping"),
]
UNSAID: Any = None  # the default of a field that may be absent, never null
LENGTHS = ("epochs", "steps", "steps_per_shot")


class _Numbers(Facts):
    """What one experience may train with and another without."""

    epochs: Count | None = None
    steps: Count | None = None  # of the optimizer; epochs follow one another until they are done
    steps_per_shot: Count | None = None
    batch: Count = UNSAID
    optimizer: Optimizer = UNSAID
    lr: Rate = UNSAID
    momentum: Share | None = None  # of SGD
    weight_decay: Amount = UNSAID
    schedule: Scheduled = UNSAID
    warmup: Warmup | None = None
    drop_last: bool = False  # leave out the last batch of an epoch if it is smaller, unless it is the only one
    clip_gradient: Rate | None = None  # the largest norm of all gradients together
    rates: Rates | None = None
    own: dict[str, Own] | None = None  # parameter or module, from its piece on (head.B) -> its own numbers


class Changes(_Numbers):
    """What is otherwise in some experiences.  What is not named stays; a new length takes the place of the old one."""

    epochs: Annotated[int, Field(ge=0, le=10**9)] = UNSAID
    steps: Count = UNSAID
    steps_per_shot: Count = UNSAID

    @model_serializer
    def _named(self) -> dict[str, Any]:
        """A null that is named says something: no warm-up."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


class Training(_Numbers):
    """One experience of training; optimizer and schedule start afresh in the next.

    first, later: what is otherwise in the first experience, and in all others.
    """

    batch: Count
    optimizer: Optimizer
    lr: Rate
    weight_decay: Amount
    schedule: Scheduled
    augmentation: Literal["none", "random_resized_crop+flip"]
    first: Changes | None = None
    later: Changes | None = None

    @property
    def per(self) -> str:
        """What the learning rate changes with: "epoch" or "step"."""
        stepwise = self.warmup is not None and self.warmup.steps is not None
        return "step" if stepwise else getattr(self.schedule, "per", "epoch")

    def changed(self, by: Changes | None) -> Self:
        if by is None:
            return self
        named = {name: getattr(by, name) for name in by.model_fields_set}
        if named.keys() & set(LENGTHS):
            named = dict.fromkeys(LENGTHS) | named
        if named.get("optimizer", "sgd") != "sgd":
            named = {"momentum": None} | named
        return self.model_copy(update=named | {"first": None, "later": None})

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for part, changes in {"": None, "first: ": self.first, "later: ": self.later}.items():
            if said := _misfit(self.changed(changes)):
                raise PydanticCustomError("misfit", "{part}{said}", {"part": part, "said": said})
        return self


def _misfit(t: Training) -> str:
    """What does not fit together in the numbers of an experience; "" if all does."""
    if said := _one_of({name: getattr(t, name) for name in LENGTHS}):
        return said
    name = t.optimizer if isinstance(t.optimizer, str) else t.optimizer.use
    if (t.momentum is None) == (name == "sgd"):
        return "'momentum' is missing" if name == "sgd" else f"momentum: {name} has none (null takes it away)"
    if getattr(t.schedule, "floor", 0) > t.lr:
        return f"schedule.floor is more than lr ({t.lr:g})"
    if t.warmup is None or t.epochs == 0:
        return ""
    if t.schedule == "lagging":
        return "schedule: lagging has no warm-up"
    if t.warmup.steps and t.schedule != "constant" and getattr(t.schedule, "per", "epoch") == "epoch":
        return "warmup.steps goes with a constant schedule or one with per: step"
    for unit in ("epochs", "steps"):
        if getattr(t, unit) and (getattr(t.warmup, unit) or 0) > getattr(t, unit):
            return f"warmup.{unit} is more than {unit} ({getattr(t, unit)})"
    return ""


class Piece(Facts):
    """{use: coop.CoOp, n: 4} names the class CoOp of lamm_cl/methods/coop.py; the other keys are its options.

    Other forms of `use` stand in config/uses.py.
    """

    use: Annotated[str, StringConstraints(pattern=uses.PATTERN, max_length=1000)]
    options: dict[str, JsonValue] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        options = {key: option for key, option in value.items() if key != "use"}
        return {"options": options} | ({"use": value["use"]} if "use" in value else {})

    @model_validator(mode="after")
    def _no_option_is_a_template(self) -> "Piece":
        """A template would read braces as a place.  All else about an option is said by its annotation (learner/build.py)."""
        for key, option in self.options.items():
            if isinstance(option, str) and ("{" in option or "}" in option):
                raise PydanticCustomError(
                    "option", "{key}: expected a text without braces, got {got}", {"key": key, "got": shown(option)}
                )
        return self

    @model_serializer
    def _as_in_yaml(self) -> dict[str, JsonValue]:
        return {"use": self.use, **self.options}


Departure = Annotated[AText[str] | AMapping[dict[str, JsonValue]], by_kind("text", "mapping")]


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
    loss: Annotated[AMapping[Piece] | AList[ListOf[Piece]], by_kind("mapping", "list")] | None = None  # of a list, all
    head: Piece | None = None  # the cosine with the text, at CLIP's scale
    tower: Piece | None = None
    memory: Piece | None = None
    label_space: Literal["experience", "seen"] | None = None  # which classes compete in the loss; null: the scenario's
    training: Training | None = None
    trainable: str
    provenance: dict[str, str]
    departures: Annotated[tuple[Departure, ...], BeforeValidator(to_tuple)] = ()
    published: dict[str, JsonValue] = {}

    def pieces(self) -> list[tuple[str, Piece]]:
        """(field, piece), one after the other where a field is a list."""
        found = [(field, getattr(self, field)) for field in type(self).model_fields]
        rows = [(field, entry if isinstance(entry, tuple) else (entry,)) for field, entry in found]
        return [(field, each) for field, row in rows for each in row if isinstance(each, Piece)]

    @model_validator(mode="after")
    def _no_piece_is_idle(self) -> Self:
        for field in ("loss", "memory"):
            if self.training is None and getattr(self, field) is not None:
                raise PydanticCustomError("idle", "{field}: nothing is trained, so it would do nothing", {"field": field})
        return self


class Scenario(Grown):
    """What is measured: who is seen when, and against which labels an image is scored.

    `train_on` names the dataset whose training images the classes of every dataset are learned from; None: its own.
    `bounds` asks for more runs of every method, shown beside the others: joint learns all classes at once.
    `orders` asks for every run in each of these orders, in place of `order`.
    A list in `datasets` is a chain: with `experiences: datasets` each of its datasets is an experience, and an order is one of
    datasets.  `same_names`: whether classes of one name in several of them are two classes, or one seen in several domains.
    `classes` names a list of classes and their names (data/names/): which of the dataset's are there, in which label order, and
    what prompts call them; None: all, by the dataset's own names.
    `split` names a list of train and test images that lies in the dataset's folder; None: the dataset's own split.
    `templates` names those of data/templates.yaml, or lists them: the first one trains, all test; None: the dataset's own.
    """

    identity: ClassVar = (
        *("name", "version", "backbone", "experiences", "order", "train_on"),
        *("train_label_space", "label_spaces", "same_names", "classes", "split", "templates"),
    )
    later: ClassVar = ("bounds", "orders", "same_names", "classes", "split", "templates")

    name: Name
    version: Count
    description: str = ""
    backbone: Backbone
    datasets: SetOf[Annotated[AText[Dataset] | AList[SetOf[Dataset]], by_kind("text", "list")]]
    experiences: Annotated[
        ANumber[Count] | AText[Literal["halves", "datasets"]] | AList[ListOf[Count]], by_kind("number", "text", "list")
    ]
    order: Order = "dataset"
    shots: Annotated[SetOf[Shots], BeforeValidator(lambda value: value if isinstance(value, list | tuple) else (value,))]
    seeds: SetOf[Seed]
    methods: SetOf[Name]
    train_on: Dataset | None = None
    train_label_space: Literal["experience", "seen"] = "experience"
    label_spaces: SetOf[Literal["own", "joint", "all"]] = ("own", "joint")
    overrides: dict[Name, dict[str, JsonValue]] = {}
    bounds: Annotated[tuple[Literal["joint"], ...], BeforeValidator(to_tuple)] = ()
    orders: Annotated[tuple[Order, ...], BeforeValidator(all_different)] = ()
    same_names: Literal["apart", "together"] = "apart"
    classes: Name | None = None
    split: Name | None = None
    templates: Annotated[AText[Name] | AList[SetOf[Template]], by_kind("text", "list")] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The datasets as commands call them: a chain by its members, joined."""
        return tuple(each if isinstance(each, str) else CHAIN.join(each) for each in self.datasets)

    @model_validator(mode="after")
    def _chains_fit(self) -> Self:
        chains = [each for each in self.datasets if not isinstance(each, str)]
        said = ""
        if chains and self.experiences != "datasets":
            said = f"datasets: a chain goes with experiences: datasets, not with {shown(self.experiences)}"
        elif not chains and self.experiences == "datasets":
            said = "experiences: datasets: expected a chain in datasets, as [[A, B, C]]"
        elif any(len(each) < 2 for each in chains):
            said = "datasets: a chain has two datasets or more"
        elif self.train_on and chains:
            said = "train_on: the datasets of a chain are learned from their own images"
        elif chains and (own := next((name for name in ("classes", "split") if getattr(self, name)), None)):
            said = f"{own}: goes with single datasets, not with a chain"
        elif self.same_names != "apart" and not chains:
            said = "same_names: goes with a chain in datasets, as [[A, B, C]]"
        if said:
            raise PydanticCustomError("chain", "{said}", {"said": said})
        return self

    @model_validator(mode="after")
    def _one_or_several_orders(self) -> Self:
        if self.orders and self.order != "dataset":
            raise PydanticCustomError("orders", "orders: takes the place of order; leave one of them out")
        return self
