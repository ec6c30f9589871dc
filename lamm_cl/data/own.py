"""One's own images: class folders, or a JSON or CSV list of (path, class[, split]).

Class names are the folders' names, or the lines of a classes.txt beside the folders or the list.
"""

import csv
import math
from collections.abc import Iterable
from pathlib import Path

from lamm_cl.data.dataset import Dataset, Entry, ImageFile, assemble, by_label, class_names, listed, measure
from lamm_cl.data.folders import class_folders
from lamm_cl.data.lists import read_json, read_lines, read_split
from lamm_cl.errors import UserError

NO_SPLIT = "no train and test given: of each class, in sorted order, the first 70% of the images are for training"


def load_own(name: str, path: Path, cache: Path) -> Dataset:
    """`path`: a folder of class folders, or of train/ and test/ with class folders; or a .json or .csv list."""
    if path.is_dir():
        return _load_folder(name, path, cache)
    kind = path.suffix.lower()
    if kind not in (".json", ".csv"):
        raise UserError(f"{path}: a folder of class folders, or a .json or .csv list of (path, class) is expected")
    content = read_json(path) if kind == ".json" else _read_csv(path)
    notes = []
    if isinstance(content, dict):
        train, test = read_split(path)
    else:
        train, test, notes = _parts(path, content)
    classes = class_names(train + test, where=str(path))
    measured = [measure(entries, path.parent, where=str(path)) for entries in (train, test)]
    return assemble(name, classes, path.parent, *measured, notes=notes)


def seventy_thirty(classes: Iterable[list]) -> tuple[list, list]:
    """Of each class the first 70%, rounded up, and the rest, which is at least one unless there is but one in all."""
    train, test = [], []
    for items in classes:
        first = min(math.ceil(0.7 * len(items)), max(1, len(items) - 1))
        train += items[:first]
        test += items[first:]
    return train, test


def _load_folder(name: str, folder: Path, cache: Path) -> Dataset:
    split = (folder / "train").is_dir() and (folder / "test").is_dir()
    found = [class_folders(folder / part, cache) for part in (("train/", "test/") if split else ("",))]
    if unlike := sorted(set(found[0].images) ^ set(found[-1].images)):
        raise UserError(f"{folder}: class folders {listed(unlike)} are not in both train/ and test/")
    for part in found:
        if empty := [key for key, files in part.images.items() if not files]:
            raise UserError(
                f"{part.folder}: no images in {listed(empty)}; class folders hold them directly, and lie in {folder} "
                "or in train/ and test/ there"
            )
    keys, classes = _named(folder, list(found[0].images))
    notes = [note for part in found for note in part.notes]
    images = [
        [
            ImageFile(f"{prefix}{key}/{file}", label, size)
            for label, key in enumerate(keys)
            for file, size in part.images[key]
        ]
        for prefix, part in zip(("train/", "test/") if split else ("",), found, strict=True)
    ]
    if not split:
        images = seventy_thirty(by_label(images[0]).values())
        notes.append(NO_SPLIT)
    return assemble(name, classes, folder, *images, notes=notes)


def _named(folder: Path, keys: list[str]) -> tuple[list[str], list[str]]:
    """Class folders in label order, and their names: classes.txt has "folder name" lines, or names in sorted order."""
    file = folder / "classes.txt"
    if not file.exists():
        return keys, keys
    lines = read_lines(file)
    named = {line: line for line in lines if line in keys} or {
        line.split()[0]: line.partition(" ")[2] for line in lines
    }
    if len(lines) != len(keys):
        raise UserError(f"{file}: {len(lines)} lines for {len(keys)} class folders; one line for each is expected")
    return (list(named), list(named.values())) if set(named) == set(keys) else (keys, lines)


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
        train, test = (
            [e for e, row in zip(entries, rows, strict=True) if row[2] == part] for part in ("train", "test")
        )
        return train, test, []
    return *seventy_thirty(by_label(sorted(entries)).values()), [NO_SPLIT]


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
