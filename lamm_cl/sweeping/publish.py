"""What follows from the records of a results folder, brought up to date as runs finish."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from lamm_cl.errors import UserError
from lamm_cl.files import remove_leftovers, uninterrupted, write_atomic
from lamm_cl.results.csv import RunKey, lost
from lamm_cl.results.stored import check_writable
from lamm_cl.sweeping import locks
from lamm_cl.sweeping.plan import Run

Derived = Callable[[Path], dict[str, str]]  # a results folder -> name -> content of what follows from its records


def check_kept(runs: Sequence[Run], replace: bool = False) -> None:
    """Raises UserError where these runs would write beside a pack, or rewrite counts whose records are gone with fewer (unless
    `replace`): somebody's numbers, which cannot be made again from what lies there."""
    planned = [RunKey(run.dataset, run.method, run.shots, run.seed) for run in runs]
    for folder in {run.folder.parents[3]: run for run in runs}:
        check_writable(folder, "choose another --results folder")
        if not replace and folder.is_dir() and (told := lost(folder, planned)):
            raise UserError(f"{told}; --replace does it, or choose another --results folder")


def publish(run: Run, derived: Derived) -> None:
    """Bring what is derived from the records up to date: scenario.yaml, records.csv and tables/ of the results folder."""
    folder = run.folder.parents[3]
    facts = run.scenario.model_dump(mode="json")
    (run.folder / "traceback.txt").unlink(missing_ok=True)
    scenario = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=120)
    with locks.waited(folder):
        contents = {"scenario.yaml": scenario} | derived(folder)
        with uninterrupted():
            for name, content in contents.items():
                _write_derived(folder / name, content)


def _write_derived(path: Path, content: str) -> None:
    remove_leftovers(path)
    write_atomic(path, content)


def tidy(finished: Sequence[Run], derived: Derived) -> None:
    """What a kill between a run's record and its end left behind is removed, records.csv and tables brought up to date."""
    for run in finished:
        shutil.rmtree(run.folder / "state", ignore_errors=True)
    for folder, run in {run.folder.parents[3]: run for run in finished}.items():
        wanted = derived(folder)
        if any(not (path := folder / name).exists() or path.read_bytes() != wanted[name].encode() for name in wanted):
            publish(run, derived)
