"""Locks among hosts of one name, clocks that are ahead, foreign files, processes that were suspended, and interrupts."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import played
import pytest
from strange import soon
from test_locks import left_by, owner_of

from lamm_cl import files
from lamm_cl.cli import doors
from lamm_cl.config.cards import load_scenario
from lamm_cl.reports.derived import derived_files
from lamm_cl.results.runs import records_in
from lamm_cl.sweeping import locks
from lamm_cl.sweeping import publish as publishing
from lamm_cl.sweeping.execute import Settings, execute
from lamm_cl.sweeping.plan import plan

SETTINGS = Settings(None, Path("cache"), "cpu", 1)


def elsewhere(folder: Path, age: float = 0) -> Path:
    return left_by("elsewhere.0.1.token", folder, age)


# --- whose lock it is -----------------------------------------------------------------------------------------------


def test_hosts_of_one_name_are_told_apart_by_their_machine_and_boot(tmp_path, monkeypatch):
    names = set()
    for content in ("a", "b"):
        (tmp_path / "boot").write_text(content)
        monkeypatch.setattr(locks, "IDENTITY", (str(tmp_path / "boot"),))
        names.add(locks._here())

    assert len(names) == 2 and len({name.rpartition(".")[0] for name in names}) == 1


HOST = """
import os, sys, time
from pathlib import Path
from lamm_cl.sweeping import locks
folder, boot, done = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
locks.IDENTITY = (boot,)
locks._alive = lambda pid: pid == os.getpid()   # of the other host no process is seen here
for turn in range(5):
    with locks.waited(folder) as lock:
        (folder / "inside").touch(exist_ok=False)
        time.sleep(0.02)
        lock.check()
        (folder / "inside").unlink()
done.touch()
"""


def test_two_hosts_of_one_name_finish(tmp_path):
    """Each took the other's lock at once, since it saw no such process, and neither ever finished a run."""
    hosts = []
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        command = [sys.executable, "-c", HOST, str(tmp_path / "shared"), str(tmp_path / name), str(tmp_path / f"{name}.done")]
        hosts.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))

    assert [host.communicate(timeout=60)[1] for host in hosts] == ["", ""]
    assert (tmp_path / "a.done").exists() and (tmp_path / "b.done").exists()


# --- what else lies in a lock ----------------------------------------------------------------------------------------

FOREIGN = (".DS_Store", "Thumbs.db", ".nfs000000000004a8b100000001", "desktop.ini", "a.b." + "9" * 20 + ".token")


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_in_a_lock_belong_to_nobody(tmp_path, name):
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / name).touch()

    for _ in range(2):  # and again after the release
        with locks.held(tmp_path) as lock, pytest.raises(locks.Busy):
            lock.check()
            with locks.held(tmp_path):
                pass
    assert [path.name for path in (tmp_path / "lock").iterdir()] == [name] and not locks.is_held(tmp_path)


def test_a_stale_owner_among_foreign_files_is_followed(tmp_path):
    elsewhere(tmp_path, age=locks.STALE + 1)
    for name in FOREIGN:
        (tmp_path / "lock" / name).touch()

    for _ in range(2):
        with locks.held(tmp_path) as lock:
            lock.check()


def test_of_two_stale_owners_one_is_followed_and_none_stays(tmp_path):
    for token in ("a", "b"):
        (tmp_path / token).mkdir()
        old = left_by(f"elsewhere.0.1.{token}", tmp_path / token, age=locks.STALE + 1)
        (tmp_path / "lock").mkdir(exist_ok=True)
        old.rename(tmp_path / "lock" / old.name)

    with locks.held(tmp_path):
        owner_of(tmp_path)
    assert not (tmp_path / "lock").exists()


def test_a_folder_of_foreign_files_is_entered_by_one_at_a_time(tmp_path):
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / ".DS_Store").touch()
    inside, entered = [], []

    def enter():
        for _ in range(10):
            with locks.waited(tmp_path):
                inside.append(1)
                assert len(inside) == 1
                entered.append(1)
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(entered) == 40


