"""A chain of datasets as one: their classes and images one after another, and what is each one's own kept beside."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lamm_cl.data.dataset import BYTES, Dataset, FeatureFile, Split, joined, listed
from lamm_cl.data.own import seventy_thirty
from lamm_cl.errors import UserError

LEARNED_FROM_TEST = "has test images only: of each class the first 70 % are for training"


def chained(name: str, members: Sequence[Dataset]) -> Dataset:
    """The dataset of a chain; class ids go on from one to the next.  Classes of one name in two datasets stay two classes.

    Of a dataset with test images only, 70 % of each class are for training.  UserError for images and features in one chain.
    """
    if twice := [one for one, often in Counter(member.name for member in members).items() if often > 1]:
        raise UserError(f"{name}: {twice[0]!r} is in the chain twice; expected datasets that differ")
    if len(kinds := {member.kind for member in members}) > 1:
        raise UserError(f"{name}: {' and '.join(sorted(kinds))} in one chain; expected one of the two")
    parts = tuple(member if len(member.train) else _with_training_images(member) for member in members)
    classes = tuple(each for part in parts for each in part.classes)
    starts = np.cumsum([0, *(len(part.classes) for part in parts)])[:-1]

    def split(each: Sequence[Split]) -> Split:
        labels = np.concatenate([one.labels + start for one, start in zip(each, starts, strict=True)])
        return Split(joined([one.images for one in each]), labels)

    def identity() -> str:
        told = [part.fingerprint for part in parts]
        return BYTES * any(one.startswith(BYTES) for one in told) + hashlib.sha256(f"chain {' '.join(told)}".encode()).hexdigest()

    val = [part.val for part in parts if part.val is not None]
    texts = [part.text for part in parts if part.text is not None]
    templates = {part.template for part in parts}
    notes = (*(f"{part.name}: {note}" for part in parts for note in part.notes), *shared_names(parts))
    return Dataset(
        name, classes, split([part.train for part in parts]), split([part.test for part in parts]),
        templates.pop() if len(templates) == 1 else "", identity, notes,
        val=split(val) if len(val) == len(parts) else None,
        features=_facts([part.features for part in parts if part.features is not None]),
        text=np.concatenate(texts) if len(texts) == len(parts) else None,
        chain=parts,
    )  # fmt: skip


def shared_names(parts: Sequence[Dataset]) -> list[str]:
    """A note on names that classes of several datasets have; [] where there are none."""
    where: dict[str, list[str]] = {}
    for part in parts:
        for name in dict.fromkeys(each.casefold() for each in part.classes):
            where.setdefault(name, []).append(part.name)
    shared = {name: those for name, those in where.items() if len(those) > 1}
    if not shared:
        return []
    name, those = next(iter(shared.items()))
    return [f"{len(shared)} class names are in several of the datasets, {name!r} in {' and '.join(those)}"]


def same_classes(order: Sequence[int], dataset: Dataset) -> tuple[int, ...]:
    """For each class by arrival a number, the same for classes of one name in different datasets of a chain.

    The second class of a name within a dataset (ImageNet has two missiles) meets the second of the others.
    """
    keys = []
    for part in dataset.chain or (dataset,):
        seen: Counter[str] = Counter()
        for name in part.classes:
            keys.append((name.casefold(), seen[name.casefold()]))
            seen[name.casefold()] += 1
    numbers: dict[tuple[str, int], int] = {}
    return tuple(numbers.setdefault(keys[c], len(numbers)) for c in order)


def _with_training_images(member: Dataset) -> Dataset:
    """Of each class the first 70 % of its test images to learn from, in their order, and the rest to test."""
    by_class = [np.flatnonzero(member.test.labels == c).tolist() for c in range(len(member.classes))]
    if few := [member.classes[c] for c, mine in enumerate(by_class) if len(mine) < 2]:
        raise UserError(f"{member.name}: has test images only, and one alone of {listed(few)}; a chain learns from 70 % of them")
    train, test = (np.sort(np.array(ids, np.int64)) for ids in seventy_thirty(by_class))
    images = member.test.images

    def some(ids: np.ndarray) -> Split:
        chosen = images[ids] if isinstance(images, np.ndarray) else type(images)(images.folder, [images.names[i] for i in ids])
        return Split(chosen, member.test.labels[ids])

    return replace(member, train=some(train), test=some(test), notes=(*member.notes, LEARNED_FROM_TEST))


def _facts(files: Sequence[FeatureFile]) -> FeatureFile | None:
    """What the files of a chain of features say, together."""
    if not files:
        return None

    def told(each: Sequence[str]) -> str:
        return "; ".join(dict.fromkeys(filter(None, each)))

    whole = hashlib.sha256(" ".join(one.file for one in files).encode()).hexdigest()
    texts = [one.text for one in files if one.text is not None]
    return FeatureFile(whole, told([one.origin for one in files]), told([one.learned_from for one in files]),
                       told([one.dtype for one in files]), all(one.normalised for one in files),
                       told(texts) if len(texts) == len(files) else None)  # fmt: skip
