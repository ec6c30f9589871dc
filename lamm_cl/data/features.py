"""A dataset of features: one .npz of what somebody's image tower made of the images.

    train_x (N, D), train_y (N,), test_x, test_y      float16, float32 or float64;  class ids from 0, integers of any size
    val_x, val_y                                      where there is a validation split
    text (C, D), names (C,)                           text features and names of the classes, where there are
    origin                                            a text: what the features are and who made them

FILE.npz:PART is learned from PART_x and PART_y instead of train_x and train_y, say from val.  Without both, the only split
trainK_x (K images a class) is taken.  Other arrays are not read, and nothing is ever unpickled.
"""

import hashlib
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lamm_cl.config.schema import FEATURES
from lamm_cl.data.dataset import TEMPLATE, Dataset, FeatureFile, Split, clean, fingerprint_of, listed, spelled
from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.files import LARGEST_TENSORS, read_regular

UNIT = 1e-3  # how far from 1 the length of a unit feature may be: float16 rounds by half of that
BROKEN = (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, MemoryError, NotImplementedError, RuntimeError)


def parts_of(name: str) -> tuple[str, str] | None:
    """ "FILE.npz" or "FILE.npz:PART" -> the file and the part ("" if none is named); None for any other name."""
    found = re.fullmatch(r"(.*\.npz)(?::([A-Za-z0-9_]+))?", name)
    return found and (found[1], found[2] or "")


def load_features(name: str, path: Path, part: str = "") -> Dataset:
    """The dataset in an .npz.  Raises UserError for what cannot be taken as it is."""
    content = read_regular(path, LARGEST_TENSORS)
    arrays = _arrays(path)
    part = part or _learned_part(path, arrays)
    splits = {"train": _split(path, arrays, part), "test": _split(path, arrays, "test")}
    if part != "val" and "val_x" in arrays:
        splits["val"] = _split(path, arrays, "val")
    D = splits["train"].images.shape[1]
    for key, split in splits.items():
        if split.images.shape[1] != D:
            raise UserError(f"{path}: {key}_x: {split.images.shape[1]} numbers a feature, but {part}_x has {D}")
    names = _names(path, arrays, splits)
    text = _text(path, arrays, len(names), D)
    for key, split in splits.items():
        _check_labels(path, part if key == "train" else key, split.labels, names, all_classes=key != "val")
    doubles = _doubles(names)
    classes = clean(names, where=str(path), twice=doubles)
    facts = FeatureFile(
        file=hashlib.sha256(content).hexdigest(), origin=_origin(path, arrays), learned_from=part,
        dtype=", ".join(sorted({str(split.images.dtype) for split in splits.values()})),
        normalised=all(map(_is_unit, (split.images for split in splits.values()))),
        text=None if text is None else f"{text.dtype}, {'' if _is_unit(text) else 'not '}normalised",
    )  # fmt: skip
    told = (split.images.tobytes() for split in splits.values())
    fingerprint = fingerprint_of(classes, splits.values(), [*told, b"" if text is None else text.tobytes()])
    notes = _notes(path, facts, doubles)
    return Dataset(name, classes, splits["train"], splits["test"], TEMPLATE, fingerprint, notes, val=splits.get("val"),
                   features=facts, text=text)  # fmt: skip


def check_backbone(dataset: Dataset, architecture: str) -> None:
    """Raises UserError for features with a CLIP, and for images without one."""
    if dataset.features and architecture != FEATURES:
        expected = f'{{architecture: {FEATURES}, weights: "ViT-B-32 openai"}} (what made them)'
        raise UserError(f"{dataset.name}: holds {dataset.kind}, which go with backbone: {expected}, not with {architecture!r}")
    if not dataset.features and architecture == FEATURES:
        raise UserError(f"{dataset.name}: holds images; backbone: architecture: {FEATURES!r} goes with an .npz of features")


