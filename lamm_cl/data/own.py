"""One's own images: class folders, or a JSON or CSV list of (path, class[, split]).

Class names are the folders' names, or the lines of a classes.txt beside the folders or the list.
"""

import csv
import math
import posixpath
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from lamm_cl.data.dataset import Dataset, Entry, ImageFile, assemble, by_label, class_names, listed, measure
from lamm_cl.data.folders import class_folders
from lamm_cl.data.lists import read_json, read_lines, read_split
from lamm_cl.errors import UserError, did_you_mean

CODE = re.compile(r"n[0-9]{8}|[0-9]+")  # a WordNet id, as ImageNet's folders are called, or a bare number
NO_SPLIT = "no train and test given: of each class, in sorted order, the first 70% of the images are for training"


def load_own(name: str, path: Path, cache: Path) -> Dataset:
    """`path`: a folder of class folders, or of train/ and test/ with class folders; or a .json or .csv list."""
    if path.is_dir():
        return _load_folder(name, path, cache)
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
    notes += _questioned(classes)
    return assemble(name, classes, path.parent, *measured, notes=notes, cache=cache)


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
    notes = [*(note for part in found for note in part.notes), *_questioned(classes)]
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
    return assemble(name, classes, folder, *images, notes=notes, cache=cache)


def _named(folder: Path, keys: list[str]) -> tuple[list[str], list[str]]:
    """Class folders in label order, and their names: classes.txt has "folder name" lines, or names in sorted order.

    One line that begins with a folder's name makes all of them "folder name" lines: with a slip of the pen in one of them
    they must not be taken for names.
    """
    file = folder / "classes.txt"
    if not file.exists():
        return keys, keys
    lines = read_lines(file)
    if len(lines) != len(keys):
        raise UserError(f"{file}: {len(lines)} lines for {len(keys)} class folders; one line for each is expected")
    known = set(keys)
    begins = [_folder_of(line, known) for line in lines]
    if not any(begins):
        return keys, lines
    if None in begins:
        line = lines[begins.index(None)]
        other = next(line for line, key in zip(lines, begins, strict=True) if key)
        near = did_you_mean(line.split()[0], known - set(begins))
        raise UserError(
            f"{file}: {line!r} begins with no class folder's name, as {other!r} does{near}; write FOLDER NAME in every line"
        )
    if unnamed := sorted(known - set(begins)):
        raise UserError(f"{file}: no line for the class folder {listed(unnamed)}, and two for another")
    return begins, [line.removeprefix(key).strip() or key for line, key in zip(lines, begins, strict=True)]


def _questioned(classes: Iterable[str]) -> list[str]:
    """A note where class names are none that a text tower has read about."""
    codes = [name for name in classes if CODE.fullmatch(name)]
    if not codes:
        return []
    return [f"{listed(codes)}: {len(codes)} class names are numbers or WordNet ids, and prompts say them; is that meant? "
            "a classes.txt gives names"]  # fmt: skip


def _folder_of(line: str, keys: Collection[str]) -> str | None:
    """The class folder whose name a line begins with: the longest, since folders' names may have spaces."""
    ends = [len(line), *(at for at in range(len(line) - 1, 0, -1) if line[at].isspace())]
    return next((line[:end] for end in ends if line[:end] in keys), None)


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
