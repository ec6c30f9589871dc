"""What a finished run leaves in results/: counts, with everything needed to know what was counted.

    results/<scenario>/runs/<dataset>/<method>/shots<k>-seed<s>/record.json      one Record, the only truth
    results/<scenario>/records.csv                                               the counts of all records, one a row

Experiences are numbered from 1; trained = 0 is the untrained method. An image is scored against the classes of its own
experience (label space `own`) or against all classes learned so far (`joint`; undefined for those not yet learned).
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache, cached_property
from pathlib import Path
from types import UnionType
from typing import NamedTuple, get_args, get_origin, get_type_hints

import numpy as np

from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.files import write_atomic

FORMAT = 1
LABEL_SPACES = ("own", "joint")
LARGEST = 2**53  # beyond it a float no longer holds every whole number


class Unfit(UserError):
    """The runs are not what a kind of table or figure is about."""


@dataclass(frozen=True)
class RunFacts:
    """Which run: one method on one dataset with so many training images per class ("full": all) and one seed."""

    scenario: str
    version: int
    dataset: str
    method: str
    shots: int | str
    seed: int


@dataclass(frozen=True)
class BackboneFacts:
    architecture: str
    weights: str
    hash: str
    precision: str  # in which the frozen towers compute
    activation: str = ""  # QuickGELU or GELU


@dataclass(frozen=True)
class DatasetFacts:
    """What was seen when. Classes are in their order of arrival, T experiences."""

    fingerprint: str
    classes: tuple[str, ...]
    order: tuple[int, ...]  # the dataset's own class ids
    experiences: tuple[int, ...]  # (T,) number of classes
    train_images: tuple[int, ...]  # (T,)
    test_images: tuple[int, ...]  # (T,)
    test_per_class: tuple[int, ...]
    chosen: tuple[tuple[int, ...], ...]  # per experience, the ids of the training images
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Count:
    """After `trained` experiences, `correct` of the `total` test images of experience `tested`; None is undefined."""

    trained: int
    tested: int
    label_space: str
    correct: int | None
    total: int
    correct_per_class: tuple[int, ...] | None


@dataclass(frozen=True)
class ModelFacts:
    trainable: tuple[int, ...]  # (T,) parameters that learn in each experience
    label_tokens: int | None


@dataclass(frozen=True)
class Measured:
    """What another machine or another day may change, and nothing else."""

    seconds: dict
    images_per_second: float | None
    peak_memory_bytes: int | None
    device: str
    host: str
    versions: dict
    commit: str | None
    finished: str


@dataclass(frozen=True)
class Record:
    """One finished run. `scenario` and `card` are the resolved YAML, with its hash."""

    run: RunFacts
    scenario: dict
    card: dict
    backbone: BackboneFacts
    dataset: DatasetFacts
    counts: tuple[Count, ...]
    model: ModelFacts
    measured: Measured
    files: dict

    def facts(self) -> dict:
        """Everything that must be the same when the run is repeated: all but `measured`."""
        return {name: part for name, part in asdict(self).items() if name != "measured"}

    def accuracy(self, label_space: str) -> np.ndarray:
        """R, (T+1, T) in %: row i after i experiences, column j-1 the test images of experience j; NaN is undefined."""
        if label_space not in self._accuracies:
            raise UserError(f"{self}: was not scored in the label space '{label_space}'")
        return self._accuracies[label_space]

    @property
    def spaces(self) -> tuple[str, ...]:
        """The label spaces it was scored in."""
        return tuple(self._accuracies)

    def class_drops(self, label_space: str) -> np.ndarray:
        """(C,) in points, classes by arrival: accuracy right after a class was learned minus after the last experience.

        NaN for a class without test images, or if the counts of each class were not kept.
        """
        sizes, T = self.dataset.experiences, len(self.dataset.experiences)
        kept = {
            (count.trained, count.tested): np.array(count.correct_per_class or [np.nan] * sizes[count.tested - 1])
            for count in self.counts
            if count.label_space == label_space and count.trained in (count.tested, T)
        }
        lost = np.concatenate([kept[j, j] - kept[T, j] for j in range(1, T + 1)])
        images = np.array(self.dataset.test_per_class, dtype=float)
        return 100 * lost / np.where(images > 0, images, np.nan)

    @cached_property
    def _accuracies(self) -> dict[str, np.ndarray]:
        T = len(self.dataset.experiences)
        matrices = {count.label_space: np.full((T + 1, T), np.nan) for count in self.counts}
        for count in self.counts:
            if count.correct is not None:
                matrices[count.label_space][count.trained, count.tested - 1] = 100 * count.correct / count.total
        for matrix in matrices.values():
            matrix.flags.writeable = False
        return matrices

    def __str__(self) -> str:
        run = self.run
        return f"{run.scenario}: {run.dataset}/{run.method}/shots{run.shots}-seed{run.seed}"


def write_record(record: Record, folder: Path) -> Path:
    """Write folder/record.json in one step; the same record gives the same bytes."""
    parts = asdict(record)
    counts = ",\n  ".join(_json(count) for count in parts["counts"])
    lines = [f'"format": {FORMAT}']
    lines += [f'"{n}": [\n  {counts}]' if n == "counts" else f'"{n}": {_json(part)}' for n, part in parts.items()]
    lines += [f'"sha256": "{_seal({"format": FORMAT, **parts})}"']
    path = folder / "record.json"
    write_atomic(path, "{" + ",\n ".join(lines) + "}\n")
    return path


def read_record(path: Path) -> Record:
    """The record in a file. Raises UserError, in one line, for a file that is not a whole record of this format, or that was
    changed since it was written (its `sha256`; a file without one is taken as it is)."""
    content = _content(path)
    seal = content.pop("sha256", None)
    changed = seal is not None and seal != _seal(content)
    if content.pop("format", None) != FORMAT:
        raise UserError(f"{path}: format: expected {FORMAT}; another version of lamm-cl wrote this")
    try:
        record = _parsed(Record, content, "")
        _check(record)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if changed:
        raise UserError(f"{path}: was changed since it was written (its sha256 is another)")
    return record


def is_sealed(path: Path) -> bool:
    """Whether a record.json has a `sha256`, by which a change would be noticed."""
    return "sha256" in _content(path)


def _seal(content: dict) -> str:
    """sha256 of a record's content, however its JSON is spaced and ordered."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _content(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number without end, nested without end
        raise UserError(f"{path}: not a whole JSON file ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object, found {_short(content)}")
    return content


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def records_in(results: Path) -> list[Record]:
    """The finished runs of one results folder, sorted by dataset, method, shots and seed; empty if none is finished.

    Raises UserError if the folder is absent, or holds broken records, one run twice, or more than one scenario.
    """
    if not results.is_dir():
        beside = [path.name for path in results.parent.iterdir()] if results.parent.is_dir() else []
        raise UserError(f"{results}: no such results folder{did_you_mean(results.name, beside)}")
    found = {}
    for path in sorted(results.glob("runs/*/*/*/record.json")):
        record = read_record(path)
        run = record.run
        key = (run.dataset, run.method, *by_size(run.shots), run.seed)
        if key in found:
            raise UserError(f"{path}: the run {record} is in this results folder twice")
        found[key] = record
    if len(names := sorted({record.run.scenario for record in found.values()})) > 1:
        raise UserError(f"{results}: holds runs of several scenarios ({', '.join(names)}); expected one")
    return [found[key] for key in sorted(found)]


