"""Who works in a folder now: locks between processes, on one machine or on several that share a file system.

A lock is a folder `lock` with one file in it, whose name is its owner: host.namespace.pid.token. The owner touches the
file every HEARTBEAT seconds. All steps are renames, of which one succeeds when several try: a prepared folder onto
`lock` (which fails where an owner is in it), or the file of a stale owner to one's own name.
"""

import _thread
import errno
import os
import platform
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

HEARTBEAT = 10  # seconds between signs of life
STALE = 120  # seconds without one, after which anybody may take a lock over
TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


class Busy(Exception):
    """Another process holds the lock, or was as quick as we; the text says who."""


class Lost(Exception):
    """The lock was taken over: this process had given no sign of life for STALE seconds."""


class Lock:
    """A lock that is held: `file` is there as long as it is."""

    def __init__(self, file: Path):
        self.file = file
        self.mine = threading.Lock()
        self.mine.acquire()
        # No threading.Thread: its start waits for the thread, and an interrupt in that wait would be lost (RuntimeError).
        _thread.start_new_thread(self._beat, ())

    def check(self) -> None:
        """Raises Lost if somebody took the lock over."""
        if not self.file.exists():
            raise Lost("the lock was taken over")

    def _beat(self) -> None:
        while not self.mine.acquire(timeout=HEARTBEAT):
            with suppress(OSError):  # lost: `check` tells; a file server that is away: the next beat
                os.utime(self.file)

    def release(self) -> None:
        self.mine.release()
        self.file.unlink(missing_ok=True)
        with suppress(OSError):  # gone, or another's by now
            self.file.parent.rmdir()


@contextmanager
def held(folder: Path) -> Iterator[Lock]:
    """Hold the lock of a folder, made if absent; folders made for it go again if they stay empty. Raises Busy."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        lock = Lock(_taken(folder / "lock"))
        try:
            yield lock
        finally:
            lock.release()
    finally:
        with suppress(OSError):  # not empty: something was written
            for path in made:
                path.rmdir()


@contextmanager
def waited(folder: Path) -> Iterator[Lock]:
    """As `held`, after waiting for whoever holds the lock: for what takes seconds."""
    with ExitStack() as stack:
        while True:
            try:
                lock = stack.enter_context(held(folder))
                break
            except Busy:
                time.sleep(0.05)
        yield lock


def _taken(lock: Path) -> Path:
    """Become the owner -> the file that says so."""
    me = f"{_here()}.{os.getpid()}.{secrets.token_hex(4)}"
    ready = lock.with_name(f".lock.{me}")
    try:
        ready.mkdir(parents=True)
        (ready / me).touch()
        now = (ready / me).stat().st_mtime  # by the clock of the file system, as the heartbeats
        try:
            os.rename(ready, lock)
        except OSError as error:
            if error.errno not in TAKEN:
                raise
            _take_over(lock, me, now)
    except (FileNotFoundError, FileExistsError):  # the latter: the folder was there for mkdir, and gone when it looked
        raise Busy("another process was quicker") from None
    finally:
        shutil.rmtree(ready, ignore_errors=True)
    for left in lock.parent.glob(".lock.*"):  # by who was killed here, or is about to learn that we were quicker
        shutil.rmtree(left, ignore_errors=True)
    return lock / me


def _take_over(lock: Path, me: str, now: float) -> None:
    """Put our name in the place of a stale owner's. Raises Busy; FileNotFoundError if the owner just went."""
    owner = next(lock.iterdir(), None)
    if owner is None:
        raise FileNotFoundError
    host, pid, _ = owner.name.rsplit(".", 2)
    dead = host == _here() and not _alive(int(pid))
    if not dead and now - owner.stat().st_mtime < STALE:
        raise Busy(f"done by process {pid} on {host.rpartition('.')[0]}")
    os.utime(owner)  # first, so that the lock is never ours and stale
    os.rename(owner, lock / me)


def _here() -> str:
    """The host, and which processes a pid counts: containers of one host may share its name."""
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        namespace = "0"  # not Linux
    return f"{platform.node().replace('/', '-')}.{namespace}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # a zombie has ended, though nobody asked for its exit status
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True
