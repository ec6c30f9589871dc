"""A record as a file, record.json: sealed by its own hash, and read only if it is whole and consistent."""

import hashlib
import json
import math
import re
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import cast, get_args, get_origin, get_type_hints

from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.files import read_regular, write_atomic
from lamm_cl.results.record import FORMAT, LABEL_SPACES, LARGEST, WORK, Count, DatasetFacts, Record

HOLDING: dict[type, str] = {dict: " of objects", str: " of texts"}

LARGEST_SIZE = 10**12  # of images, classes and parameters, of which no one run has as many


def write_record(record: Record, folder: Path) -> Path:
    """Write folder/record.json in one step; the same record gives the same bytes."""
    content = {"format": FORMAT, **asdict(record)}
    path = folder / "record.json"
    write_atomic(path, text_of(content | {"sha256": _seal(content)}))
    return path


def text_of(content: dict) -> str:
    """The text of a record.json: a line for each part, and one for each count. For what was read from such a file, the same
    text again."""
    parts = {name: _as_json(part) for name, part in content.items() if name != "counts"}
    if "counts" in content:
        parts["counts"] = "[\n  " + ",\n  ".join(map(_as_json, content["counts"])) + "]"
    return "{" + ",\n ".join(f"{_as_json(name)}: {parts[name]}" for name in content) + "}\n"


def check_bytes(content: bytes, promised: str, where: Path | str) -> None:
    """Raises UserError for a file whose sha256 is not the one that its record promised."""
    if hashlib.sha256(content).hexdigest() != promised:
        raise altered(where)


def altered(where: Path | str) -> UserError:
    return UserError(f"{where}: its bytes are not those that record.json was written with")


def read_record(path: Path) -> Record:
    """The record in a file. Raises UserError, in one line, for a file that is not a whole record of this format, or that was
    changed since it was written (its `sha256`; a file without one is taken as it is)."""
    return parsed(content_of(read_bytes(path), path), path)


def parsed(content: dict, path: object) -> Record:
    """The record whose JSON content lies at `path`, as errors name it; see `read_record`."""
    content = dict(content)
    seal = content.pop("sha256", None)
    changed = seal is not None and seal != _seal(content)
    if content.pop("format", None) != FORMAT:
        raise UserError(f"{path}: format: expected {FORMAT}; another version of lamm-cl wrote this")
    try:
        record = cast(Record, _parsed(Record, content, ""))
        _check(record)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if changed:
        raise UserError(f"{path}: was changed since it was written (its sha256 is another)")
    return record


