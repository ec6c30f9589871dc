"""Runs, executed by one process or several. What trains and what publishes is handed in; nothing here imports torch."""

import math
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal

from lamm_cl.errors import UserError
from lamm_cl.files import refusal, remove_leftovers, stay_within, write_atomic
from lamm_cl.leaving import at_once
from lamm_cl.results.predictions import PREDICTIONS
from lamm_cl.sweeping import locks
from lamm_cl.sweeping.plan import Progress, Run, check_folder, complete

PATIENCE = 15  # seconds that an interrupted worker gets to finish the write in progress
RETRY = 0.5  # seconds before a run that another process does is looked at again
EVERY = 5  # seconds, at least, between two times that reports are brought up to date
SHARE = 0.005  # of a sweep's time, at most, goes into that before its end


@dataclass(frozen=True)
class Settings:
    """Where and how runs are executed: nothing here may change what a record says, but `linears`, which it says."""

    data_root: Path | None
    cache: Path
    device: str
    jobs: int
    save_every: float = 30  # seconds between saved states of a run; what a kill can cost, and an epoch
    checkpoint: bool = False  # activation checkpointing: less memory, more time, the same values
    logs: tuple[str, ...] = ()  # training curves to write beside a run: csv, tensorboard, wandb
    predictions: bool = False  # write what is predicted for each test image beside a run
    linears: str = "auto"  # frozen linear layers: plain, packed, or what is faster here (towers/selfcheck.py)


@dataclass(frozen=True)
class Event:
    """What happened to a run. `share` of it is done (0 to 1); `text` says where it is, or why it failed.

    `elsewhere`: another process does it just now.  `note`: what who reads its numbers must know.  Three are about the reports of
    a folder: `waiting` for who writes them now, `unpublished` where they cannot be brought up to date, and `published` where that
    was made good.
    """

    run: Run
    kind: Literal["started", "progress", "note", "finished", "failed", "elsewhere", "waiting", "unpublished", "published"]
    share: float = 0.0
    text: str = ""
    mistake: bool = False  # failed because of the user's files or flags, not because of a defect


Train = Callable[[Run, Settings, Callable[[Progress], None]], object]  # does one run: its record lies in the folder then
Publish = Callable[[Run, locks.Tell], None]  # brings the reports of a run's folder up to date; tells for whom it waits
Events = Generator[Event, None, None]
Place = Callable[[Sequence[Run], Settings, Train], Events]  # does runs, until each has ended; closed, it stops them


def execute(runs: Sequence[Run], settings: Settings, report: Callable[[Event], None], *, train: Train, publish: Publish,
            place: Place | None = None, clock: Callable[[], float] = time.monotonic) -> list[Event]:  # fmt: skip
    """Do the runs -> the events of those that failed. One that fails does not stop the others.

    train: does one run; a function that a worker process can import.  publish: brings reports up to date, after the first run,
    then now and then by the `clock`, and at the end; where it fails that is reported once, and tried again after the next run
    and at the end.  place: where runs are done (default: here, or in `settings.jobs` processes).

    A crash leaves traceback.txt in the run's folder. A run that another process does is looked at again until it is finished
    there, or free. On an interrupt the runs in progress stop (their state stays on disk) and the interrupt goes on to the
    caller.
    """
    failures = []
    reports = _Reports(publish, report, clock)
    if place is None:
        events = _here(runs, settings, train, report) if settings.jobs == 1 else _in_workers(runs, settings, train)
    else:
        events = place(runs, settings, train)
    try:
        for event in events:
            if event.kind == "finished":
                with suppress(OSError):
                    (event.run.folder / "traceback.txt").unlink(missing_ok=True)
                reports.of(event.run)
            if event.kind == "failed":
                failures.append(event)
                if not event.mistake:
                    _keep_traceback(event)
            report(event)
    finally:
        try:
            events.close()
        finally:
            reports.end()  # also after an interrupt: what is finished can be read
    return failures


class _Reports:
    """Publishing that costs a small share of a sweep, and never stops it: the records are there, and what follows from them
    can be made from them later."""

    def __init__(self, publish: Publish, report: Callable[[Event], None], clock: Callable[[], float]):
        self.publish, self.report, self.clock = publish, report, clock
        self.behind: Run | None = None  # the last that is finished and not in the reports
        self.failed = False  # the last attempt
        self.due = -math.inf

    def of(self, run: Run) -> None:
        self.behind = run
        if self.failed or self.clock() >= self.due:
            self.end()

    def end(self) -> None:
        if (run := self.behind) is None:
            return
        begin = self.clock()
        try:
            self.publish(run, lambda text: self.report(Event(run, "waiting", text=text)))
        except Exception as error:  # the boundary between runs, as for their training
            if not self.failed:
                told = _told(error) or f"{type(error).__name__}: {error}"
                self.report(Event(run, "unpublished", text=f"reports are not up to date: {told}", mistake=bool(_told(error))))
            self.failed = True
            return
        if self.failed:
            self.report(Event(run, "published"))
        self.behind, self.failed, now = None, False, self.clock()
        self.due = now + max(EVERY, (now - begin) / SHARE)


def _keep_traceback(event: Event) -> None:
    try:
        stay_within(event.run.folder.parents[3], event.run.folder)
        write_atomic(event.run.folder / "traceback.txt", event.text)
    except (OSError, UserError):  # it is told all the same
        return


