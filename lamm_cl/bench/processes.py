"""Whole processes: how soon a command is there, and what it takes from its start to its end.

Each works on a cache that one turn before, not counted, has filled, and on a results folder of its own.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from lamm_cl.bench.instruments import Measure, at_most, timed
from lamm_cl.errors import UserError

PROGRAM = ["-m", "lamm_cl"]
DIGITS = ["run", "demo", "--dataset", "digits", "--method", "coop"]
SPECIES = ["run", "demo", "--dataset", "species", "--seed", "1"]
KEEPING = ("zero-shot", "coop")  # what these methods need is in the cache behind them: generated images, features
# A command that ends behind its first training step; what it imports first it would import anyway.
FIRST_STEP = """if True:
    import os, sys
    from lamm_cl.training.loop import Loop
    step = Loop.optimizer_step
    def last(loop):
        step(loop)
        os._exit(0)
    Loop.optimizer_step = last
    from lamm_cl.cli.main import main
    sys.exit(main(sys.argv[1:]) or "no step was trained")
"""


def python(words: Sequence[str]) -> list[str]:
    return [sys.executable, *words]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def finished(words: Sequence[str]) -> None:
    """A Python process to its end."""
    done = subprocess.run(python(words), env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing was said"]
        raise UserError(f"bench: a process of it ended with status {done.returncode}: {said[-1]}")


def first_line(words: Sequence[str]) -> None:
    """A Python process until it has said a line; then it is ended."""
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(python(words), env=environment(), stdout=pipe, stderr=nowhere, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.kill()
    if not said:
        raise UserError(f"bench: {' '.join(words)} said nothing")


def processor(function: Callable[[], object]) -> tuple[float, float]:
    """-> seconds by the clock, and of the processor, of the processes that the call starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, _ = timed(function)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Folders:
    """Options of a command: one cache for all, fresh results each time."""

    def __init__(self, folder: Path, device: str):
        self.folder, self.device, self.made = folder, device, 0

    def fresh(self) -> list[str]:
        self.made += 1
        results = self.folder / f"results-{self.made}"
        return ["--cache", str(self.folder / "cache"), "--results", str(results), "--device", self.device]


def start(folder: Path, device: str, turns: int) -> Iterator[Measure]:
    """Seconds by the clock from the start of a process, the least of the turns, beside what was asked for."""
    folders = Folders(folder, device)
    measured: dict[str, tuple[float, str, Callable[[], None]]] = {
        "import": (0.1, "import lamm_cl", lambda: finished(["-c", "import lamm_cl"])),
        "first_line": (0.4, "first line of run", lambda: first_line([*PROGRAM, *DIGITS, *folders.fresh()])),
        "dry_run": (4, "whole dry run, speed known", lambda: finished([*PROGRAM, *DIGITS, *folders.fresh(), "--dry-run"])),
        "first_step": (4, "first trained step", lambda: finished(["-c", FIRST_STEP, *DIGITS, *folders.fresh()])),
    }
    took: dict[str, list[float]] = {name: [] for name in measured}
    for turn in range(turns + 1):
        for name, (_, _, call) in measured.items():
            seconds, _ = timed(call)
            if turn:
                took[name].append(seconds)
    for name, (most, what, _) in measured.items():
        least = min(took[name])
        note = f"{what}; median of {turns} {median(took[name]):.2f} s; asked for: {most:g} s"
        yield at_most(f"start_{name}", least, "s", least / most, 1, note)


def commands(folder: Path, device: str, methods: Sequence[str], turns: int) -> Iterator[Measure]:
    """Seconds of the processor of `lamm-cl run demo --dataset species --method M --seed 1`, the least of the turns."""
    folders = Folders(folder, device)
    fill = [word for method in methods if method in KEEPING for word in ("--method", method)]
    finished([*PROGRAM, *SPECIES, *fill, *folders.fresh()])
    took: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
    for _ in range(turns):
        for method in methods:
            took[method].append(processor(partial(finished, [*PROGRAM, *SPECIES, "--method", method, *folders.fresh()])))
    for method, each in took.items():
        clock, used = ([one[i] for one in each] for i in (0, 1))
        note = f"median of {turns} {median(used):.1f} s; by the clock {min(clock):.1f} s, median {median(clock):.1f} s"
        yield Measure(f"{method}_command", min(used), "CPU s", note=note)
