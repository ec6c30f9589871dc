"""Folders of class folders, listed once."""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import NamedTuple

from lamm_cl.data.images import EXTENSIONS
from lamm_cl.errors import UserError
from lamm_cl.files import read_regular, write_atomic

WORTH_CACHING = 100_000  # files; fewer are listed anew each time, in under a second

INNER = "images"  # inside a class folder without images of its own
Listing = dict[str, list[tuple[str, int]]]  # class folder -> its images (file name, bytes), all in sorted order


class ClassFolders(NamedTuple):
    folder: Path
    images: Listing
    others: int  # files that are no images by their extension
    nested: int = 0  # folders inside class folders
    beside: int = 0  # images beside the class folders

    @property
    def notes(self) -> list[str]:
        """What lies there and is left out."""
        name = f"{self.folder.name}/"
        left_out = {
            f"{self.others} files in {name} are no images by their extension": self.others,
            f"{self.nested} folders inside class folders of {name} are left out with all that is in them": self.nested,
            f"{self.beside} images beside the class folders of {name} are left out": self.beside,
        }
        return [note for note, number in left_out.items() if number]


def class_folders(folder: Path, cache: Path | None) -> ClassFolders:
    """The class folders below `folder` with their images; hidden files are ignored.

    A class folder without images may have them in images/ inside it.

    Sorted, because the order in which a file system lists its files, which CoOp takes, is no property of a dataset.
    A large listing is kept in `cache`, for as long as no class folder is modified.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; class folders with images are expected there")
    entries = [entry for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if not entry.name.startswith(".")]
    modified = {entry.name: entry.stat().st_mtime_ns for entry in entries if _is_folder(entry)}
    inner = {f"{key}/{INNER}": (folder / key / INNER).stat().st_mtime_ns for key in modified if (folder / key / INNER).is_dir()}
    beside = sum(is_image(entry) and entry.name not in modified for entry in entries)
    if not modified:
        raise UserError(f"{folder}: holds no folders; one folder of images per class is expected")
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
    kept = None if cache is None else cache / "listings" / f"{name}.json"
    if kept is not None and (known := _kept(kept, modified | inner)):
        return ClassFolders(folder, *known, beside)
    images, others, nested = {}, 0, 0
    for name in modified:
        seen = [entry for entry in os.scandir(folder / name) if not entry.name.startswith(".")]
        found = [entry for entry in seen if not _is_folder(entry)]
        pictures, prefix = [entry for entry in found if is_image(entry)], ""
        others += len(found) - len(pictures)
        nested += len(seen) - len(found)
        if not pictures and f"{name}/{INNER}" in inner:
            pictures, prefix, nested = [*filter(is_image, os.scandir(folder / name / INNER))], f"{INNER}/", nested - 1
        images[name] = sorted((f"{prefix}{entry.name}", _size(entry)) for entry in pictures if not entry.name.startswith("."))
    if kept is not None and sum(map(len, images.values())) >= WORTH_CACHING:
        content = {"modified": modified | inner, "images": images, "others": others, "nested": nested}
        write_atomic(kept, json.dumps(content))
    return ClassFolders(folder, images, others, nested, beside)


def is_image(entry: os.DirEntry) -> bool:
    return os.path.splitext(entry.name)[1].lower() in EXTENSIONS


def _kept(path: Path, modified: dict[str, int]) -> tuple[Listing, int, int] | None:
    try:
        known = json.loads(read_regular(path))
    except (OSError, ValueError):
        return None
    if known["modified"] != modified or "nested" not in known:  # versions before it did not count them
        return None
    images = {name: [tuple(image) for image in images] for name, images in known["images"].items()}
    return images, known["others"], known["nested"]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link to itself
        raise UserError(f"{entry.path}: {error.strerror}") from None


def _size(entry: os.DirEntry) -> int:
    try:
        facts = entry.stat()
    except FileNotFoundError:
        raise UserError(f"{entry.path}: a link to a file that does not exist") from None
    if not stat.S_ISREG(facts.st_mode):
        raise UserError(f"{entry.path}: is a pipe or a device; expected an image file")
    return facts.st_size
