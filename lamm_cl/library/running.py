"""run: what `lamm-cl run` does, from Python."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamm_cl.errors import UserError

if TYPE_CHECKING:
    from lamm_cl.config import libraries as config
    from lamm_cl.results.record import Record
    from lamm_cl.sweeping.execute import Event

__all__ = ["UserError", "opened", "places", "run"]

Library = str | Path | Sequence[str | Path]


def run(scenario: str | Path, *, methods: Sequence[str] = (), datasets: Sequence[str] = (), seeds: Sequence[int] = (),
        shots: Sequence[int | str] = (), backbone: str | None = None, results: str | Path = "results",
        data_root: str | Path | None = None, cache: str | Path | None = None, device: str = "auto", jobs: int = 1,
        other_code: bool = False, predictions: bool = False, library: "Library" = (), tell: Callable[[str], None] | None = None,
        progress: "Callable[[Event], None] | None" = None) -> "list[Record]":  # fmt: skip
    """Do the runs of a scenario that are not finished -> the records of all that were asked for, as the command makes them.

    scenario: a name that `lamm-cl list scenarios` shows, or a path (.yaml).  methods (or paths of cards), datasets, seeds,
    shots (numbers of training images a class, or "full"): in place of the scenario's; empty: its own.  backbone:
    "ARCH[:WEIGHTS]".  results: the records go to results/<scenario>/runs, records.csv and tables/ beside them; figures are
    drawn by plot_*.  predictions: also write predictions.csv.gz, a line an image, beside each record.  library: a folder with
    cards, scenarios and datasets of one's own, or several.  data_root, cache: default as on the command line.  device: auto, cpu,
    cuda.  jobs: processes; with more than one a script needs `if __name__ == "__main__":`.  tell: gets notes, a line each.
    progress: is told of every event.

    Raises UserError, in one line, for what a person can have got wrong, before anything is trained; RuntimeError if runs
    failed, after the others were done: the same call tries them again.

    >>> import lamm_cl
    >>> runs = lamm_cl.run("demo", methods=["zero-shot"], datasets=["digits"], seeds=[1])
    >>> [str(one) for one in runs]
    ['demo: digits/zero-shot/shots16-seed1']
    >>> runs[0].accuracy("own").shape  # (T + 1, T) in %: row i after i experiences, column j on those of experience j + 1
    (3, 2)
    """
    from lamm_cl.cli import choice, doors
    from lamm_cl.cli import run as command
    from lamm_cl.cli.datasets import Datasets
    from lamm_cl.results.file import read_record
    from lamm_cl.results.predictions import are_there
    from lamm_cl.sweeping.execute import Settings, execute
    from lamm_cl.sweeping.plan import made
    from lamm_cl.sweeping.publish import check_kept, tidy

    root, kept = places(data_root, cache)
    tell = tell or _silent
    for name, given in (("methods", methods), ("datasets", datasets), ("seeds", seeds), ("shots", shots)):
        if isinstance(given, str | int):
            raise UserError(f"{name}: expected a list, got {given!r}; write [{given!r}]")
    if odd := [each for each in seeds if type(each) is not int or not 0 <= each < 2**32]:
        raise UserError(f"seeds: expected whole numbers from 0 to {2**32 - 1}, got {odd[0]!r}")
    if wrong := [each for each in shots if each != "full" and (type(each) is not int or each < 1)]:
        raise UserError(f"shots: expected whole numbers from 1 on, or 'full', got {wrong[0]!r}")
    if type(jobs) is not int or jobs < 1:
        raise UserError(f"jobs: expected a whole number from 1 on, got {jobs!r}")
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device: expected auto, cpu or cuda, got {device!r}")
    named = {"datasets": [*map(str, datasets)], "methods": [*map(str, methods)]}
    lists: dict[str, list] = {**named, "shots": [*shots], "seeds": [*seeds]}
    runs = choice.listed(str(scenario), lists, Path(results), root, backbone, library=opened(library))
    command.check_writable(Path(results) / runs[0].scenario.name)
    done = made(runs)
    todo = [one for one in runs if one.folder not in done or (predictions and not are_there(one.folder))]
    check_kept(runs)
    of = Datasets(runs[0].scenario, root, kept)
    command.check_same(runs, done, of, kept, other_code=other_code, tell=tell)
    command.check_data(todo, of, tell=tell)
    tidy([one for one in runs if one.folder in done], doors.derived, cache=kept)
    for name in dict.fromkeys(one.dataset for one in todo):
        of(name).fingerprint  # noqa: B018  its images are read here once, and not by every worker
    if todo:
        if jobs > 1:
            os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
        settings = Settings(root, kept, device, min(jobs, len(todo)), predictions=predictions)
        failures = execute(todo, settings, _telling(tell, progress or _silent), train=doors.train, publish=doors.publish)
        if failures:
            told = [f"{event.run}: {event.text.strip().splitlines()[-1]}" for event in failures]
            if all(event.mistake for event in failures):
                raise UserError(failures[0].text)
            raise RuntimeError(f"{len(failures)} of {len(todo)} runs failed: " + "; ".join(told))
    return [read_record(one.folder / "record.json") for one in runs]


def _silent(_: object) -> None:
    pass


def _telling(tell: Callable[[str], None], progress: "Callable[[Event], None]") -> "Callable[[Event], None]":
    """Notes on a method are told once, beside the events."""
    told: set[str] = set()

    def report(event: "Event") -> None:
        if event.kind == "note" and event.text not in told:
            told.add(event.text)
            tell(f"note: {event.text}")
        progress(event)

    return report


def opened(library: Library) -> "config.Library":
    """The folders, and what installed packages bring."""
    from lamm_cl.config import libraries

    return libraries.opened([Path(each) for each in ([library] if isinstance(library, str | Path) else library)])


def places(data_root: str | Path | None, cache: str | Path | None) -> tuple[Path | None, Path]:
    """Where datasets and the cache lie, by default as on the command line."""
    from lamm_cl.cli import arguments

    given = argparse.Namespace(data_root=data_root and Path(data_root), cache=cache and Path(cache))
    return arguments.data_root(given), arguments.cache(given)
