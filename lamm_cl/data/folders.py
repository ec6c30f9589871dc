"""Folders of class folders, listed once."""

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from lamm_cl.data.images import EXTENSIONS
from lamm_cl.errors import UserError
from lamm_cl.files import write_atomic

WORTH_CACHING = 100_000  # files; fewer are listed anew each time, in under a second

Listing = dict[str, list[tuple[str, int]]]  # class folder -> its images (file name, bytes), all in sorted order


class ClassFolders(NamedTuple):
    folder: Path
    images: Listing
    others: int  # files that are no images by their extension

    @property
    def notes(self) -> list[str]:
        return [f"{self.others} files in {self.folder.name}/ are no images by their extension"] if self.others else []


def class_folders(folder: Path, cache: Path | None) -> ClassFolders:
    """The class folders below `folder` with their images; hidden files and files beside the class folders are ignored.

    Sorted, because the order in which a file system lists its files, which CoOp takes, is no property of a dataset.
    A large listing is kept in `cache`, for as long as no class folder is modified. (A file overwritten in place does
    not modify its folder: its old size then stays in the fingerprint.)
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; class folders with images are expected there")
    modified = {
        entry.name: entry.stat().st_mtime_ns
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
        if not entry.name.startswith(".") and entry.is_dir()
    }
    if not modified:
        raise UserError(f"{folder}: holds no folders; one folder of images per class is expected")
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
    kept = None if cache is None else cache / "listings" / f"{name}.json"
    if kept is not None and (known := _kept(kept, modified)):
        return ClassFolders(folder, *known)
    images, others = {}, 0
    for name in modified:
        found = [entry for entry in os.scandir(folder / name) if not entry.name.startswith(".") and not entry.is_dir()]
        pictures = [entry for entry in found if os.path.splitext(entry.name)[1].lower() in EXTENSIONS]
        images[name] = sorted((entry.name, _size(entry)) for entry in pictures)
        others += len(found) - len(pictures)
    if kept is not None and sum(map(len, images.values())) >= WORTH_CACHING:
        write_atomic(kept, json.dumps({"modified": modified, "images": images, "others": others}))
    return ClassFolders(folder, images, others)


def _kept(path: Path, modified: dict[str, int]) -> tuple[Listing, int] | None:
    try:
        known = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if known["modified"] != modified:
        return None
    return {name: [tuple(image) for image in images] for name, images in known["images"].items()}, known["others"]


def _size(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        raise UserError(f"{entry.path}: a link to a file that does not exist") from None