class Row(NamedTuple):
    """One line of records.csv. `correct` and `accuracy` (in %) are None where the joint label space is undefined."""

    scenario: str
    dataset: str
    method: str
    shots: int | str
    seed: int
    label_space: str
    trained: int
    tested: int
    correct: int | None
    total: int
    accuracy: float | None


def rows(records: Iterable[Record]) -> list[Row]:
    """The counts of the records, one a row, in a fixed order."""
    return [
        Row(
            *(record.run.scenario, record.run.dataset, record.run.method, record.run.shots, record.run.seed),
            *(count.label_space, count.trained, count.tested, count.correct, count.total),
            None if count.correct is None else 100 * count.correct / count.total,
        )
        for record in records
        for count in sorted(record.counts, key=lambda c: (LABEL_SPACES.index(c.label_space), c.trained, c.tested))
    ]


def write_records_csv(results: Path) -> Path:
    """Write results/records.csv anew from the records."""
    path = results / "records.csv"
    write_atomic(path, records_csv(records_in(results)))
    return path


def records_csv(records: Iterable[Record]) -> str:
    """The content of results/records.csv: it follows from the records."""
    lines = [
        [csv_text(field) if isinstance(field, str) else field for field in row[:-1]]
        + ["" if row.accuracy is None else f"{row.accuracy:.6f}"]
        for row in rows(records)
    ]
    return csv_lines([list(Row._fields), *lines])