def _seal(content: dict) -> str:
    """sha256 of a record's content, however its JSON is spaced and ordered."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_bytes(path: Path) -> bytes:
    """Raises UserError with the path and the reason."""
    try:
        return read_regular(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def content_of(text: bytes, path: object) -> dict:
    """The JSON object that lies at `path`, as errors name it. Raises UserError for anything else."""
    try:
        content = json.loads(text.decode("utf-8"), parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number without end, nested without end
        raise UserError(f"{path}: not a whole JSON file ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object, found {short(content)}")
    return content


def _finite(word: str) -> float:
    if math.isinf(number := float(word)):
        raise ValueError(f"{short(word)} is too large a number")
    return number


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


@cache
def _fields(kind: type) -> tuple[dict[str, type], list[str]]:
    """Of a dataclass: name -> type, and the names without a default."""
    return get_type_hints(kind), [each.name for each in fields(kind) if each.default is each.default_factory is MISSING]


@cache
def _options(kind: type) -> tuple[type, ...]:
    """What a value may be: the members of a union, or the type itself."""
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def _parsed(kind: type, value: object, where: str) -> object:
    """The JSON value as the annotated type, lists as tuples. Raises ValueError: where, what was expected and found."""
    options = _options(kind)
    if type(value) is int and abs(value) > LARGEST:
        raise ValueError(f"{where}: expected a number of at most 2^53, found {short(value)}")
    if type(value) in options:  # and not isinstance: True is no number
        return value
    for option in options:
        if is_dataclass(option):
            return _dataclass(option, value, where)
        if get_origin(option) is tuple and isinstance(value, list):
            item = get_args(option)[0]
            # Quickly, where it can be: a record can hold a million image ids.
            if item is int and all(type(x) is int and -LARGEST <= x <= LARGEST for x in value):
                return tuple(value)
            if item is str and all(type(x) is str for x in value):
                return tuple(value)
            return tuple(_parsed(item, x, f"{where}[{i}]") for i, x in enumerate(value))
        if option is float and type(value) is int:
            return float(value)
    raise ValueError(f"{where}: expected {_spelled(kind)}, found {short(value)}")


def _dataclass(kind: type, value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, found {short(value)}")
    types, needed = _fields(kind)
    if unknown := [key for key in value if key not in types]:
        raise ValueError(f"{where}: no key '{unknown[0]}'{did_you_mean(unknown[0], types)}".removeprefix(": "))
    if absent := [name for name in needed if name not in value]:
        raise ValueError(f"{where}: key '{absent[0]}' is missing".removeprefix(": "))
    inside = f"{where}." if where else ""
    return kind(**{name: _parsed(types[name], each, inside + name) for name, each in value.items()})


def _spelled(kind: type) -> str:
    words = {str: "a text", int: "a whole number", float: "a number", dict: "an object", type(None): "null"}
    options = get_args(kind) if isinstance(kind, UnionType) else [kind]
    return " or ".join(words.get(option, "a list") for option in options)


def short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _check(record: Record) -> None:
    """What no type says. Raises ValueError."""
    data, T = record.dataset, len(record.dataset.experiences)
    for name, digest in record.files.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9+._-]*", name) or type(digest) is not str:
            raise ValueError(f"files: {short(name)}: expected the name of a file beside record.json, and its sha256")
    for where, sizes in _sizes(record).items():
        if sizes and not 0 <= min(sizes) <= max(sizes) <= LARGEST_SIZE:
            wrong = next(size for size in sizes if not 0 <= size <= LARGEST_SIZE)
            raise ValueError(f"{where}: expected numbers from 0 to {LARGEST_SIZE:,}, found {short(wrong)}")
    if type(record.run.shots) is str and record.run.shots != "full":
        raise ValueError(f"run.shots: expected a whole number or 'full', found '{record.run.shots}'")
    if not re.fullmatch("[A-Za-z0-9]{0,20}", record.run.order):
        raise ValueError(f"run.order: expected the name of a class order, found {short(record.run.order)}")
    if not isinstance(orders := record.scenario.get("orders", []), list):
        raise ValueError(f"scenario.orders: expected a list, found {short(orders)}")
    for key, kind in (("datasets", str), ("methods", str), ("seeds", int)):
        listed = record.scenario.get(key, [])
        if key == "datasets" and isinstance(listed, list):  # a chain is a list in it
            listed = [each for one in listed for each in (one if isinstance(one, list) else [one])]
        if not isinstance(listed, list) or any(type(each) is not kind for each in listed):
            raise ValueError(f"scenario.{key}: expected a list, found {short(listed)}")
    objects: tuple[tuple[str, object, type], ...] = (
        ("code", record.code, str),
        ("scenario.overrides", record.scenario.get("overrides", {}), dict),
        ("card.published", record.card.get("published", {}), dict),
        ("card.provenance", record.card.get("provenance", {}), object),
    )
    for where, facts, held in objects:
        if not isinstance(facts, dict) or not all(isinstance(each, held) for each in facts.values()):
            raise ValueError(f"{where}: expected an object{HOLDING.get(held, '')}, found {short(facts)}")
    if not isinstance(record.card.get("departures", []), list):
        raise ValueError(f"card.departures: expected a list, found {short(record.card['departures'])}")
    if not T or sum(data.experiences) != len(data.classes) or len(data.test_images) != T:
        raise ValueError("dataset: classes, experiences and test_images do not belong together")
    if (chain := data.chain) is not None:
        sizes = len(chain.classes), sum(chain.classes), len(chain.same) or len(data.classes)
        if sizes != (len(chain.names), len(data.classes), len(data.classes)) or min(chain.classes) < 1:
            raise ValueError("dataset.chain: names, classes and same do not belong together")
    if len(record.model.trainable) != T:
        raise ValueError(f"model.trainable: expected one for each of the {T} experiences")
    for stage, seconds in record.measured.seconds.items():
        if type(seconds) not in (int, float) or not 0 <= seconds < LARGEST:
            raise ValueError(f"measured.seconds.{stage}: expected seconds, found {short(seconds)}")
    for name, count in (record.measured.work or {}).items():
        if name not in WORK:
            raise ValueError(f"measured.work: no key '{name}'{did_you_mean(name, WORK)}")
        if type(count) is not int or count < 0:
            raise ValueError(f"measured.work.{name}: expected a whole number, found {short(count)}")
    if record.measured.load is not None and not 0 <= record.measured.load < LARGEST:
        raise ValueError(f"measured.load: expected running processes a core, found {short(record.measured.load)}")
    if len(data.test_per_class) != len(data.classes):
        raise ValueError(f"dataset.test_per_class: expected one for each of the {len(data.classes)} classes")
    seen = set()
    for i, count in enumerate(record.counts):
        problem = _problem(count, data, record.model.scores_unseen)
        place = (count.label_space, count.trained, count.tested)
        if problem or place in seen:
            raise ValueError(f"counts[{i}]: {problem or 'is there twice'}")
        seen.add(place)
    if not seen or len(seen) != len({space for space, *_ in seen}) * (T + 1) * T:
        raise ValueError(f"counts: expected one for each trained 0..{T} and tested 1..{T} in each label space")


def _sizes(record: Record) -> dict[str, tuple[int, ...]]:
    """What is counted in a record, by its key: of all that, there may be none and never less."""
    data, model = record.dataset, record.model
    lists = {f"dataset.{name}": getattr(data, name) for name in ("experiences", "train_images", "test_images", "test_per_class")}
    per_class = tuple(hits for count in record.counts for hits in count.correct_per_class or ())
    return lists | {"model.trainable": model.trainable, "counts.correct_per_class": per_class}


def _problem(count: Count, data: DatasetFacts, scores_unseen: bool) -> str:
    """What is wrong with a count, "" if nothing is."""
    test_images = data.test_images
    if count.label_space not in LABEL_SPACES:
        return f"label_space: no '{count.label_space}'{did_you_mean(count.label_space, LABEL_SPACES)}"
    if not (0 <= count.trained <= len(test_images) and 1 <= count.tested <= len(test_images)):
        return f"trained {count.trained}, tested {count.tested}: there are {len(test_images)} experiences"
    if count.total != test_images[count.tested - 1] or count.total < 1:
        return f"total {count.total}: dataset.test_images says {test_images[count.tested - 1]}"
    undefined = count.tested > count.trained and (count.label_space == "joint" or not scores_unseen)
    if undefined != (count.correct is None):
        return "correct: expected null exactly where the classes of a later experience have no score"
    if count.correct is not None and not 0 <= count.correct <= count.total:
        return f"correct {count.correct} of {count.total}"
    if count.correct_per_class is None:
        return ""
    if sum(count.correct_per_class) != (count.correct or 0):
        return f"correct_per_class adds up to {sum(count.correct_per_class)}, correct is {count.correct}"
    if len(count.correct_per_class) != data.experiences[count.tested - 1]:
        return f"correct_per_class: expected {data.experiences[count.tested - 1]} classes"
    return ""
