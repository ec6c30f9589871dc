"""What a dataset is, and the one place where lists of images become one: every layout passes through `assemble`."""

import hashlib
import os
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar
from unicodedata import category, normalize

import numpy as np
from numpy.typing import NDArray

from lamm_cl.data import hashes
from lamm_cl.errors import UserError

BYTES = "bytes:"  # how the fingerprint of image files begins; those of earlier versions were over names and sizes
TEMPLATE = "a photo of a {}."


class Files(Sequence[Path]):
    """Image files below one folder, kept as text: a million Path objects would take a gigabyte."""

    def __init__(self, folder: Path, names: Sequence[str]):
        self.folder, self.names = folder, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Files(self.folder, self.names[index])
        return self.folder / self.names[index]


class Joined(Sequence):
    """Images of several datasets, one after another."""

    def __init__(self, parts: Iterable[Sequence]):
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in self.parts]).tolist()

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = bisect_right(self.ends, index)
        return self.parts[at][index - (self.ends[at - 1] if at else 0)]


def joined(images: Sequence[Sequence]) -> Sequence | NDArray:
    """One array where all are arrays of one size."""
    arrays = [each for each in images if isinstance(each, np.ndarray)]
    same = len(arrays) == len(images) and len({each.shape[1:] for each in arrays}) == 1
    return np.concatenate(arrays) if same else Joined(images)


def in_memory(images: Sequence) -> bool:
    return isinstance(images, np.ndarray) or (isinstance(images, Joined) and all(map(in_memory, images.parts)))


@dataclass(frozen=True)
class Split:
    """`images`: paths, or uint8 arrays (H, W, 3), or features (N, D); `labels`: int64 (N,), the class ids 0..n-1."""

    images: Sequence[Path] | NDArray[np.uint8] | NDArray[np.floating]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class FeatureFile:
    """What an .npz of features says of itself.  file: its sha256;  dtype, normalised: of the features, as stored."""

    file: str
    origin: str  # "" where it states none
    learned_from: str  # the split
    dtype: str
    normalised: bool
    text: str | None  # type and length of the texts' features; None where there are none


@dataclass(frozen=True)
class Dataset:
    """Class names in label order, as shown to people; `train` is empty for datasets that only test.

    `identity` is the fingerprint, or how to find it: of files every byte is read, so not before it is asked for;
    `notes` say what a reader of the results should know, for instance that there was no published split;
    `train_identity` is that of the dataset that the training images are from, if it is another;
    `names_and_sizes` is what the fingerprint of image files was in earlier versions: it only recognises their records.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    template: str
    identity: str | Callable[[], str]
    notes: tuple[str, ...] = ()
    train_identity: str | Callable[[], str] = ""
    names_and_sizes: str = ""
    val: Split | None = None  # for choosing among settings; None: the publisher gives none
    features: FeatureFile | None = None  # of a dataset of features, whose splits hold them in place of images
    text: NDArray[np.floating] | None = None  # (C, D) features of the classes' texts, where the file has them
    chain: tuple["Dataset", ...] = ()  # the datasets that it is a chain of; their classes and images are here one after another
    split: str = ""  # the name of the list that decided train and test; "": the dataset's own
    templates: tuple[str, ...] = ()  # those of the scenario, the first one for training; (): the dataset's, or its parts'

    @property
    def parts(self) -> tuple["Dataset", ...]:
        """The datasets of a chain, or itself."""
        return self.chain or (self,)

    @property
    def kind(self) -> str:
        """What its samples are: images, or features of so many numbers."""
        return f"features of {self.test.images.shape[1]} numbers" if self.features else "images"

    @property
    def spoken(self) -> tuple[str, ...]:
        """The templates that prompts are made of, the first one for training."""
        return self.templates or (self.template,)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over class names, labels and the content of the images: neither their names nor their place."""
        return self.identity if isinstance(self.identity, str) else self.identity()

    @cached_property
    def train_fingerprint(self) -> str:
        """Of the dataset that the training images are from."""
        told = self.train_identity
        return (told if isinstance(told, str) else told()) or self.fingerprint

    def recognises(self, fingerprint: str) -> bool:
        """Whether a record's fingerprint is this dataset's, as far as its version could tell."""
        return fingerprint == (self.fingerprint if fingerprint.startswith(BYTES) else self.names_and_sizes or self.fingerprint)


