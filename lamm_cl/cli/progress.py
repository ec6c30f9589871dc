"""How far a command is: of a sweep, plain lines in a file or a pipe and live bars on a terminal; of a check, one bar."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lamm_cl.cli.screen import console, duration, plain, say

if TYPE_CHECKING:
    from lamm_cl.sweeping.execute import Event
    from lamm_cl.sweeping.plan import Run


class _Progress:
    """What is done of a sweep, as a share of all its runs, and the time that is left at this pace."""

    def __init__(self, todo: "list[Run]", planned: int):
        self.total, self.skipped = len(todo), planned - len(todo)
        self.start = time.monotonic()
        self.done = self.failed = 0
        self.shares: dict[Path, float] = {}
        self.sum = 0.0  # of the shares
        self.unpublished: Event | None = None
        self.told: set[str] = set()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        skipped = f", {self.skipped} were finished before" if self.skipped else ""
        took = duration(time.monotonic() - self.start)
        say(f"{self.done - self.failed} of {self.total} runs finished in {took}{skipped}")

    def report(self, event: "Event") -> None:
        if event.kind == "note":
            if event.text not in self.told:  # the same of all runs of a method
                self.told.add(event.text)
                self.note(f"note: {event.text}")
            return
        if event.kind in ("waiting", "unpublished", "published"):
            if event.kind != "waiting":
                self.unpublished = event if event.kind == "unpublished" else None
            self.note(event.text or "reports are up to date again")
            return
        ended = event.kind in ("finished", "failed")
        self.done += ended
        self.failed += event.kind == "failed"
        share, folder = 1.0 if ended else event.share, event.run.folder
        self.sum += share - self.shares.get(folder, 0.0)
        self.shares[folder] = share
        self.show(event)

    def show(self, event: "Event") -> None:
        raise NotImplementedError

    def note(self, text: str) -> None:
        say(f"{time.strftime('%H:%M:%S')}  {text}")

    @property
    def share(self) -> float:
        return self.sum / self.total

    def left(self) -> str:
        if self.share <= 0:
            return "?"
        return duration((time.monotonic() - self.start) * (1 - self.share) / self.share)


class Lines(_Progress):
    """Plain lines, for files and pipes: each run's end, and every half minute where a long run is."""

    EVERY = 30  # seconds

    def __enter__(self) -> "Lines":
        self.last = self.start
        skipped = f", {self.skipped} finished before" if self.skipped else ""
        say(f"{self.total} runs to do{skipped}")
        return self

    def show(self, event: "Event") -> None:
        if event.kind == "started" or (event.kind in ("progress", "elsewhere") and time.monotonic() - self.last < self.EVERY):
            return
        self.last = time.monotonic()
        what = event.text if event.kind in ("progress", "elsewhere") else event.kind
        clock = time.strftime("%H:%M:%S")
        say(f"{clock} {self.share:4.0%}  {self.done}/{self.total}  {event.run}: {what}; {self.left()} left")


class Bars(_Progress):
    """A live display, for terminals: all runs, and below them the runs in progress."""

    def __enter__(self) -> "Bars":
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        what, where = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[at]}"))
        self.bars = Progress(what, BarColumn(), TaskProgressColumn(), where, console=console(), transient=True)
        self.bars.__enter__()
        self.overall = self.bars.add_task(f"0/{self.total} runs", total=1.0, at="")
        self.tasks: dict[Path, int] = {}
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.__exit__(None, None, None)
        super().__exit__()

    def show(self, event: "Event") -> None:
        folder = event.run.folder
        if event.kind == "started":
            self.tasks[folder] = self.bars.add_task(plain(str(event.run)), total=1.0, at="")
        elif event.kind == "progress":
            self.bars.update(self.tasks[folder], completed=event.share, at=plain(event.text))
        else:
            self.bars.remove_task(self.tasks.pop(folder))
        self.bars.update(
            self.overall, completed=self.share, description=f"{self.done}/{self.total} runs", at=f"{self.left()} left"
        )

    def note(self, text: str) -> None:
        self.bars.console.print(plain(text), markup=False)


@contextmanager
def checking() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if not console().is_terminal:
        yield lambda dataset, done, total: None
        return
    from rich.progress import Progress

    with Progress(console=console(), transient=True) as bars:
        tasks: dict[str, int] = {}

        def show(dataset: str, done: int, total: int) -> None:
            if dataset not in tasks:
                tasks[dataset] = bars.add_task(dataset, total=total)
            if done % 100 == 0 or done == total:
                bars.update(tasks[dataset], completed=done)

        yield show
