"""Kinds of values of a scenario or a card: names, numbers, lists, one of several; and models of them, strict and frozen."""

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    Tag,
    model_serializer,
)
from pydantic_core import PydanticCustomError

# A name becomes a folder in results/, so it holds nothing a file system could read as a path.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9+._-]*$", max_length=100)]
# A dataset is a name or, one's own, a path.
Dataset = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=1000)]
Template = Annotated[str, StringConstraints(pattern=r"^[^{}\x00-\x1f\x7f]*\{\}[^{}\x00-\x1f\x7f]*$", max_length=300)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Rate = Annotated[float, Field(gt=0, le=10**6)]
Amount = Annotated[float, Field(ge=0, le=10**6)]
Share = Annotated[float, Field(ge=0, lt=1)]


def to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _unique(values: tuple) -> tuple:
    for value in values:
        if values.count(value) > 1:
            raise PydanticCustomError("duplicate", "{value} stands there twice", {"value": repr(value)})
    return values


def all_different(value: Any) -> Any:
    return _unique(to_tuple(value)) if isinstance(value, list | tuple) else value


T = TypeVar("T")

# A list with at least one entry, strict models take only tuples, YAML gives lists; and one whose entries all differ.
ListOf = Annotated[tuple[T, ...], Field(min_length=1), BeforeValidator(to_tuple)]
SetOf = Annotated[tuple[T, ...], Field(min_length=1), BeforeValidator(all_different)]

# What a union may hold: Annotated[ANumber[Count] | AText[Name], by_kind("number", "text")].
ANumber = Annotated[T, Tag("number")]
AText = Annotated[T, Tag("text")]
AList = Annotated[T, Tag("list")]
AMapping = Annotated[T, Tag("mapping")]


def by_kind(*choices: str) -> Discriminator:
    """Of a union: looks at the kind of value first, so that an error speaks of one choice and not of all."""

    def kind(value: Any) -> str:
        if isinstance(value, str) and "text" in choices:
            return "text"
        if isinstance(value, list | tuple) and "list" in choices:
            return "list"
        if isinstance(value, dict | BaseModel) and "mapping" in choices:
            return "mapping"
        return "number" if "number" in choices else "text"

    return Discriminator(kind)


class Facts(BaseModel):
    """Strict: an int where an int is asked, no "16" for 16, no true for 1, no unknown key."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Grown(Facts):
    """Facts with fields that came after the first release: those are written where they say something.

    What says none of them is written, and hashed, as it always was.
    """

    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found = plain(self)
        unsaid = [name for name in self.later if getattr(self, name) == type(self).model_fields[name].default]
        return {name: value for name, value in found.items() if name not in unsaid}
