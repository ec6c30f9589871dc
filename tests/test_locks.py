"""Locks: at most one owner at any time, whoever dies, and nothing left behind."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamm_cl.sweeping import locks

# Each of several processes enters the same folder again and again; `inside` is there while one of them is.
CONTENDER = """
import os, signal, sys
from pathlib import Path
from lamm_cl.sweeping import locks
folder, mine, dies = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
for turn in range(20):
    with locks.waited(folder):
        (folder / "inside").touch(exist_ok=False)
        if turn == dies:
            (folder / "inside").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        mine.write_text(str(turn + 1))
        (folder / "inside").unlink()
"""


def contender(folder: Path, mine: Path, dies: int = -1) -> subprocess.Popen:
    command = [sys.executable, "-c", CONTENDER, str(folder), str(mine), str(dies)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def owner_of(folder: Path) -> Path:
    (file,) = (folder / "lock").iterdir()
    return file


def left_by(owner: str, folder: Path, age: float) -> Path:
    """The lock of an owner that was seen last `age` seconds ago."""
    file = folder / "lock" / owner
    file.parent.mkdir(parents=True)
    file.touch()
    os.utime(file, (time.time() - age,) * 2)
    return file


def a_dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lock_has_one_owner_and_names_it(tmp_path):
    with locks.held(tmp_path), pytest.raises(locks.Busy, match=f"done by process {os.getpid()} on "):
        with locks.held(tmp_path):
            raise AssertionError("two owners")


def test_a_released_lock_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "runs" / "species" / "coop"
    with locks.held(folder):
        assert folder.is_dir()

    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_or_were_filled_stay(tmp_path):
    (tmp_path / "results").mkdir()
    with locks.held(tmp_path / "results"):
        pass
    with locks.held(tmp_path / "filled" / "run"):
        (tmp_path / "filled" / "record.json").touch()

    assert {path.name for path in tmp_path.rglob("*")} == {"results", "filled", "record.json"}


def test_an_interrupt_at_any_moment_reaches_the_caller_as_itself(tmp_path):
    """Not as another exception, and never in silence: threading.Thread.start would turn some into a RuntimeError."""

    class Interrupt(BaseException):
        pass

    def interrupt(*_):
        nonlocal waited_for
        if waited_for:
            waited_for = False
            raise Interrupt

    draw, before = random.Random(1), signal.signal(signal.SIGALRM, interrupt)
    try:
        for turn in range(1000):
            with pytest.raises(Interrupt):
                waited_for = True
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-5, 3e-3))
                while waited_for:
                    with locks.held(tmp_path / str(turn)):
                        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_what_a_process_left_that_was_killed_while_it_tried_is_removed(tmp_path):
    (tmp_path / ".lock.host.0.1.token").mkdir()
    (tmp_path / ".lock.host.0.1.token" / "host.0.1.token").touch()
    (tmp_path / f".lock.{locks._here()}.{a_dead_pid()}.token").mkdir()

    with locks.held(tmp_path):
        assert [path.name for path in tmp_path.glob(".*")] == [".lock.host.0.1.token"]  # who tries now, for all we know
    os.utime(tmp_path / ".lock.host.0.1.token", (time.time() - locks.STALE - 1,) * 2)
    with locks.held(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_lock_is_released_when_its_owner_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), locks.held(tmp_path):
        raise KeyboardInterrupt

    with locks.held(tmp_path):
        pass


def test_the_lock_of_a_dead_process_of_this_host_is_taken_over_at_once(tmp_path):
    left_by(f"{locks._here()}.{a_dead_pid()}.token", tmp_path, age=0)

    with locks.held(tmp_path):
        assert f".{os.getpid()}." in owner_of(tmp_path).name


def test_a_process_that_ended_and_was_not_waited_for_is_dead(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    left_by(f"{locks._here()}.{process.pid}.token", tmp_path, age=0)

    with locks.held(tmp_path):
        pass
    process.wait()


@pytest.mark.parametrize("owner", ["elsewhere.4026531836.{dead}.token", "{here}.{me}.token"])
def test_without_a_sign_of_life_for_the_stated_time_a_lock_is_taken_over_and_not_before(tmp_path, owner):
    """Of another host a pid says nothing; of this one it may be another process by now."""
    owner = owner.format(dead=a_dead_pid(), here=locks._here(), me=os.getpid())
    left_by(owner, tmp_path / "young", age=locks.STALE - 30)
    left_by(owner, tmp_path / "old", age=locks.STALE + 1)

    with pytest.raises(locks.Busy), locks.held(tmp_path / "young"):
        pass
    with locks.held(tmp_path / "old"):
        pass


def test_an_owner_gives_signs_of_life_and_notices_a_take_over(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT", 0.01)
    with locks.held(tmp_path) as lock:
        os.utime(lock.file, (0, 0))
        deadline = time.monotonic() + 10
        while lock.file.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lock.file.stat().st_mtime > 0
        lock.check()

        theirs = lock.file.rename(lock.file.with_name("elsewhere.0.1.token"))
        with pytest.raises(locks.Lost):
            lock.check()

    assert theirs.exists()


def test_many_processes_enter_one_at_a_time_though_some_are_killed_inside(tmp_path):
    """SIGKILL inside the lock: it stays, with a dead owner, for the others to take over, one of them each time."""
    deaths = [-1, 3, -1, 7]
    contenders = [contender(tmp_path / "shared", tmp_path / str(i), dies) for i, dies in enumerate(deaths)]

    errors = [process.communicate(timeout=120)[1] for process in contenders]

    assert errors == [""] * len(deaths)
    assert [(tmp_path / str(i)).read_text() for i in range(len(deaths))] == ["20", "3", "20", "7"]
    with locks.held(tmp_path / "shared"):  # the last one may have been killed
        pass
    assert [*(tmp_path / "shared").iterdir()] == []
