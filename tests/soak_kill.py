"""Kills `lamm-cl run` with SIGKILL at random moments, starts it again, and compares the end with an uninterrupted run.

    python tests/soak_kill.py --kills 100 --minutes 60 -- demo --dataset digits --seed 1

One process, one with --jobs 2, and two processes on the same results take turns; each round has its own empty results and
cache. Time lost by a kill: from the last saved state of a run in progress (from the process's start, if none was in
progress) to the kill; the next start comes on top. Exit status 1 if anything differs. tests/test_soak.py does a little of it.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from lamm_cl.results.file import read_record

TOP = Path(__file__).resolve().parent.parent
MODES = {"one process": (1, 1), "--jobs 2": (1, 2), "two processes": (2, 1)}  # -> processes, jobs of each


@dataclass
class Soak:
    """What is run (the words after `lamm-cl run`), and what killing it has cost so far."""

    words: list[str]
    folder: Path
    longest: float  # seconds that a process lives at most before it is killed
    random: random.Random
    lost: dict[str, list[float]] = field(default_factory=dict)  # mode -> seconds, one a kill
    mismatches: list[str] = field(default_factory=list)
    rounds: int = 0

    def start(self, results: Path, jobs: int) -> subprocess.Popen:
        command = [sys.executable, "-m", "lamm_cl", "run", *self.words, "--jobs", str(jobs), "--save-every", "0"]
        places = ["--results", str(results), "--cache", str(results.parent / "cache")]
        environment = {**os.environ, "PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1"}
        with (results.parent / "log").open("a") as log:
            return subprocess.Popen([*command, *places], stdout=log, stderr=log, env=environment, start_new_session=True)

    def whole(self) -> Path:
        """The results of an uninterrupted run."""
        results = fresh(self.folder / "whole")
        assert self.start(results, jobs=1).wait() == 0, (results.parent / "log").read_text()
        return results

    def round(self, mode: str, kills: int, deadline: float, whole: Path) -> None:
        """Kill until the runs are finished, `kills` are reached or time is up; let the rest finish; compare."""
        self.rounds += 1
        results = fresh(self.folder / f"round{self.rounds}")
        many, jobs = MODES[mode]
        lost = self.lost.setdefault(mode, [])
        running = [Life(self, results, jobs) for _ in range(many)]
        while running:
            life = min(running, key=lambda life: life.end)
            life.wait()
            if life.process.returncode is not None:
                if life.process.returncode != 0:
                    self.mismatches.append(f"{mode}: exit status {life.process.returncode}: {results.parent / 'log'}")
                running.remove(life)
            elif kills <= 0 or time.monotonic() > deadline:
                life.end = float("inf")
            else:
                lost.append(life.kill(alone=self.random.random() < 1 / 3))
                kills -= 1
                running[running.index(life)] = Life(self, results, jobs)
        self.mismatches += [f"{mode}, round {self.rounds}: {text}" for text in differences(whole, results)]


class Life:
    """A process of lamm-cl until its end, or until it is killed."""

    def __init__(self, soak: Soak, results: Path, jobs: int):
        self.results, self.started = results, time.time()
        self.process = soak.start(results, jobs)
        self.end = time.monotonic() + soak.random.uniform(0, soak.longest)

    def wait(self) -> None:
        """Until its end comes; the process may be quicker."""
        try:
            self.process.wait(None if self.end == float("inf") else max(0.0, self.end - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass

    def kill(self, alone: bool) -> float:
        """-> the seconds that are lost. `alone`: what it started (workers, what draws the figures) is left to find out."""
        lost = self.unsaved()
        (os.kill if alone else os.killpg)(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return lost

    def unsaved(self) -> float:
        now = time.time()
        since = [max(self.started, last_write(lock)) for lock in self.results.glob("*/runs/*/*/*/lock/*")]
        return now - min(since, default=self.started)


def last_write(lock: Path) -> float:
    """When the run of a lock was saved last; when it was begun, if it was not."""
    state = lock.parents[1] / "state" / "state.safetensors"
    try:
        return state.stat().st_mtime if state.exists() else lock.parent.stat().st_mtime
    except FileNotFoundError:  # finished in this moment
        return time.time()


def fresh(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder / "results"


def differences(whole: Path, other: Path) -> list[str]:
    """Facts, learned tensors, records.csv and tables that are not the same, and what should not be there."""
    found = []
    names = {path.relative_to(whole) for path in whole.rglob("*") if path.is_file()}
    theirs = {path.relative_to(other) for path in other.rglob("*")}
    found += [f"{name} is missing" for name in sorted(names - theirs)]
    found += [f"{name} was left behind" for name in sorted(theirs) if name.name.startswith(".") or name.name in ("state", "lock")]
    for name in sorted(names & theirs):
        if name.name == "record.json":
            same = read_record(whole / name).facts() == read_record(other / name).facts()
        else:
            same = name.parent.name == "figures" or (whole / name).read_bytes() == (other / name).read_bytes()
        found += [] if same else [f"{name} differs"]
    return found


def report(soak: Soak) -> str:
    lines = [f"{soak.rounds} rounds, {sum(map(len, soak.lost.values()))} kills, {len(soak.mismatches)} mismatches"]
    for mode, lost in soak.lost.items():
        if lost:
            seconds = f"median {statistics.median(lost):.1f} s, worst {max(lost):.1f} s"
            lines.append(f"{mode}: {len(lost)} kills, time lost per kill: {seconds}")
    return "\n".join([*lines, *soak.mismatches])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--longest", type=float, default=20, help="seconds that a process lives at most")
    parser.add_argument("--mode", action="append", choices=MODES, help="default: all, in turn")
    parser.add_argument("--random-seed", type=int, default=1)
    parser.add_argument("words", nargs="*", default=["demo", "--dataset", "digits", "--seed", "1"], help="of lamm-cl run")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    modes = args.mode or list(MODES)
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(args.words, Path(folder), args.longest, random.Random(args.random_seed))
        whole = soak.whole()
        while (done := sum(map(len, soak.lost.values()))) < args.kills and time.monotonic() < deadline and not soak.mismatches:
            soak.round(modes[soak.rounds % len(modes)], args.kills - done, deadline, whole)
            print(report(soak), flush=True)
        if soak.mismatches:
            print("".join(path.read_text() for path in Path(folder).glob("*/log"))[-5000:])
    return 1 if soak.mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
