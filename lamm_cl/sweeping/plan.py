"""The runs of a scenario, planned and checked against what is already in results/.

A run is one (dataset, method, shots, seed), with several class orders one of these too. Each gives its own record.json and
nothing is shared between runs: they may be done in any order, at any number of jobs, in several calls, and give the same
records.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from lamm_cl import yaml_facts
from lamm_cl.config import pieces
from lamm_cl.config.cards import card_for
from lamm_cl.config.identity import content_hash, difference, from_record, identity
from lamm_cl.config.schema import Card, OrderSeed, Scenario
from lamm_cl.data import catalogue, measured
from lamm_cl.errors import UserError
from lamm_cl.results.predictions import are_there
from lamm_cl.results.record import Record, bound_of, order_name, run_place
from lamm_cl.results.remembered import facts_of, remembered, tell_apart

LONGEST = 255  # bytes of a folder's name
Order = str | OrderSeed | tuple[str | int, ...]


@dataclass(frozen=True)
class Run:
    """One method on one dataset with `shots` training images per class and one seed; `card` has the overrides in it.

    `method` is the card's key in the stream, and another for a bound (results.record.bound_of).
    """

    scenario: Scenario
    dataset: str
    method: str
    card: Card
    shots: int | Literal["full"]
    seed: int
    folder: Path
    order: str = ""  # of several in the scenario, the one of this run, by its name (results.record.order_name)

    @property
    def stream(self) -> Scenario:
        """The scenario as this run sees it, in one order; a bound sees all classes at once."""
        joint = bound_of(self.method)[1] == "joint"
        seen = in_order(self.scenario, self.order)
        return seen.model_copy(update={"experiences": 1}) if joint else seen

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario.name,
            "dataset": self.dataset,
            "method": self.method,
            "shots": self.shots,
            "seed": self.seed,
            **({"order": self.order} if self.order else {}),
        }

    def __str__(self) -> str:
        order = f" / order {self.order}" if self.order else ""
        return f"{self.dataset} / {self.method} / shots {self.shots} / seed {self.seed}{order}"


@dataclass(frozen=True)
class Progress:
    """Where a run is: learning `experience` (from 1) of `experiences`, in `epoch` (from 1) of `epochs`."""

    experience: int
    experiences: int
    epoch: int
    epochs: int
    stage: str  # train, test
    waits: str = ""  # for whom
    note: str = ""  # what is to be told once of this method


def plan(
    scenario: Scenario,
    results: Path,
    *,
    datasets: Sequence[str] = (),
    methods: Sequence[str] = (),
    shots: Sequence[int | str] = (),
    seeds: Sequence[int] = (),
) -> list[Run]:
    """All runs of a scenario, below results/<scenario>, in its order, bounds last; a list that is not empty replaces its own.

    What a card without training and head would do with all classes at once, it does in any stream: it has no bounds.
    Raises UserError for an option that a piece of a card does not have: now, and not when its turn comes.
    """
    measured.check(scenario)
    root = results / scenario.name / "runs"
    folders = _folders(datasets or scenario.names)
    cards = {method: card_for(scenario, method) for method in methods or scenario.methods}
    for card in cards.values():
        pieces.check(card)
    learning = [method for method, card in cards.items() if card.training or card.head]
    cards |= {f"{method}@{bound}": cards[method] for bound in scenario.bounds for method in learning}
    return [
        Run(scenario, dataset, method, card, k, seed, root / run_place(folder, method, k, seed, order), order)
        for dataset, folder in folders.items()
        for method, card in cards.items()
        for k in shots or scenario.shots
        for seed in seeds or scenario.seeds
        for order in orders_of(scenario) or [""]
    ]


def orders_of(scenario: Scenario) -> dict[str, Order]:
    """The orders of a scenario with several, by their names."""
    named = scenario.model_dump(mode="json", include={"orders"}).get("orders", [])
    return {order_name(facts): order for facts, order in zip(named, scenario.orders, strict=True)}


def in_order(scenario: Scenario, name: str) -> Scenario:
    """The scenario with one of its orders as the only one; "" of a scenario with one."""
    return scenario.model_copy(update={"order": orders_of(scenario)[name], "orders": ()}) if name else scenario


def made(runs: Sequence[Run]) -> dict[Path, Record]:
    """Folder -> record of the finished runs. Raises UserError where a record is of another scenario or card than the run."""
    for folder in dict.fromkeys(run.folder.parents[3] for run in runs):
        check_folder(folder, runs[0].scenario)
    known: dict[int, str] = {}  # of the scenario and the cards that thousands of runs share

    def hash_of(model: Scenario | Card) -> str:
        if id(model) not in known:
            known[id(model)] = content_hash(model)
        return known[id(model)]

    records = ((run.folder, _record(run, hash_of)) for run in runs)
    return {folder: record for folder, record in records if record}


def unfinished(runs: Sequence[Run]) -> list[Run]:
    """The runs without a record. Raises UserError as `made`."""
    done = made(runs)
    return [run for run in runs if run.folder not in done]


def _folders(datasets: Sequence[str]) -> dict[str, str]:
    """What the folder of each dataset is called: by its name in the catalogue, or the last part of a path."""
    folders = {dataset: catalogue.canonical(dataset) for dataset in datasets}
    for dataset, folder in folders.items():
        if not re.fullmatch(r"[^/\\\x00-\x1f]+", folder) or folder in (".", ".."):
            raise UserError(f"datasets: {dataset!r}: expected a name, or a path whose last part is one")
        if len(folder.encode()) > LONGEST:
            raise UserError(f"datasets: {dataset!r}: a name of more than {LONGEST} bytes is none of a folder")
        if list(folders.values()).count(folder) > 1:
            raise UserError(f"datasets: {dataset!r}: another dataset is called {folder!r} too")
    return folders


def check_folder(folder: Path, scenario: Scenario) -> None:
    """results/<scenario>/scenario.yaml says whose folder it is."""
    path = folder / "scenario.yaml"
    if not path.exists():
        return
    facts = facts_of(path)
    theirs = (_known_identity if tell_apart(facts) else _identity_in)(path, facts)
    differs = difference(theirs, identity(scenario))
    if differs:
        raise UserError(f"{path}: made with another scenario ({differs}); choose another --results folder")


def _identity_in(path: Path, facts: tuple[int, ...]) -> dict[str, Any]:
    return identity(from_record(Scenario, yaml_facts.read(path), str(path)))


_known_identity = lru_cache(maxsize=8)(_identity_in)  # of a file with these facts: every run asks, and YAML is slow


def complete(run: Run, predictions: bool = False) -> bool:
    """Whether it is finished, and has its predictions where they are asked for."""
    return _record(run) is not None and (not predictions or are_there(run.folder))


def _record(run: Run, hash_of: Callable[[Scenario | Card], str] = content_hash) -> Record | None:
    path = run.folder / "record.json"
    if not path.exists():
        return None
    try:
        record = remembered(path)
    except UserError as error:
        raise UserError(f"{error}; delete the file to repeat this run") from None
    for kind, old, new in (("scenario", record.scenario, run.scenario), ("card", record.card, run.card)):
        if old.get("hash") != hash_of(new):
            theirs = from_record(type(new), old, f"{path}: {kind}")
            differs = difference(identity(theirs), identity(new)) or "hash: another version of lamm-cl"
            raise UserError(f"{path}: made with another {kind} ({differs}); choose another --results folder")
    return record