def test_a_pid_that_no_system_has_is_dead(tmp_path):
    left_by(f"{locks._here()}.9999999999.token", tmp_path, age=0)
    with locks.held(tmp_path):
        pass


# --- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [600, 86400 * 365])
def test_a_time_of_the_future_is_counted_from_now_on(tmp_path, monkeypatch, ahead):
    """Of a host whose clock is ahead, or of files copied with their times: it was waited for until that time had come."""
    file = elsewhere(tmp_path, age=-ahead)
    with pytest.raises(locks.Busy), locks.held(tmp_path):
        pass
    assert file.stat().st_mtime < time.time() + 1

    monkeypatch.setattr(locks, "STALE", 0.2)
    with soon(10), locks.waited(tmp_path):
        assert not file.exists()


def test_who_waits_says_for_whom(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WORD", 0.1)
    monkeypatch.setattr(locks, "STALE", 0.6)
    elsewhere(tmp_path)
    heard = []
    with soon(10), locks.waited(tmp_path, heard.append):
        pass

    assert heard == [f"{tmp_path}: waiting for its lock (done by process 1 on elsewhere)"]


def test_who_does_not_wait_long_says_nothing(tmp_path):
    heard = []
    with locks.waited(tmp_path, heard.append):
        pass
    assert heard == []


def test_a_sweep_tells_for_whom_its_reports_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WORD", 0.05)
    monkeypatch.setattr(locks, "STALE", 0.5)
    [run] = planned(tmp_path, seeds=[1])
    owner, seen = elsewhere(run.folder.parents[3]), []

    def publish(*words):
        os.utime(owner)  # alive until now, however long the run took
        doors.publish(*words)

    with soon(20):
        execute([run], SETTINGS, seen.append, train=played.train, publish=publish)

    assert "waiting for its lock (done by process 1 on elsewhere)" in next(e.text for e in seen if e.kind == "waiting")
    assert [event.kind for event in seen][-1] == "finished"


# --- impossible places -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["/proc/none", "/proc/self/fd/99/x", "loop/x", "dangling/x", "x" * 300])
def test_a_folder_that_cannot_be_made_is_no_busy_lock(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("dangling").symlink_to("nowhere")
    for enter in (locks.held, locks.waited):
        with soon(5), pytest.raises(OSError) as caught, enter(Path(place)):
            pass
        assert files.refusal(caught.value)


def test_an_unlink_that_fails_at_release_leaves_a_lock_that_is_stale_at_once(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        with locks.held(tmp_path):
            patch.setattr(os, "unlink", lambda *_, **__: refuse())
            patch.setattr(Path, "unlink", lambda *_, **__: refuse())
    assert owner_of(tmp_path)

    with locks.held(tmp_path):
        pass
    assert not (tmp_path / "lock").exists()


def refuse():
    raise OSError(errno.EIO, os.strerror(errno.EIO))


# --- processes that were suspended --------------------------------------------------------------------------------------


def planned(results: Path, seeds, methods=("coop",)):
    return plan(load_scenario("demo"), results, datasets=["species"], methods=methods, seeds=seeds)


@pytest.mark.parametrize("moment", range(12))
def test_a_process_suspended_anywhere_in_publishing_never_brings_older_tables_back(tmp_path, monkeypatch, moment):
    """Before the n-th write of A its lock is taken over by B, which finishes a run and publishes."""
    first, second = planned(tmp_path, seeds=[1, 2])
    folder = first.folder.parents[3]
    played.train(first, SETTINGS, lambda at: None)
    writes, write = [], publishing.write_atomic

    def suspended(*arguments, **more):
        if len(writes) == moment:
            writes.append("B")
            [owner] = (folder / "lock").iterdir()
            owner.rename(owner.with_name("elsewhere.0.1.token"))  # B has the lock ...
            played.train(second, SETTINGS, lambda at: None)
            for name, content in derived_files(folder).items():
                files.write_atomic(folder / name, content)
            (folder / "lock" / "elsewhere.0.1.token").unlink()  # ... and has left it
        writes.append(arguments[0].name)
        write(*arguments, **more)

    monkeypatch.setattr(publishing, "write_atomic", suspended)
    publishing.publish(first, doors.derived)

    assert "B" in writes and len(records_in(folder)) == 2
    assert all((folder / name).read_text() == text for name, text in derived_files(folder).items())


def test_figures_drawn_under_a_lost_lock_are_drawn_again(tmp_path, monkeypatch):
    from lamm_cl.cli import results, run

    drawn = []

    def add(commands):
        for name in ("table", "plot"):
            command = commands.add_parser(name)
            command.add_argument("words", nargs="*")
            command.add_argument("--write", action="store_true")
            command.add_argument("--kind")
            command.set_defaults(command=lambda args, name=name: draw(name))

    def draw(name: str) -> int:
        if not drawn:
            [owner] = (tmp_path / "lock").iterdir()
            owner.unlink()
        drawn.append(name)
        return 0

    monkeypatch.setattr(results, "add", add)
    assert run._derive(load_scenario("demo"), tmp_path, with_page=False) == 0

    assert drawn == ["table", "table", "plot"]


# --- interrupts ------------------------------------------------------------------------------------------------------


class Interrupt(BaseException):
    pass


@pytest.fixture
def interrupts():
    """Several a millisecond after the block that waits for them has begun; each raises Interrupt once."""
    draw = random.Random(2)
    state = {"wanted": False}

    def ring(*_):
        if state["wanted"]:
            state["wanted"] = False
            raise Interrupt

    def until_one(work, longest=2e-3):
        with pytest.raises(Interrupt):
            state["wanted"] = True
            signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-5, longest))
            while state["wanted"]:
                work()

    before = signal.signal(signal.SIGALRM, ring)
    yield until_one
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def left(folder: Path) -> list[str]:
    """What is there of locks; it may go as one looks."""
    return [name for _, folders, files in os.walk(folder) for name in (*folders, *files) if "lock" in name]


def test_no_interrupt_leaves_a_lock_half_released(tmp_path, interrupts):
    """At whatever moment it comes: the lock is free and nothing of it is left, in this process that lives on."""

    def hold():
        with suppress(locks.Busy), locks.held(tmp_path / "run"):  # by us, who were interrupted and have not yet let go
            pass

    for _ in range(400):
        interrupts(hold)
        deadline = time.monotonic() + 60  # a busy disk takes seconds for a rename
        while left(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert left(tmp_path) == []
        with soon(60), locks.waited(tmp_path / "run"):
            pass


def test_no_interrupt_splits_writes_that_belong_together(tmp_path, interrupts):
    turn = iter(range(10**9))

    def both():
        number = str(next(turn))

        def work():
            (tmp_path / "a").write_text(number)
            files.write_atomic(tmp_path / "b", number)

        files.uninterrupted(work)

    for _ in range(300):
        interrupts(both)
        deadline = time.monotonic() + 60  # a busy disk takes seconds for a rename
        while (tmp_path / "a").exists() and time.monotonic() < deadline:
            if (tmp_path / "b").exists() and (tmp_path / "a").read_text() == (tmp_path / "b").read_text():
                break
        assert not list(tmp_path.glob(".*")) and len({path.read_text() for path in tmp_path.iterdir()}) <= 1


def test_handlers_of_signals_are_never_touched(tmp_path, interrupts):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for _ in range(100):
        interrupts(lambda: files.write_atomic(tmp_path / "x", "x"))

    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_work_that_no_interrupt_reaches_returns_and_raises_as_itself():
    assert files.uninterrupted(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        files.uninterrupted(lambda: 1 / 0)