class ImageFile(NamedTuple):
    """One image file of a listing: its path below the dataset's folder, its class id, its size in bytes."""

    path: str
    label: int
    size: int


class Entry(NamedTuple):
    """One line of a list that somebody else wrote, to be trusted in nothing yet."""

    path: str
    label: int
    name: str


Item = TypeVar("Item", ImageFile, Entry)


def assemble(
    name: str,
    classes: Sequence[str],
    folder: Path,
    train: Sequence[ImageFile],
    test: Sequence[ImageFile],
    *,
    template: str = TEMPLATE,
    notes: Iterable[str] = (),
    twice: frozenset[str] = frozenset(),
    cache: Path | None = None,
) -> Dataset:
    """A Dataset of files below `folder`. UserError for class names that become one, or a class without images.

    `cache` remembers what the files hold; `twice` are the class names that the publisher himself gave to two classes.
    """
    shown = clean(classes, where=f"{name} ({folder})", twice=twice)
    notes = list(notes)
    for split, images in (("train", train), ("test", test)):
        empty = [shown[label] for label in sorted(set(range(len(shown))) - {image.label for image in images})]
        if empty and (images or split == "test"):
            raise UserError(f"{name} ({folder}): no {split} images of {listed(empty)}; every class needs some")
    shared = {image.path for image in train} & {image.path for image in test}
    if shared:
        notes.append(f"{len(shared)} images are in train and in test, {min(shared)} among them")
    splits = [
        Split(Files(folder, [image.path for image in images]), np.array([image.label for image in images], np.int64))
        for images in (train, test)
    ]
    identities = "".join(f"{image.path}\0{image.size}\n" for images in (train, test) for image in images)
    names_and_sizes = fingerprint_of(shown, splits, [os.fsencode(identities)])

    def identity() -> str:
        digests = hashes.of_files(folder, [*splits[0].images.names, *splits[1].images.names], cache, name)
        return BYTES + fingerprint_of(shown, splits, [digests.tobytes()])

    return Dataset(name, shown, *splits, template, identity, tuple(notes), names_and_sizes=names_and_sizes)


def check_learnable(dataset: Dataset, where: str) -> None:
    """Raises UserError for a dataset without training images."""
    if not len(dataset.train):
        others = "learn its classes from another dataset, with train_on in the scenario, as in lamm-table1"
        raise UserError(f"{where}: has test images only; {others}")


def learned_from(dataset: Dataset, source: Dataset) -> Dataset:
    """The test images of one dataset with the training images that another has of its classes, found by their names."""
    if source.name == dataset.name:
        return dataset
    if missing := [name for name in dataset.classes if name not in set(source.classes)]:
        raise UserError(f"{dataset.name} cannot be learned from {source.name}, which has no class {listed(missing)}")
    if not len(source.train):
        raise UserError(f"{dataset.name} cannot be learned from {source.name}, which has no training images either")
    if dataset.kind != source.kind:
        raise UserError(f"{dataset.name} ({dataset.kind}) cannot be learned from {source.name} ({source.kind})")
    note = f"learned from the training images of {source.name}"

    def identity() -> str:
        both = (dataset.fingerprint, source.fingerprint)
        return (BYTES if any(each.startswith(BYTES) for each in both) else "") + _joined(*both)

    train, origin = source.train, lambda: source.fingerprint
    if dataset.classes != source.classes:
        label_of = {name: label for label, name in enumerate(dataset.classes)}
        labels = np.array([label_of.get(name, -1) for name in source.classes], np.int64)[source.train.labels]
        mine = np.flatnonzero(labels >= 0)
        images = source.train.images
        some = Files(images.folder, [images.names[i] for i in mine]) if isinstance(images, Files) else images[mine]
        train, origin = Split(some, labels[mine]), identity
    old = ""
    if dataset.names_and_sizes or source.names_and_sizes:
        old = _joined(*(each.names_and_sizes or each.fingerprint for each in (dataset, source)))
    notes = (*dataset.notes, note, *source.notes)
    return replace(dataset, train=train, identity=identity, train_identity=origin, names_and_sizes=old, notes=notes)


