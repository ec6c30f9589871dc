"""One's own folder of images, as people have it.

    CLASS/*.png                                    of each class the first 70% are for training
    train/CLASS/*.png, test/CLASS/*.png            or val/, valid/, validation/ where there is no test/ with these classes
    train/CLASS/*.png, val/val_annotations.txt     lines of (image, class, ...), as Tiny-ImageNet: images in val/images/ or val/

A class folder holds its images directly, or in images/ inside it. Class names are the folders' names, or the lines of a
classes.txt beside them; of WordNet ids (n01443537) those of a words.txt there, in the order of a wnids.txt.
"""

import math
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from lamm_cl.data.dataset import Dataset, Entry, ImageFile, assemble, by_label, listed, measure
from lamm_cl.data.folders import ClassFolders, class_folders, is_image
from lamm_cl.data.lists import read_lines
from lamm_cl.errors import UserError, did_you_mean

CODE = re.compile(r"n[0-9]{8}|[0-9]+")  # a WordNet id, as ImageNet's folders are called, or a bare number
WORDNET = re.compile(r"n[0-9]{8}")
NO_SPLIT = "no train and test given: of each class, in sorted order, the first 70% of the images are for training"
TESTS = ("test", "val", "valid", "validation")  # the first that can be read is the test set
TABLES = ("words.txt", "LOC_synset_mapping.txt", "classnames.txt")  # "n01443537 goldfish, Carassius auratus"
READ = (
    "read are class folders, or train/ with class folders and test/, val/, valid/ or validation/ with the same ones, or "
    "val/val_annotations.txt; class folders hold their images directly or in images/"
)
MOST_NAMED = 6  # of what lies in a folder


class Part(NamedTuple):
    """Images of one side of the split, by class folder."""

    images: dict[str, list[ImageFile]]
    notes: list[str]


def seventy_thirty(classes: Iterable[list]) -> tuple[list, list]:
    """Of each class the first 70%, rounded up, and the rest, which is at least one unless there is but one in all."""
    train, test = [], []
    for items in classes:
        first = min(math.ceil(0.7 * len(items)), max(1, len(items) - 1))
        train += items[:first]
        test += items[first:]
    return train, test


def load_tree(name: str, folder: Path, cache: Path) -> Dataset:
    """UserError says what lies there, and what would be read."""
    train = folder / "train"
    parts, notes = _divided(folder, cache) if train.is_dir() and not _pictures(train) else ([_part(folder, "", cache)], [])
    if unlike := sorted(set(parts[0].images) ^ set(parts[-1].images)):
        raise UserError(f"{folder}: class folders {listed(unlike)} are not in both parts; {_found(folder)}; {READ}")
    for part in parts:
        if empty := [key for key, files in part.images.items() if not files]:
            raise UserError(f"{folder}: no images in {listed(empty)}; {_found(folder)}; {READ}")
    keys, classes, told = named(folder, list(parts[0].images))
    notes += [*(note for part in parts for note in part.notes), *told, *questioned(classes)]
    images = [
        [image._replace(label=label) for label, key in enumerate(keys) for image in part.images[key]] for part in parts
    ]
    if len(parts) == 1:
        images = list(seventy_thirty(by_label(images[0]).values()))
        notes.append(NO_SPLIT)
    return assemble(name, classes, folder, *images, notes=notes, cache=cache)


def _divided(folder: Path, cache: Path) -> tuple[list[Part], list[str]]:
    """train/ and what is the test set, and a note where that is not test/ or another stays unread."""
    train = _part(folder, "train/", cache)
    here = [part for part in TESTS if (folder / part).is_dir()]
    usable = [part for part in here if _annotations(folder, part) or _folders(folder / part) & set(train.images)]
    if not usable:
        missing = "test/ or val/ is missing" if not here else f"no class folders as in train/ in {listed(here)}"
        raise UserError(f"{folder}: 'train' alone is no dataset, {missing}; {_found(folder)}; {READ}")
    chosen = usable[0]
    notes = [] if chosen == "test" else [f"{chosen}/ is the test set" + ("; test/ says no classes" if "test" in here else "")]
    notes += [f"{other}/ is left out" for other in usable[1:]]
    file = _annotations(folder, chosen)
    test = _annotated(folder, chosen, file, train.images) if file else _part(folder, f"{chosen}/", cache)
    return [train, test], notes


def _annotations(folder: Path, part: str) -> Path | None:
    file = folder / part / f"{part}_annotations.txt"
    return file if file.is_file() else None


