"""What a results folder costs as it grows: publishing in a sweep, and whole commands, at several numbers of runs.

The runs are generated: records of the demo's size, of methods that nobody trained, in the time that it takes to write them.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import yaml

from lamm_cl.bench import processes
from lamm_cl.bench.instruments import Measure, at_most
from lamm_cl.config.cards import load_scenario
from lamm_cl.config.identity import content_hash
from lamm_cl.data import catalogue
from lamm_cl.data.dataset import Dataset
from lamm_cl.reports.derived import derived_files
from lamm_cl.results.file import write_record
from lamm_cl.results.record import BackboneFacts, Count, DatasetFacts, Measured, ModelFacts, Record, RunFacts
from lamm_cl.sweeping.code import of_card
from lamm_cl.sweeping.execute import Settings, execute
from lamm_cl.sweeping.plan import Run, plan
from lamm_cl.sweeping.publish import publish

RUNS = (50, 500, 5000)
EACH = 1.0  # seconds that a run of the sweep takes, by a clock that is set forward
DATASETS, METHODS = ["digits", "species"], ["zero-shot", "coop", "lamm", "maple", "cocoop"]
SHARE = 0.01  # of a sweep that publishing may take
FIGURES = [f"{name}.{end}" for name in ("forgetting_curves", "accuracy_matrix") for end in ("png", "pdf")]


def folders(place: Path) -> Iterator[Measure]:
    for runs in RUNS:
        yield from folder_of(runs, place / str(runs))


def folder_of(count: int, place: Path) -> Iterator[Measure]:
    """A sweep of so many runs, and each command on what it leaves: seconds of the processor, start of Python included."""
    scenario, results, cache = scenario_of(count, place), place / "results", place / "cache"
    runs = plan(load_scenario(str(scenario)), results)
    data = {name: catalogue.load(name, None, cache) for name in DATASETS}
    took: list[float] = []
    done = 0

    def train(run: Run, settings: Settings, progress: object) -> None:
        nonlocal done
        write_record(generated(run, data[run.dataset]), run.folder)
        done += 1

    def published(run: Run, tell: object) -> None:
        start = time.process_time()
        publish(run, derived_files)
        took.append(time.process_time() - start)

    start = time.monotonic()
    execute(runs, Settings(None, cache, "cpu", 1), lambda event: None, train=train, publish=published,
            clock=lambda: time.monotonic() + EACH * done)  # fmt: skip
    sweep = time.monotonic() - start + EACH * done
    note = f"{len(took)} times in a sweep of {sweep:.0f} s, the last time {took[-1]:.2f} s"
    share = sum(took) / sweep
    measure = at_most(f"publishing_{count}", sum(took), "CPU s", share, SHARE, note)
    yield measure if count == max(RUNS) else replace(measure, target=None, met=None)
    for name in FIGURES:  # of no interest here
        (results / "folders/figures").mkdir(exist_ok=True)
        (results / "folders/figures" / name).touch()
    again = [*processes.PROGRAM, "run", str(scenario), "--results", str(results), "--cache", str(cache)]
    processes.finished(again)  # which finds nothing to do, and draws what is missing
    commands = {"nothing": again} | {
        name: [*processes.PROGRAM, name, str(results / "folders"), *more]
        for name, *more in (["table"], ["compare"], ["verify", "--recompute", "0"], ["report"])
    }
    for name, words in commands.items():
        clock, used = processes.processor(partial(processes.finished, words))
        what = "run, nothing to do" if name == "nothing" else " ".join([name, *words[4:]])
        yield Measure(f"{name}_{count}", used, "CPU s", note=f"{what}; by the clock {clock:.2f} s")


def scenario_of(runs: int, place: Path) -> Path:
    """A scenario like the demo with as many seeds as it takes."""
    facts = load_scenario("demo").model_dump(mode="json", exclude_defaults=True)
    seeds = list(range(1, 1 + max(1, runs // (len(DATASETS) * len(METHODS)))))
    facts |= {"name": "folders", "datasets": DATASETS, "methods": METHODS, "seeds": seeds, "overrides": {}, "bounds": []}
    place.mkdir(parents=True)
    path = place / "folders.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in facts.items() if value != {}}, sort_keys=False))
    return path


def generated(run: Run, data: Dataset) -> Record:
    """A record of halves whose counts depend on the seed."""
    C, half, spread = len(data.classes), len(data.classes) // 2, run.seed % 40
    correct = [[50, 50], [80 - spread, 50], [70, 90]]
    counts = [
        Count(i, j, space, None if space == "joint" and j > i else correct[i][j - 1] // (1 + (space == "joint")), 100, None)
        for space in ("own", "joint") for i in range(3) for j in (1, 2)
    ]  # fmt: skip
    seen = DatasetFacts(data.fingerprint, data.classes, tuple(range(C)), (half, C - half), (16 * half,) * 2, (100,) * 2,
                        (100 // half,) * C, (tuple(range(16 * half)),) * 2, ())  # fmt: skip
    return Record(
        run=RunFacts(run.scenario.name, run.scenario.version, run.dataset, run.method, run.shots, run.seed),
        scenario=run.scenario.model_dump(mode="json") | {"hash": content_hash(run.scenario)},
        card=run.card.model_dump(mode="json") | {"hash": content_hash(run.card)},
        backbone=BackboneFacts(run.scenario.backbone.architecture, run.scenario.backbone.weights, "generated", "fp32"),
        dataset=seen,
        counts=tuple(counts),
        model=ModelFacts((2048,) * 2, None),
        measured=Measured({"training": 1.5, "testing": 0.5}, 300.0, 2**20, "cpu", "", {}, None, "2026-01-01T00:00:00"),
        files={},
        code=of_card(run.card),
    )