def csv_lines(lines: Iterable[Sequence]) -> str:
    """Lines as CSV (RFC 4180 quoting, one newline at the end of each line; None is empty)."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def csv_text(text: str) -> str:
    """A name that no spreadsheet takes for a formula: one that starts like a formula gets a leading apostrophe."""
    return "'" + text if text[:1] in tuple("=+-@\t\r\n") else text


@dataclass(frozen=True)
class Runs:
    """The finished runs of one results folder at one number of shots: what one table, or one line style, is about.

    Datasets and methods are in the scenario's order, those without any finished run left out; `seeds` are the ones that
    the scenario names, finished or not.
    """

    scenario: str
    shots: int | str
    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    records: dict[tuple[str, str], dict[int, Record]]  # (dataset, method) -> seed -> record

    @property
    def experiences(self) -> int:
        """T; the largest, should the datasets differ."""
        return max(len(record.dataset.experiences) for by_seed in self.records.values() for record in by_seed.values())

    @cached_property
    def spaces(self) -> tuple[str, ...]:
        """The label spaces that every run was scored in, own first."""
        found = [record.spaces for by_seed in self.records.values() for record in by_seed.values()]
        return tuple(space for space in LABEL_SPACES if all(space in each for each in found))

    def space(self, preferred: str) -> str:
        """The label space to tell numbers in: the preferred one if every run was scored in it, else the other.

        Raises UserError if the runs have none in common.
        """
        if not self.spaces:
            raise UserError(f"{self.scenario}: some runs were scored in one label space, some in the other only")
        return preferred if preferred in self.spaces else self.spaces[0]

    def of(self, method: str) -> list[Record]:
        """The finished runs of a method."""
        return [r for dataset in self.datasets for r in self.records.get((dataset, method), {}).values()]

    def values(self, dataset: str, method: str, metric: Callable[[Record], np.ndarray | float]) -> dict:
        """seed -> metric of the run, for the finished seeds."""
        return {seed: metric(record) for seed, record in self.records.get((dataset, method), {}).items()}

    def averages(self, method: str, metric: Callable[[Record], np.ndarray | float]) -> dict:
        """seed -> average over all datasets, for the seeds that are finished on every dataset.

        None of an array where datasets differ in their number of experiences.
        """
        each = [self.values(dataset, method, metric) for dataset in self.datasets]
        if len({np.shape(value) for values in each for value in values.values()}) > 1:
            return {}
        return {s: np.mean([values[s] for values in each], axis=0) for s in self.seeds if all(s in v for v in each)}

    def name(self, method: str) -> str:
        """The card's name for people ("CoOp"); the method's key where two cards share a name."""
        names = {m: str(self.of(m)[0].card.get("name", m)) for m in self.methods}
        return method if list(names.values()).count(names[method]) > 1 else names[method]

    def missing(self) -> list[str]:
        """What the scenario promises and no record holds, one sentence a piece."""
        listed = next(iter(next(iter(self.records.values())).values())).scenario
        absent = [x for x in listed.get("datasets", ()) if x not in self.datasets]
        absent += [x for x in listed.get("methods", ()) if x not in self.methods]
        gaps: dict = {}  # seeds -> dataset -> methods
        for d in self.datasets:
            for m in self.methods:
                seeds = ", ".join(str(s) for s in self.seeds if s not in self.records.get((d, m), {}))
                gaps.setdefault(seeds, {}).setdefault(d, []).append(m)
        gaps.pop("", None)
        notes = [f"no finished run of {x}" for x in absent]
        for seeds, where in gaps.items():
            if sum(map(len, where.values())) == len(self.datasets) * len(self.methods) > 1:
                where = {"all datasets": ["all methods"]}
            for d, methods in where.items():
                named = "all methods" if len(methods) == len(self.methods) > 1 else ", ".join(methods)
                notes.append(f"{d}, {named}: seed {seeds} not finished")
        return notes


def runs_in(results: Path) -> list[Runs]:
    """The finished runs of one results folder, one Runs per number of shots, fewest first.

    Raises UserError if nothing is finished, or if runs that would be compared differ in what they were tested on.
    """
    return runs_of(records_in(results), results)


def runs_of(records: list[Record], results: Path) -> list[Runs]:
    """As `runs_in`, of the records that were read from `results`."""
    if not records:
        raise UserError(f"{results}: no finished run (no runs/<dataset>/<method>/shots<k>-seed<s>/record.json)")
    _check_comparable(results, records)
    by_shots: dict = {}
    for record in records:
        by_shots.setdefault(record.run.shots, []).append(record)
    return [_runs(by_shots[shots]) for shots in sorted(by_shots, key=by_size)]


def _runs(records: list[Record]) -> Runs:
    cells: dict = {}
    for record in records:
        cells.setdefault((record.run.dataset, record.run.method), {})[record.run.seed] = record
    scenario = records[0].scenario
    return Runs(
        records[0].run.scenario,
        records[0].run.shots,
        _in_order({dataset for dataset, _ in cells}, scenario.get("datasets", ())),
        _in_order({method for _, method in cells}, scenario.get("methods", ())),
        tuple(sorted({s for r in records for s in (r.run.seed, *r.scenario.get("seeds", ()))})),
        cells,
    )


def _in_order(found: set[str], listed: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(found, key=lambda name: (listed.index(name) if name in listed else len(listed), name)))


def by_size(shots: int | str) -> tuple[bool, int]:
    """Sort key: 1, 2, 16, full."""
    return (True, 0) if isinstance(shots, str) else (False, shots)


def _check_comparable(results: Path, records: list[Record]) -> None:
    """Averaging over runs of different things would be silent nonsense: name the first field that differs."""
    rules = [  # what must agree, among runs with the same ...
        ("backbone hash", lambda r: r.backbone.hash, lambda r: ()),
        ("dataset fingerprint", lambda r: r.dataset.fingerprint, lambda r: (r.run.dataset,)),
        ("class order", lambda r: r.dataset.order, lambda r: (r.run.dataset,)),
        ("experiences", lambda r: r.dataset.experiences, lambda r: (r.run.dataset,)),
        ("card hash", lambda r: r.card.get("hash"), lambda r: (r.run.dataset, r.run.method)),
    ]
    for name, value, group in rules:
        first: dict = {}
        for record in records:
            other = first.setdefault(group(record), record)
            if value(record) != value(other):
                raise UserError(f"{results}: '{record}' and '{other}' differ in {name}; they cannot share a table")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


@cache
def _fields(kind: type) -> tuple[dict[str, type], list[str]]:
    """Of a dataclass: name -> type, and the names without a default."""
    return get_type_hints(kind), [field.name for field in fields(kind) if field.default is MISSING]


@cache
def _options(kind: type) -> tuple[type, ...]:
    """What a value may be: the members of a union, or the type itself."""
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def _parsed(kind: type, value: object, where: str) -> object:
    """The JSON value as the annotated type, lists as tuples. Raises ValueError: where, what was expected and found."""
    options = _options(kind)
    if type(value) is int and abs(value) > LARGEST:
        raise ValueError(f"{where}: expected a number of at most 2^53, found {_short(value)}")
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
    raise ValueError(f"{where}: expected {_spelled(kind)}, found {_short(value)}")


def _dataclass(kind: type, value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, found {_short(value)}")
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


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _check(record: Record) -> None:
    """What no type says. Raises ValueError."""
    data, T = record.dataset, len(record.dataset.experiences)
    if type(record.run.shots) is str and record.run.shots != "full":
        raise ValueError(f"run.shots: expected a whole number or 'full', found '{record.run.shots}'")
    for key, kind in (("datasets", str), ("methods", str), ("seeds", int)):
        listed = record.scenario.get(key, [])
        if not isinstance(listed, list) or any(type(each) is not kind for each in listed):
            raise ValueError(f"scenario.{key}: expected a list, found {_short(listed)}")
    for where, facts, kind in (
        ("scenario.overrides", record.scenario.get("overrides", {}), dict),
        ("card.published", record.card.get("published", {}), dict),
        ("card.provenance", record.card.get("provenance", {}), object),
    ):
        if not isinstance(facts, dict) or not all(isinstance(each, kind) for each in facts.values()):
            raise ValueError(f"{where}: expected an object{' of objects' if kind is dict else ''}, found {_short(facts)}")
    if not isinstance(record.card.get("departures", []), list):
        raise ValueError(f"card.departures: expected a list, found {_short(record.card['departures'])}")
    if not T or sum(data.experiences) != len(data.classes) or len(data.test_images) != T:
        raise ValueError("dataset: classes, experiences and test_images do not belong together")
    if len(record.model.trainable) != T:
        raise ValueError(f"model.trainable: expected one for each of the {T} experiences")
    for stage, seconds in record.measured.seconds.items():
        if type(seconds) not in (int, float) or not 0 <= seconds < LARGEST:
            raise ValueError(f"measured.seconds.{stage}: expected seconds, found {_short(seconds)}")
    if len(data.test_per_class) != len(data.classes):
        raise ValueError(f"dataset.test_per_class: expected one for each of the {len(data.classes)} classes")
    seen = set()
    for i, count in enumerate(record.counts):
        problem = _problem(count, data)
        key = (count.label_space, count.trained, count.tested)
        if problem or key in seen:
            raise ValueError(f"counts[{i}]: {problem or 'is there twice'}")
        seen.add(key)
    if not seen or len(seen) != len({space for space, *_ in seen}) * (T + 1) * T:
        raise ValueError(f"counts: expected one for each trained 0..{T} and tested 1..{T} in each label space")


def _problem(count: Count, data: DatasetFacts) -> str:
    """What is wrong with a count, "" if nothing is."""
    test_images = data.test_images
    if count.label_space not in LABEL_SPACES:
        return f"label_space: no '{count.label_space}'{did_you_mean(count.label_space, LABEL_SPACES)}"
    if not (0 <= count.trained <= len(test_images) and 1 <= count.tested <= len(test_images)):
        return f"trained {count.trained}, tested {count.tested}: there are {len(test_images)} experiences"
    if count.total != test_images[count.tested - 1] or count.total < 1:
        return f"total {count.total}: dataset.test_images says {test_images[count.tested - 1]}"
    undefined = count.label_space == "joint" and count.tested > count.trained
    if undefined != (count.correct is None):
        return "correct: expected null exactly where the joint label space lacks the classes of a later experience"
    if count.correct is not None and not 0 <= count.correct <= count.total:
        return f"correct {count.correct} of {count.total}"
    if count.correct_per_class is None:
        return ""
    if sum(count.correct_per_class) != (count.correct or 0):
        return f"correct_per_class adds up to {sum(count.correct_per_class)}, correct is {count.correct}"
    if len(count.correct_per_class) != data.experiences[count.tested - 1]:
        return f"correct_per_class: expected {data.experiences[count.tested - 1]} classes"
    return ""