def _here(runs: Sequence[Run], settings: Settings, train: Train, report: Callable[[Event], None]) -> Events:
    waiting = deque(runs)
    while waiting:
        run = waiting.popleft()
        yield Event(run, "started")
        event = outcome(run, settings, train, report)
        if event.kind == "elsewhere":
            waiting.append(run)
        yield event


def outcome(run: Run, settings: Settings, train: Train, tell: Callable[[Event], None]) -> Event:
    """Do one run, unless another process does it just now or did; what goes wrong is its own failure. Interrupts pass."""
    try:
        with locks.held(run.folder) as lock:
            check_folder(run.folder.parents[3], run.scenario)  # again: another process may have begun it
            if complete(run, settings.predictions):
                return Event(run, "finished", 1.0)
            for name in ("state", "logs"):
                stay_within(run.folder.parents[3], run.folder / name)
            _do(run, settings, train, lock, tell)
    except (locks.Busy, locks.Lost) as other:
        time.sleep(RETRY)
        return Event(run, "elsewhere", text=str(other))
    except Exception as error:  # the boundary between runs: told, kept in traceback.txt, and the others go on
        return _failure(run, error)
    return Event(run, "finished", 1.0)


def _do(run: Run, settings: Settings, train: Train, lock: locks.Lock, tell: Callable[[Event], None]) -> None:
    def progress(at: Progress) -> None:
        lock.check()
        tell(Event(run, "note", text=at.note) if at.note else Event(run, "progress", *_position(at)))

    for name in ("state/state.safetensors", "learned.safetensors", PREDICTIONS, "record.json"):
        remove_leftovers(run.folder / name)
    train(run, settings, progress)


def _failure(run: Run, error: Exception) -> Event:
    """A mistake, a full disk or a lost permission in one line; a defect with its traceback, whose last line tells."""
    if told := _told(error):
        return Event(run, "failed", text=told, mistake=True)
    return Event(run, "failed", text="".join(traceback.format_exception(error)))


def _told(error: Exception) -> str | None:
    return str(error) if isinstance(error, UserError) else refusal(error) if isinstance(error, OSError) else None


def _position(at: Progress) -> tuple[float, str]:
    """The share of the run that is done, and words for it."""
    waits = f"; {at.waits}" if at.waits else ""
    if at.experience == 0:
        return 0.0, f"untrained, test{waits}"
    epochs_done = at.epoch if at.stage == "test" else at.epoch - 1
    share = (at.experience - 1 + (epochs_done / at.epochs if at.epochs else 1)) / at.experiences
    epoch = f", epoch {at.epoch}/{at.epochs}" if at.epochs and at.stage != "test" else ""
    return share, f"experience {at.experience}/{at.experiences}{epoch}, {at.stage}{waits}"


class _Worker:
    """A process that does one run at a time, with a pipe to it: `run` is what it is doing now."""

    def __init__(self, settings: Settings, train: Train):
        context = get_context("spawn")
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=_work, args=(far, settings, train))  # no daemon: it starts decoders
        # Ctrl-C reaches the whole group of processes: from its first moment a worker leaves the decision to us. (What is
        # blocked here is heard afterwards; a child inherits the block.)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        far.close()
        self.run: Run | None = None

    def give(self, run: Run) -> Event:
        self.run = run
        with suppress(ConnectionError):  # it died while it was idle: `receive` tells
            self.pipe.send(run)
        return Event(run, "started")

    def receive(self) -> Event:
        """The next event of its run; a process that died is a failure of the run that it was doing."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):  # the latter also where it died in the middle of a word
            self.process.join()
            code = self.process.exitcode
            why = f"killed by {_signal(-code)}" if code and code < 0 else f"exit code {code}"
            hint = "; out of memory? try fewer --jobs" if code == -signal.SIGKILL else ""
            assert self.run is not None
            return Event(self.run, "failed", text=f"the worker process ended: {why}{hint}\n")


def _signal(number: int) -> str:
    known = {each.value: each.name for each in signal.Signals}
    return known.get(number, f"signal {number}")  # the real-time ones have no names


def _in_workers(runs: Sequence[Run], settings: Settings, train: Train) -> Events:
    waiting = deque(runs)
    workers: list[_Worker] = []
    try:
        while waiting or any(worker.run for worker in workers):
            while waiting and len(workers) < settings.jobs:
                workers.append(_Worker(settings, train))
                yield workers[-1].give(waiting.popleft())
            for pipe in wait([worker.pipe for worker in workers if worker.run]):
                worker = next(worker for worker in workers if worker.pipe is pipe)
                event = worker.receive()
                yield event
                if event.kind == "elsewhere":
                    waiting.append(event.run)
                if event.kind not in ("progress", "note"):
                    worker.run = None
                    if not worker.process.is_alive():
                        workers.remove(worker)
                    elif waiting:
                        yield worker.give(waiting.popleft())
    finally:
        _stop(workers)


def _stop(workers: Sequence[_Worker]) -> None:
    """An idle worker ends when its pipe does; a busy one is interrupted, and killed when it does not listen."""
    for worker in workers:
        worker.pipe.close()
        if worker.run:
            worker.process.terminate()
    deadline = time.monotonic() + PATIENCE
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _work(pipe: Connection, settings: Settings, train: Train) -> None:
    """The worker's life: runs come in, events go out, until the pipe ends (also when the parent is killed)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    # As an exception, so that a write in progress removes its temporary file.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        while True:
            pipe.send(outcome(pipe.recv(), settings, train, pipe.send))
    except (EOFError, ConnectionError):
        at_once(0)
