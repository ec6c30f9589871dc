"""A dataset as a scenario sees it: which of its images train and test, which of its classes are there under which names, and the
templates around them.

A list of classes, names/NAME.json, has names in label order and says how the dataset's own classes are found (`match`):
name            by name, whatever the case, the signs between the words and the order of the words
qualified name  the same, and a class with one more word in front is the listed one too ("indoor bow window"): several become one
position        the dataset has as many, in the same order
Where no name is found and there are as many classes, they are taken by position, and a note says so.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from lamm_cl import yaml_facts
from lamm_cl.config.schema import Scenario
from lamm_cl.data.dataset import BYTES, Dataset, Files, Split, fingerprint_of, learned_from, listed
from lamm_cl.data.lists import read_json
from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.files import PACKAGE

LISTS = PACKAGE / "data" / "names"
TEMPLATES = PACKAGE / "data" / "templates.yaml"
UNDERSCORED = "underscored"  # all classes, by the dataset's own names with underscores between the words
MATCHES = ("name", "qualified name", "position")


def measured(scenario: Scenario, name: str, load: Callable[[str, str | None], Dataset]) -> Dataset:
    """A dataset of a scenario.  load: a dataset by its name, under a split by its name (None: its own)."""
    dataset = load(name, scenario.split)
    if scenario.train_on:
        dataset = learned_from(dataset, load(scenario.train_on, None))
    if scenario.classes:
        dataset = chosen(dataset, scenario.classes)
    if scenario.templates:
        templates = named_templates(scenario.templates, scenario.name)
        dataset = replace(dataset, template=templates[0], templates=templates)
    return dataset


def check(scenario: Scenario) -> None:
    """UserError for a list of classes or templates that there is not: before any data is looked at."""
    if scenario.classes and scenario.classes not in list_names():
        raise UserError(
            f"{scenario.name}: classes: no list {scenario.classes!r}{did_you_mean(scenario.classes, list_names())}; one of "
            f"{', '.join(list_names())}"
        )
    if scenario.templates:
        named_templates(scenario.templates, scenario.name)


def list_names() -> list[str]:
    return [*sorted(path.stem for path in LISTS.glob("*.json")), UNDERSCORED]


def named_templates(templates: str | Sequence[str], where: str) -> tuple[str, ...]:
    """Those of a name, or a list as it is."""
    if not isinstance(templates, str):
        return tuple(templates)
    if templates not in (known := _templates()):
        near = did_you_mean(templates, known)
        raise UserError(f"{where}: templates: no {templates!r}{near}; one of {', '.join(known)}, or a list")
    return tuple(known[templates])


@cache
def _templates() -> dict[str, list[str]]:
    return yaml_facts.parse(TEMPLATES.read_bytes(), TEMPLATES.name)


def chosen(dataset: Dataset, name: str) -> Dataset:
    """The dataset with the classes of a list, in its order and under its names."""
    if dataset.features:
        raise UserError(f"{dataset.name}: classes: {name!r} goes with images; the names of features are in their file")
    if name == UNDERSCORED:
        groups, names, notes = [[i] for i in range(len(dataset.classes))], [c.replace(" ", "_") for c in dataset.classes], []
    else:
        content = read_json(LISTS / f"{name}.json")
        names = content["names"]
        groups, notes = grouped(dataset, name, names, content["match"])
    arrival = np.full(len(dataset.classes), -1)
    for label, group in enumerate(groups):
        arrival[group] = label
    train, test = _of(dataset.train, arrival), _of(dataset.test, arrival)

    def identity() -> str:
        found = fingerprint_of(names, (train, test), (arrival.astype("<i8").tobytes(), dataset.fingerprint.encode()))
        return (BYTES if dataset.fingerprint.startswith(BYTES) else "") + found

    def train_identity() -> str:
        return fingerprint_of(names, (train,), (arrival.astype("<i8").tobytes(), dataset.train_fingerprint.encode()))

    return replace(
        dataset, classes=tuple(names), train=train, test=test, val=dataset.val and _of(dataset.val, arrival), identity=identity,
        train_identity=train_identity, names_and_sizes="", notes=(*dataset.notes, *notes),
    )  # fmt: skip


def grouped(dataset: Dataset, name: str, names: Sequence[str], match: str) -> tuple[list[list[int]], list[str]]:
    """Of each listed name the dataset's class ids, and what to note. UserError for a name that no class has."""
    own, where = dataset.classes, f"{dataset.name}: classes: {name!r}"
    in_order = [[i] for i in range(len(names))]
    if match == "position":
        if len(own) != len(names):
            raise UserError(f"{where} names the {len(names)} classes of the data set in their order, but there are {len(own)}")
        return in_order, []
    found = _by_name(own, names, qualified=match == "qualified name")
    if not any(found) and len(own) == len(names):
        note = f"none of the {len(names)} names of {name!r} is among the data set's ({listed(own)}): they are taken in order"
        return in_order, [note]
    if absent := [each for each, group in zip(names, found, strict=True) if not group]:
        raise UserError(f"{where} has {listed(absent)}, but the data set does not{did_you_mean(absent[0], own)}")
    left = len(own) - sum(map(len, found))
    several = [each for each, group in zip(names, found, strict=True) if len(group) > 1]
    notes = [f"{listed(several)}: {len(several)} classes of {name!r} are several of the data set in one"] if several else []
    return found, [*([f"{left} classes of the data set are not in {name!r} and are left out"] if left else []), *notes]


def _by_name(own: Sequence[str], names: Sequence[str], *, qualified: bool) -> list[list[int]]:
    """Of each listed name the dataset's classes: those of the same letters, else of the same words, else (qualified) those of
    another word in front of it that are no listed class themselves."""
    found: list[list[int]] = [[] for _ in names]
    left = dict(enumerate(own))
    for key in (_letters, _words):
        of = {key(name): label for label, name in reversed([*enumerate(names)])}
        for i, mine in [*left.items()]:
            label = of.get(key(mine))
            if label is not None and not found[label]:
                found[label] = [i]
                del left[i]
    if qualified:
        of = {_letters(name): label for label, name in enumerate(names)}
        for i, mine in left.items():
            label = of.get(_letters(mine.partition(" ")[2]))
            if label is not None:
                found[label].append(i)
    return found


def _letters(name: str) -> str:
    """Letters and digits alone; a folder's number in front, as in 001.Black_footed_Albatross, is no part of a name."""
    return re.sub(r"[\W_]", "", re.sub(r"^\d+\.", "", name.casefold()))


def _words(name: str) -> tuple[str, ...]:
    return tuple(sorted(re.findall(r"[^\W_]+", name.casefold())))


def _of(split: Split, arrival: np.ndarray) -> Split:
    """The images of the classes that have a label, under it."""
    labels = arrival[split.labels]
    mine = np.flatnonzero(labels >= 0)
    images = split.images
    some = Files(images.folder, [images.names[i] for i in mine]) if isinstance(images, Files) else images[mine]
    return Split(some, labels[mine].astype(np.int64))
