"""What papers published, beside what was measured in the same setting and nowhere else; never in a mean.

The setting of a number is data: settings.yaml, for the entries of the shipped cards, or the entry's own `setting`. Runs are
held against it one by one: backbone, shots, stream, label spaces, and that a dataset has the classes and test images it
should. Where they differ, the number is not shown.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np

from lamm_cl import yaml_facts
from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.files import PACKAGE
from lamm_cl.reports.table import DIFFERENCE, MEASURED, PUBLISHED, Label, Line, Number, Table
from lamm_cl.results.record import Record
from lamm_cl.results.runs import Runs

Numbers = Callable[[Mapping, Line], Mapping[str, float]]  # a card's entry, a measured row -> column: number
SETTINGS = PACKAGE / "reports" / "settings.yaml"  # which says what the fields below mean


@dataclass(frozen=True)
class Setting:
    """What a published number was measured under. None: it does not matter there."""

    backbones: tuple[str, ...]
    shots: tuple[int | str, ...]
    datasets: tuple[str, ...]
    stream: str
    order: str = "dataset"
    label_space: str | None = None
    train_label_space: str | None = None
    train_on: str | None = None

    def fits(self, record: Record, label_space: str) -> bool:
        """Whether the number on the record's dataset, told in this label space, was measured as the paper's."""
        data, listed = record.dataset, record.scenario
        trained_in = listed.get("train_label_space", "experience")
        c = len(data.classes)
        size = _sizes().get(folded(record.run.dataset), (c, sum(data.test_images)))
        return (
            f"{record.backbone.architecture} {record.backbone.weights}" in self.backbones
            and record.run.shots in self.shots
            and folded(record.run.dataset) in map(folded, self.datasets)
            and size == (c, sum(data.test_images))
            and data.experiences == {"halves": (c - c // 2, c // 2), "all": (c,)}[self.stream]
            and (self.order != "dataset" or data.order == tuple(range(c)))
            and (self.label_space in (None, label_space) or self.stream == "all")
            and self.train_label_space in (None, trained_in)
            and folded(self.train_on or "") == folded(listed.get("train_on") or "")
        )


def cite(table: Table, runs: Runs, key: str, numbers: Numbers, label_space: str) -> Table:
    """The table, below it what its methods' papers published in the same setting, and our difference to that.

    `numbers(facts, line)` reads the row that belongs beside a measured one from card.published[key]: column -> number.
    `label_space`: in which the table's numbers are told. Raises UserError where a card's facts have another form.
    """
    at, added, notes = table.heads.index("method"), [], []
    for line in table.lines:
        method = line.labels[at]
        values, note = _published(table, line, lambda column: runs, key, numbers, label_space)
        notes += [f"{method.shown} (published): {note}"] if note else []
        if np.isnan(values).all():
            continue
        added.append(_row(line, at, f"{method.shown} (published)", values, PUBLISHED))
        ours = np.array([number.mean for number in line.numbers])
        added.append(_row(line, at, f"{method.shown}, ours minus published", ours - values, DIFFERENCE))
    return replace(table, lines=(*table.lines, *added), notes=(*table.notes, *dict.fromkeys(notes)))


def cite_beside(
    table: Table, runs_of: Callable[[str], Runs], key: str, numbers: Numbers, label_space: str
) -> Table:
    """The table with what its methods' papers published in columns of its own, one for each column that has any.

    `runs_of`: the runs behind a column, by its key.
    """
    read = [_published(table, line, runs_of, key, numbers, label_space) for line in table.lines]
    values = np.array([row for row, _ in read])
    having = [c for c in range(len(table.columns)) if not np.isnan(values[:, c]).all()]
    columns = tuple(replace(table.columns[c], key=f"{table.columns[c].key} (published)", better=0) for c in having)
    lines = tuple(
        replace(line, numbers=(*line.numbers, *(Number(float(row[c]), np.nan, 0, 0) for c in having)))
        for line, row in zip(table.lines, values, strict=True)
    )
    notes = dict.fromkeys(f"published: {note}" for _, note in read if note)
    return replace(table, columns=(*table.columns, *columns), lines=lines, notes=(*table.notes, *notes))


def _published(
    table: Table, line: Line, runs_of: Callable[[str], Runs], key: str, numbers: Numbers, label_space: str
) -> tuple[np.ndarray, str]:
    """What the paper of a row's method published in each of the table's columns (NaN: nothing comparable), and where."""
    method = line.labels[table.heads.index("method")].key
    values = np.full(len(table.columns), np.nan)
    if line.origin != MEASURED:
        return values, ""
    at = [runs_of(column.key) for column in table.columns]
    card = next((runs.of(method)[0].card for runs in reversed(at) if method in runs.methods), {})
    try:
        facts = card.get("published", {}).get(key)
        found = {} if facts is None else {folded(n): float(x) for n, x in numbers(facts, line).items()}
        if not found:
            return values, ""
        source, setting = str(facts["source"]), _setting(key, facts)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{method}: published.{key}: not in the form of the shipped cards ({error})") from None
    if setting is None:
        return values, f"published.{key} says no `setting` (see {SETTINGS.name}), so its numbers are not shown"
    for c, (column, runs) in enumerate(zip(table.columns, at, strict=True)):
        if _comparable(setting, runs, method, column.key, label_space):
            values[c] = found.get(folded(column.key), np.nan)
    return values, "" if np.isnan(values).all() else source


def _comparable(setting: Setting, runs: Runs, method: str, column: str, label_space: str) -> bool:
    """Whether a column's number of a method is one of the setting: of a dataset, else a mean over all its datasets."""
    whole = {*map(folded, runs.datasets)} == {*map(folded, setting.datasets)}
    datasets = [column] if column in runs.datasets else runs.datasets if whole else ()
    records = [[*runs.records.get((dataset, method), {}).values()] for dataset in datasets]
    return bool(datasets) and all(each and all(setting.fits(r, label_space) for r in each) for each in records)