def _joined(one: str, other: str) -> str:
    return hashlib.sha256(f"{one} {other}".encode()).hexdigest()


def fingerprint_of(classes: Sequence[str], splits: Iterable[Split], images: Iterable[bytes]) -> str:
    digest = hashlib.sha256("\0".join(classes).encode())
    for split in splits:
        digest.update(b"\0labels\0" + split.labels.astype("<i8").tobytes())
    for content in images:
        digest.update(content)
    return digest.hexdigest()


def clean(classes: Sequence[str], *, where: str, twice: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Names as people see them, underscores as spaces. UserError for a name that is no text, or two that become one."""
    shown = tuple(map(spelled, classes))
    first: dict[str, int] = {}
    for label, name in enumerate(shown):
        if not name or any(category(letter) in ("Cc", "Cs") for letter in name):  # control, half a surrogate pair
            raise UserError(f"{where}: class {label} is called {classes[label]!r}; printable text is expected")
        other = first.setdefault(name.casefold(), label)
        if other != label and name not in twice:
            raise UserError(
                f"{where}: classes {other} {classes[other]!r} and {label} {classes[label]!r} have the same name "
                "(underscores are spaces, case does not count); rename one"
            )
    if len(shown) < 2:
        raise UserError(f"{where}: {len(shown)} class; at least two are needed")
    return shown


def spelled(name: str) -> str:
    """A class name as people see it: underscores are spaces."""
    return " ".join(normalize("NFC", name).replace("_", " ").split())


def class_names(entries: Iterable[Entry], *, where: str) -> list[str]:
    """The names of the labels 0..n-1. UserError for a label gap, or a label with two names."""
    names: dict[int, str] = {}
    for entry in entries:
        if names.setdefault(entry.label, entry.name) != entry.name:
            raise UserError(
                f"{where}: label {entry.label} is called {names[entry.label]!r} and {entry.name!r} ({entry.path}); "
                "one label has one name"
            )
    gap = next((label for label in range(len(names)) if label not in names), None)
    if gap is not None:
        raise UserError(
            f"{where}: no image has label {gap}, though labels go up to {max(names)}; 0, 1, 2, ... are expected"
        )
    return [names[label] for label in range(len(names))]


def measure(entries: Sequence[Entry], folder: Path, *, within: Iterable[Path] = (), where: str) -> list[ImageFile]:
    """The listed files, with their sizes. UserError names what is absent, and what lies outside the dataset.

    Paths are relative to `folder` and stay below it, or below one of `within`: absolute ones, "..", and links that lead
    away are refused, because a downloaded list must not choose among the reader's files.
    """
    allowed = [os.path.realpath(base) for base in (folder, *within)]
    inside: dict[str, bool] = {}  # by parent folder, since resolving each of 100,000 paths takes seconds
    images, absent = [], []
    for entry in entries:
        parts = PurePosixPath(entry.path).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in entry.path or "\0" in entry.path:
            raise UserError(f"{where}: {entry.path!r} leaves the data folder; write paths relative to {folder}")
        path = os.path.join(folder, entry.path)
        try:
            linked = stat.S_ISLNK(os.lstat(path).st_mode)
            info = os.stat(path)
        except (OSError, ValueError):  # not there, or no path that could be
            info = None
        if info is None or not stat.S_ISREG(info.st_mode):
            absent.append(entry.path)
            continue
        home = path if linked else os.path.dirname(path)
        if home not in inside:
            real = os.path.realpath(home)
            inside[home] = any(real == base or real.startswith(base + os.sep) for base in allowed)
        if not inside[home]:
            raise UserError(f"{where}: {entry.path!r} is a link that leaves the data folder {folder}")
        images.append(ImageFile(entry.path, entry.label, info.st_size))
    if absent:
        raise UserError(
            f"{where}: {len(absent)} of {len(entries)} listed images are absent below {folder}: {listed(absent)}; "
            "unpack the images there, or use the split file made for them"
        )
    return images


def by_label(items: Iterable[Item]) -> dict[int, list[Item]]:
    """The images or entries of each label, labels in the order in which they first appear."""
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    return groups


def listed(items: Sequence[object]) -> str:
    """The first three items, and how many more there are."""
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return ", ".join(repr(item) for item in items[:3]) + more