def _arrays(path: Path) -> Mapping[str, NDArray]:
    """The arrays that are ours; UserError for a file that is no .npz, and for arrays that only pickle can read."""
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: is no .npz; `numpy.savez(path, train_x=..., train_y=..., test_x=..., test_y=...)` writes one")
    arrays, key = {}, ""
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in filter(re.compile(r"[A-Za-z0-9]+_[xy]|text|names|origin").fullmatch, file.files):
                arrays[key] = file[key]
    except BROKEN as error:
        if "pickle" in str(error):
            raise UserError(f"{path}: {key} holds Python objects, which are never unpickled; numbers are saved as "
                            "numbers, names as numpy.array(names, dtype=str)") from None  # fmt: skip
        raise UserError(f"{path}: is damaged, or no .npz of arrays ({' '.join(str(error).split())[:100]})") from None
    if other := [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise UserError(f"{path}: {other[0]} is no array; numpy.savez writes arrays")
    return arrays


def _learned_part(path: Path, arrays: Mapping[str, NDArray]) -> str:
    found = [key.removesuffix("_x") for key in arrays if re.fullmatch(r"train[0-9]*_x", key)]
    if "train" in found:
        return "train"
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{path}: has {listed(found)}; say which is learned from, as {path.name}:{found[0]}")
    raise UserError(f"{path}: no array 'train_x'{_there(arrays, 'train_x')}")


def _there(arrays: Mapping[str, NDArray], key: str) -> str:
    return did_you_mean(key, arrays) or f"; there are {', '.join(sorted(arrays)) or 'none of its kind'}"


def _split(path: Path, arrays: Mapping[str, NDArray], part: str) -> Split:
    for key in (f"{part}_x", f"{part}_y"):
        if key not in arrays:
            raise UserError(f"{path}: no array {key!r}{_there(arrays, key)}")
    x, y = _matrix(path, f"{part}_x", arrays[f"{part}_x"]), arrays[f"{part}_y"]
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise UserError(f"{path}: {part}_y: expected whole numbers (N,), got {y.dtype} {y.shape}")
    if len(x) != len(y):
        raise UserError(f"{path}: {part}_x has {len(x)} rows, {part}_y has {len(y)} labels")
    if len(y) and (y.min() < 0 or y.max() > np.iinfo(np.int32).max):
        row = int(np.argmax((y < 0) | (y > np.iinfo(np.int32).max)))
        raise UserError(f"{path}: {part}_y: label {y[row]} in row {row}; 0, 1, 2, ... are expected")
    return Split(x, y.astype(np.int64))


def _matrix(path: Path, key: str, x: NDArray) -> NDArray:
    if x.dtype.kind != "f" or x.dtype.itemsize not in (2, 4, 8) or x.ndim != 2:
        raise UserError(f"{path}: {key}: expected float16, float32 or float64 of shape (rows, D), got {x.dtype} {x.shape}")
    if not x.size:
        raise UserError(f"{path}: {key}: is empty, {x.shape}")
    with np.errstate(over="ignore"):
        broken = ~np.isfinite(x.astype(np.float32)).all(axis=1)  # what torch will see
    if broken.any():
        raise UserError(f"{path}: {key}: {broken.sum()} of {len(x)} rows hold NaN or infinity, row {broken.argmax()} first")
    return np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("="))


def _names(path: Path, arrays: Mapping[str, NDArray], splits: Mapping[str, Split]) -> list[str]:
    """Of the classes; numbered where the file gives none."""
    if "names" in arrays:
        names = arrays["names"]
        if names.dtype.kind not in "US" or names.ndim != 1:
            raise UserError(f"{path}: names: expected texts (C,), got {names.dtype} {names.shape}")
        return [_as_text(path, "names", name) for name in names.tolist()]
    if "text" in arrays and arrays["text"].ndim == 2:
        return [f"class {label}" for label in range(len(arrays["text"]))]
    C, n = 1 + max(int(split.labels.max()) for split in splits.values()), len(splits["train"])
    if C > n:
        raise UserError(f"{path}: labels go up to {C - 1}, but {n} training features cannot be of {C} classes; 0, 1, 2, ... are "
                        "expected")  # fmt: skip
    return [f"class {label}" for label in range(C)]


def _as_text(path: Path, key: str, text: str | bytes) -> str:
    try:
        return text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError:
        raise UserError(f"{path}: {key}: {text[:30]!r} is no UTF-8") from None


def _text(path: Path, arrays: Mapping[str, NDArray], C: int, D: int) -> NDArray | None:
    if "text" not in arrays:
        return None
    text = _matrix(path, "text", arrays["text"])
    if text.shape != (C, D):
        raise UserError(f"{path}: text: {text.shape} does not fit {C} classes and features of {D} numbers; expected ({C}, {D})")
    return text


def _check_labels(path: Path, part: str, labels: NDArray, names: list[str], all_classes: bool) -> None:
    C = len(names)
    if labels.max() >= C:
        row = int(np.argmax(labels >= C))
        raise UserError(f"{path}: {part}_y: label {labels[row]} in row {row}, but there are {C} classes: expected 0 to {C - 1}")
    empty = [names[label] for label in np.flatnonzero(np.bincount(labels, minlength=C) == 0)]
    if empty and all_classes:
        raise UserError(f"{path}: {part}_x has no features of {listed(empty)}; every class needs some")


def _origin(path: Path, arrays: Mapping[str, NDArray]) -> str:
    """Its text, in one line; "" where the file states none."""
    origin = arrays.get("origin")
    if origin is None:
        return ""
    if origin.dtype.kind not in "US" or origin.size != 1:
        raise UserError(f"{path}: origin: expected one text, got {origin.dtype} {origin.shape}")
    return " ".join(_as_text(path, "origin", origin.item()).split())


def _is_unit(x: NDArray) -> bool:
    return bool((np.abs(np.linalg.norm(x.astype(np.float32), axis=1) - 1) < UNIT).all())


def _doubles(names: list[str]) -> frozenset[str]:
    """Names that stand for more than one class, as WordNet's "crane" does: texts and features tell those apart."""
    shown = [spelled(name) for name in names]
    often = Counter(name.casefold() for name in shown)
    return frozenset(name for name in shown if often[name.casefold()] > 1)


def _notes(path: Path, facts: FeatureFile, doubles: frozenset[str]) -> tuple[str, ...]:
    state = "of unit length" if facts.normalised else "not of unit length"
    origin = facts.origin or "an origin that the file does not state"
    notes = [f"features ({facts.dtype}, {state}) of {origin}; nothing is augmented"]
    if facts.learned_from != "train":
        notes.append(f"learned from {facts.learned_from}_x")
    if facts.text is None:
        notes.append(f"no `text` in {path.name}: methods that read class texts cannot run on it")
    if doubles:
        notes.append(f"names of more than one class: {listed(sorted(doubles))}")
    return tuple(notes)
