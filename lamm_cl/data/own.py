"""One's own images: class folders (data/trees.py), or a JSON or CSV list of (path, class[, split]).

Class names are those of the list, or the lines of a classes.txt beside it.
"""

import csv
import posixpath
from collections.abc import Iterable
from pathlib import Path

from lamm_cl.data.dataset import Dataset, Entry, assemble, by_label, class_names, listed, measure
from lamm_cl.data.lists import read_json, read_lines, read_split
from lamm_cl.data.trees import NO_SPLIT, load_tree, questioned, seventy_thirty
from lamm_cl.errors import UserError


def load_own(name: str, path: Path, cache: Path) -> Dataset:
    """`path`: a folder of class folders, or of train/ and test/ or val/ with class folders; or a .json or .csv list."""
    if path.is_dir():
        return load_tree(name, path, cache)
    kind = path.suffix.lower()
    if kind not in (".json", ".csv"):
        raise UserError(f"{path}: a folder of class folders, or a .json or .csv list of (path, class) is expected")
    content = read_json(path) if kind == ".json" else _read_csv(path)
    if isinstance(content, dict):
        (train, test), notes = _once(path, read_split(path))
    else:
        train, test, notes = _parts(path, content)
    classes = class_names(train + test, where=str(path))
    measured = [measure(entries, path.parent, where=str(path)) for entries in (train, test)]
    notes += questioned(classes)
    return assemble(name, classes, path.parent, *measured, notes=notes, cache=cache)


def _once(path: Path, parts: Iterable[list[Entry]]) -> tuple[list[list[Entry]], list[str]]:
    """The parts of a list, each image once in a part, with a note. UserError for an image under two classes."""
    first: dict[str, Entry] = {}
    kept, twice = [], 0
    for part in parts:
        once: dict[str, Entry] = {}
        for entry in part:
            place = posixpath.normpath(entry.path)
            other = first.setdefault(place, entry)
            if other.label != entry.label:
                raise UserError(
                    f"{path}: {entry.path!r} is listed under {other.name!r} and {entry.name!r}; an image has one class"
                )
            once.setdefault(place, entry)
        kept.append(list(once.values()))
        twice += len(part) - len(once)
    return kept, [f"{twice} lines of {path.name} name an image again; each is counted once"] if twice else []


def _read_csv(path: Path) -> list[list[str]]:
    try:
        return list(csv.reader(read_lines(path)))
    except csv.Error as failure:
        raise UserError(f"{path}: not CSV ({failure})") from None


def _parts(path: Path, rows: object) -> tuple[list[Entry], list[Entry], list[str]]:
    """Train, test and notes of a list of rows."""
    if not isinstance(rows, list):
        raise UserError(f"{path}: a list of [path, class] or [path, class, split] is expected")
    if path.suffix.lower() == ".csv" and rows and "path" in rows[0]:  # a header
        rows = [dict(zip(rows[0], row, strict=False)) for row in rows[1:]]
    keys = ("path", "class", "split")
    rows = [[row[key] for key in keys if key in row] if isinstance(row, dict) else row for row in rows]
    if not rows:
        raise UserError(f"{path}: lists no image")
    for number, row in enumerate(rows, start=1):
        match row:
            case [str(), str() | int()] | [str(), str() | int(), "train" | "test" | "val"]:
                pass
            case _:
                raise UserError(
                    f"{path}: item {number}, {str(row)[:100]}, is not (path, class[, train or val or test])"
                )
    if len({len(row) for row in rows}) > 1:
        raise UserError(f"{path}: some items name a split and some do not; all or none should")
    label, names = _labels(path, {row[1] for row in rows})
    entries = [Entry(row[0], label[row[1]], names[label[row[1]]]) for row in rows]
    if len(rows[0]) == 3:
        parts = [[e for e, row in zip(entries, rows, strict=True) if row[2] == part] for part in ("train", "test", "val")]
        (train, test, _), notes = _once(path, parts)
        return train, test, notes
    (entries,), notes = _once(path, [entries])
    return *seventy_thirty(by_label(sorted(entries)).values()), [*notes, NO_SPLIT]


def _labels(path: Path, written: set[str | int]) -> tuple[dict[str | int, int], list[str]]:
    """{class as written: class id} and the names: sorted, or those of classes.txt, whose lines numbers count from 0."""
    file = path.parent / "classes.txt"
    numbers = [word for word in written if str(word).isdecimal()]
    if not file.exists():
        if numbers:
            raise UserError(f"{path}: class {numbers[0]!r} is a number; put the class names into classes.txt beside it")
        names = sorted(written)
        return {name: i for i, name in enumerate(names)}, names
    names = read_lines(file)
    label = {word: int(word) for word in numbers} | {name: i for i, name in enumerate(names)}
    if wrong := sorted((word for word in written if not 0 <= label.get(word, -1) < len(names)), key=str):
        raise UserError(f"{path}: {listed(wrong)} not among the {len(names)} classes of {file}")
    return label, names