def _annotated(folder: Path, part: str, file: Path, classes: Collection[str]) -> Part:
    """A list of (image, class, ...) beside the images, or beside an images/ with them."""
    rows = [line.split() for line in read_lines(file)]
    if wrong := next((row for row in rows if len(row) < 2 or row[1] not in classes), None):
        near = did_you_mean(wrong[1], classes) if len(wrong) > 1 else ""
        raise UserError(f"{file}: {' '.join(wrong)[:60]!r} is not (image, class of train/, ...){near}")
    inside = "images/" if (folder / part / "images").is_dir() else ""
    keys = sorted(classes)
    at = {key: i for i, key in enumerate(keys)}
    entries = sorted({Entry(f"{part}/{inside}{row[0]}", at[row[1]], row[1]) for row in rows}, key=lambda e: (e.label, e.path))
    if twice := len(entries) - len({entry.path for entry in entries}):
        raise UserError(f"{file}: {twice} images have two classes; an image has one")
    images: dict[str, list[ImageFile]] = {key: [] for key in keys}
    for image in measure(entries, folder, where=str(file)):
        images[keys[image.label]].append(image)
    return Part(images, [])


def _part(folder: Path, prefix: str, cache: Path) -> Part:
    try:
        found: ClassFolders = class_folders(folder / prefix, cache)
    except UserError as error:
        raise UserError(f"{error}; {_found(folder)}; {READ}") from None
    images = {key: [ImageFile(f"{prefix}{key}/{file}", 0, size) for file, size in files] for key, files in found.images.items()}
    return Part(images, found.notes)


def _found(folder: Path) -> str:
    """What lies in a folder, in one line."""
    names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    told = []
    for name in names[:MOST_NAMED]:
        path = folder / name
        if not path.is_dir():
            told.append(name)
            continue
        inside = len(_folders(path))
        counts = [f"{inside} folder{'s' * (inside != 1)}"] * bool(inside) + ["images"] * _pictures(path)
        told.append(f"{name}/ ({' and '.join(counts) or 'no images'})")
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"found {', '.join(told) or 'nothing'}{more}"


def _folders(folder: Path) -> set[str]:
    return {entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")}


def _pictures(folder: Path) -> bool:
    return any(is_image(entry) for entry in os.scandir(folder) if not entry.name.startswith("."))


def named(folder: Path, keys: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Class folders in label order, their names, and notes on where those are from."""
    if (folder / "classes.txt").exists() or not all(map(WORDNET.fullmatch, keys)):
        return *_named(folder, keys), []
    if (order := folder / "wnids.txt").is_file() and sorted(listed_ids := read_lines(order)) == sorted(keys):
        keys = listed_ids
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if table is None:
        return keys, keys, []
    return keys, _words(table, keys), [f"class names are those that {table.name} has for the folders' WordNet ids"]


def _words(table: Path, keys: list[str]) -> list[str]:
    """Of each id the first of its words that no other has; an id that the table has not stays."""
    wanted, words = set(keys), {}
    for line in read_lines(table):
        key, *rest = line.split(maxsplit=1)
        if key in wanted and rest:
            words[key] = [word.strip() for word in rest[0].split(",") if word.strip()]
    if absent := sorted(wanted - set(words)):
        raise UserError(f"{table}: no line for {listed(absent)}; one of 'n01443537 goldfish' for each class folder is expected")
    count: dict[str, int] = {}
    for key in keys:
        for word in {each.casefold() for each in words[key]}:
            count[word] = count.get(word, 0) + 1
    return [next((word for word in words[key] if count[word.casefold()] == 1), words[key][0]) for key in keys]


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


def questioned(classes: Iterable[str]) -> list[str]:
    """A note where class names are none that a text tower has read about."""
    codes = [name for name in classes if CODE.fullmatch(name)]
    if not codes:
        return []
    return [f"{listed(codes)}: {len(codes)} class names are numbers or WordNet ids, and prompts say them; is that meant? "
            "a classes.txt beside the folders gives names, a line FOLDER NAME for each, or a words.txt those of WordNet ids"
            ]  # fmt: skip


def _folder_of(line: str, keys: Collection[str]) -> str | None:
    """The class folder whose name a line begins with: the longest, since folders' names may have spaces."""
    ends = [len(line), *(at for at in range(len(line) - 1, 0, -1) if line[at].isspace())]
    return next((line[:end] for end in ends if line[:end] in keys), None)