def _setting(key: str, facts: Mapping) -> Setting | None:
    """Of a card's entry: its own, else that of its source. Raises ValueError for a field that there is not."""
    if "setting" in facts:
        return _read(facts["setting"])
    beginnings = ((listed["entries"].get(key), listed) for listed in _settings()["settings"])
    found = (listed for begins, listed in beginnings if begins and str(facts["source"]).startswith(begins))
    return next((_read({k: v for k, v in listed.items() if k != "entries"}) for listed in found), None)


def _read(facts: Mapping) -> Setting:
    names = [field.name for field in fields(Setting)]
    if unknown := [name for name in facts if name not in names]:
        raise ValueError(f"setting: no field '{unknown[0]}'{did_you_mean(unknown[0], names)}")
    for name, kind in (("backbones", str), ("datasets", str), ("shots", int | str)):
        if not isinstance(facts.get(name), list) or not all(isinstance(each, kind) for each in facts[name]):
            raise ValueError(f"setting.{name}: expected a list, found '{facts.get(name)}'")
    if facts.get("stream") not in ("halves", "all"):
        raise ValueError(f"setting.stream: expected halves or all, found '{facts.get('stream')}'")
    return Setting(**{name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()})


@cache
def _settings() -> Mapping:
    return yaml_facts.parse(SETTINGS.read_bytes(), SETTINGS.name)


@cache
def _sizes() -> Mapping[str, tuple[int, int]]:
    """Of a dataset by its folded name: classes and test images."""
    return {folded(name): tuple(size) for name, size in _settings()["sizes"].items()}


def _row(line: Line, at: int, name: str, values: Iterable[float], origin: str) -> Line:
    labels = (*line.labels[:at], Label(name, name), *line.labels[at + 1 :])
    return Line(labels, tuple(Number(float(value), np.nan, 0, 0) for value in values), origin=origin)


def folded(dataset: str) -> str:
    """Papers write OxfordPets for oxford_pets."""
    return "".join(c for c in dataset.casefold() if c.isalnum())
