"""What follows from the records of a results folder, brought up to date as runs finish."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import yaml

from lamm_cl.errors import UserError
from lamm_cl.files import PACKAGE, read_regular, remove_leftovers, uninterrupted, write_atomic
from lamm_cl.results.csv import RunKey, lost
from lamm_cl.results.remembered import Memory
from lamm_cl.results.stored import check_writable
from lamm_cl.sweeping import locks
from lamm_cl.sweeping.plan import Run

Derived = Callable[[Path], dict[str, str]]  # a results folder -> name -> content of what follows from its records


def check_kept(runs: Sequence[Run], replace: bool = False) -> None:
    """Raises UserError where these runs would write beside a pack, or rewrite counts whose records are gone with fewer (unless
    `replace`): somebody's numbers, which cannot be made again from what lies there."""
    planned = [RunKey(run.dataset, run.method, run.shots, run.seed, run.order) for run in runs]
    for folder in {run.folder.parents[3]: run for run in runs}:
        check_writable(folder, "choose another --results folder")
        if not replace and folder.is_dir() and (told := lost(folder, planned)):
            raise UserError(f"{told}; --replace does it, or choose another --results folder")


def publish(run: Run, derived: Derived, tell: locks.Tell = lambda text: None) -> None:
    """Bring what is derived from the records up to date: scenario.yaml, records.csv and tables/ of the results folder.

    tell: hears for whom it waits, where that takes long.
    """
    folder = run.folder.parents[3]
    facts = run.scenario.model_dump(mode="json")
    scenario = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=120)

    def write(lock: locks.Lock) -> None:
        contents = {"scenario.yaml": scenario} | derived(folder)
        uninterrupted(lambda: _write_derived(folder, contents, lock))

    locks.under(folder, write, tell)


def _write_derived(folder: Path, contents: dict[str, str], lock: locks.Lock) -> None:
    """All of them; Lost before the first that another process may have written since, with newer facts."""
    for name, content in contents.items():
        lock.check()
        remove_leftovers(folder / name)
        write_atomic(folder / name, content, within=folder)


def tidy(finished: Sequence[Run], derived: Derived, tell: locks.Tell = lambda text: None, cache: Path | None = None) -> None:
    """What a kill between a run's record and its end left behind is removed, records.csv and tables brought up to date.

    cache: where it is noted that a folder was up to date. As long as no file there is another, nothing is computed again.
    """
    for run in finished:
        if (run.folder / "state").exists():
            shutil.rmtree(run.folder / "state", ignore_errors=True)
        with suppress(OSError):
            (run.folder / "traceback.txt").unlink(missing_ok=True)
    for folder, run in {run.folder.parents[3]: run for run in finished}.items():
        note = cache and _note_of(folder, cache)
        if note and _is(note, _facts(folder)):
            continue
        wanted = derived(folder)
        if not all(_is(folder / name, content) for name, content in wanted.items()):
            publish(run, derived, tell)
        if note and (facts := _facts(folder)):
            with suppress(OSError):
                write_atomic(note, facts)


def _note_of(folder: Path, cache: Path) -> Path:
    return cache / "derived" / hashlib.sha256(os.path.realpath(folder).encode()).hexdigest()[:32]


def _facts(folder: Path) -> str:
    """What would be another if a record or what follows from it were: names, sizes, times and places of the files, and of
    the code that makes tables. "" while a file is so new that its time could stay the same when it changes again."""
    paths = [*folder.glob("runs/*/*/*/record.json"), folder / "records.csv", *folder.glob("tables/*")]
    paths += [path for wing in ("reports", "results") for path in (PACKAGE / wing).glob("*.py")]
    lines, newest = [], 0
    for path in sorted(paths):
        try:
            at = path.stat()
        except OSError:
            return ""
        lines.append(f"{path} {at.st_size} {at.st_mtime_ns} {at.st_ctime_ns} {at.st_ino} {at.st_dev}")
        newest = max(newest, at.st_mtime_ns, at.st_ctime_ns)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if time.time() - newest / 1e9 > Memory.TICK else ""


def _is(path: Path, content: str) -> bool:
    try:
        return bool(content) and read_regular(path) == content.encode()
    except OSError:  # absent, or something else in its place
        return False
