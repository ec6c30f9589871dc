"""What a results folder costs as it grows: seconds of each command, and of publishing, at so many generated runs.

    python tests/folders.py 50 500 5000
    python tests/folders.py --each 1 5000       only the share of publishing in a sweep whose runs take so many seconds

Each command is a process of its own; its processor time is told, which a busy machine changes less than the clock. Generated
runs have a record of the demo's size and no learned tensors. Not part of `make test`.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import yaml
from fake_records import record

from lamm_cl.cli import doors
from lamm_cl.config.cards import load_scenario
from lamm_cl.config.identity import content_hash
from lamm_cl.data import catalogue
from lamm_cl.results.file import write_record
from lamm_cl.sweeping.code import of_card
from lamm_cl.sweeping.execute import Settings, execute
from lamm_cl.sweeping.plan import Run, plan

DATASETS, METHODS = ["digits", "species"], ["zero-shot", "coop", "lamm", "maple", "cocoop"]
COMMANDS = {
    "nothing to do": ["run", "SCENARIO", "--results", "RESULTS", "--cache", "CACHE"],
    "the same again": ["run", "SCENARIO", "--results", "RESULTS", "--cache", "CACHE"],
    "table": ["table", "FOLDER"],
    "compare": ["compare", "FOLDER"],
    "verify": ["verify", "FOLDER", "--recompute", "0"],
    "report": ["report", "FOLDER"],
}


def scenario_of(runs: int, place: Path) -> Path:
    """A scenario like the demo with as many seeds as it takes."""
    facts = load_scenario("demo").model_dump(mode="json", exclude_defaults=True)
    seeds = list(range(1, 1 + runs // (len(DATASETS) * len(METHODS))))
    facts |= {"name": "folders", "datasets": DATASETS, "methods": METHODS, "seeds": seeds, "overrides": {}, "bounds": []}
    path = place / "folders.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in facts.items() if value != {}}, sort_keys=False))
    return path


def train(run: Run, settings: Settings, progress: object, fingerprints: dict[str, str]) -> None:
    """A run of no time."""
    seed = run.seed % 40
    made = record([[50, 50], [80 - seed, 50], [70, 90]], dataset=run.dataset, method=run.method, shots=run.shots, seed=run.seed)
    facts = replace(made.run, scenario=run.scenario.name, version=run.scenario.version)
    scenario = run.scenario.model_dump(mode="json") | {"hash": content_hash(run.scenario)}
    card = run.card.model_dump(mode="json") | {"hash": content_hash(run.card)}
    seen = replace(made.dataset, fingerprint=fingerprints[run.dataset])
    write_record(replace(made, run=facts, scenario=scenario, card=card, dataset=seen, code=of_card(run.card)), run.folder)


def seconds_of(words: list[str]) -> tuple[float, float]:
    """Of the processor and of the clock; of a command that ends well."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([sys.executable, "-m", "lamm_cl", *words], capture_output=True, text=True, check=False)
    after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    if done.returncode:
        sys.exit(f"{words}: {done.stdout[-500:]} {done.stderr[-2000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, took


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--each", type=float, default=0.0, metavar="SECONDS", help="that a run takes, by a clock set forward")
    parser.add_argument("runs", type=int, nargs="*", default=[50, 500])
    args = parser.parse_args()
    for count in args.runs:
        with tempfile.TemporaryDirectory() as home:
            measured(count, Path(home), args.each)


def measured(count: int, home: Path, each: float) -> None:
    scenario, folder = scenario_of(count, home), home / "results" / "folders"
    settings = Settings(None, home / "cache", "cpu", 1)
    runs = plan(load_scenario(str(scenario)), home / "results")
    prints = {name: catalogue.load(name, None, settings.cache).fingerprint for name in DATASETS}
    published: list[float] = []
    done = 0

    def clock() -> float:
        return time.monotonic() + each * done

    def publish(run: Run, tell: object) -> None:
        start = time.process_time()
        doors.publish(run)
        published.append(time.process_time() - start)

    def learn(*arguments: object) -> None:
        nonlocal done
        train(*arguments, fingerprints=prints)
        done += 1

    start = time.monotonic()
    failures = execute(runs, settings, lambda event: None, train=learn, publish=publish, clock=clock)
    assert not failures, failures[0].text
    if each:
        took = time.monotonic() - start + each * done
        share = f"{100 * sum(published) / took:.2f} % of its {took:.0f} s"
        say = f"{len(runs):,} runs of {each:g} s: published {len(published)} times"
        sys.stdout.write(f"{say}, {sum(published):.1f} s of CPU, {share}\n")
        return
    say = f"{len(runs):,} runs, {time.monotonic() - start:.1f} s of nothing but records and publishing"
    sys.stdout.write(f"{say}: published {len(published)} times, {sum(published):.2f} s of CPU, last {published[-1]:.2f} s\n")
    for name in ("forgetting_curves", "accuracy_matrix"):  # of no interest here
        for end in ("png", "pdf"):
            (folder / "figures").mkdir(exist_ok=True)
            (folder / "figures" / f"{name}.{end}").touch()
    places = {"SCENARIO": scenario, "RESULTS": home / "results", "CACHE": home / "cache", "FOLDER": folder}
    for name, words in COMMANDS.items():
        cpu, clock = seconds_of([re.sub("^[A-Z]+$", lambda word: str(places[word[0]]), word) for word in words])
        sys.stdout.write(f"  {name:15} {cpu:6.2f} s of CPU, {clock:6.2f} s\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
