"""Who works in a folder now: locks between processes, on one machine or on several that share a file system.

A lock is a folder `lock` with one file in it, whose name is its owner: host.machine.pid.token. The owner touches the file
every HEARTBEAT seconds. All steps are renames, of which one succeeds when several try: a prepared folder onto `lock` (which
fails where something is in it), or the file of a stale owner to one's own name. What is not called as an owner is
(.DS_Store, Thumbs.db, .nfs0000...) is nobody's and stays.

In a process the lock is taken, kept and released by a thread of its own, its keeper: no signal is heard there, so that an
interrupt never finds a lock half taken or half released.
"""

import _thread
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

HEARTBEAT = 10  # seconds between signs of life
STALE = 120  # seconds without one, after which anybody may take a lock over
WORD = 10  # seconds of waiting until it is told for whom
TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
OWNER = re.compile(r"(?P<host>.+)\.(?P<machine>[^.]+)\.(?P<pid>[0-9]{1,10})\.(?P<token>[^.]+)")
PREFIX = re.compile(r"^\.[a-z]+\.")  # of what an owner has made and will remove
CLAIM = "nobody.0.0.claim"  # the owner for the moment in which a folder that holds only foreign files is taken
IDENTITY = ("/etc/machine-id", "/proc/sys/kernel/random/boot_id")  # hosts may share a name, virtual machines the first of these
Tell = Callable[[str], None]
Result = TypeVar("Result")


class Busy(Exception):
    """Another process holds the lock, or was as quick as we; the text says who."""


class Lost(Exception):
    """The lock was taken over: this process had given no sign of life for STALE seconds."""


class Lock:
    """A lock that is held: `file` is there as long as it is."""

    def __init__(self, file: Path):
        self.file = file

    def check(self) -> None:
        """Raises Lost if somebody took the lock over: to be asked before every write that it protects."""
        if not self.file.exists():
            raise Lost("the lock was taken over")


@contextmanager
def held(folder: Path) -> Iterator[Lock]:
    """Hold the lock of a folder, made if absent; folders made for it go again if they stay empty. Raises Busy."""
    life, begun, ended = (_thread.allocate_lock() for _ in range(3))
    begun.acquire()
    ended.acquire()
    outcome: list[Lock | BaseException | None] = []
    started = False
    try:
        with life:  # its end is one step of C: whatever happens below, the keeper hears of it
            _thread.start_new_thread(_keep, (folder, life, begun, ended, outcome))
            started = True
            with begun:
                pass
            if not isinstance(outcome[0], Lock):
                raise outcome[0]
            yield outcome[0]
    finally:
        if started:
            _let_end(ended, outcome)


def _let_end(ended: _thread.LockType, outcome: list) -> None:
    """Wait until a keeper has ended, interrupted or not: an exit before that would leave its lock to be taken over. A file
    server that is away is not waited for."""
    deadline = time.monotonic() + 5
    try:
        ended.acquire(timeout=5)
    except BaseException:
        while outcome[-1:] != [None] and time.monotonic() < deadline:
            time.sleep(0.001)
        raise


def _keep(folder: Path, life: _thread.LockType, begun: _thread.LockType, ended: _thread.LockType, outcome: list) -> None:
    """The keeper of a lock: takes it, gives signs of life until `life` ends, releases it; None is its last word."""
    made: list[Path] = []
    try:
        if life.acquire(blocking=False):
            raise Busy("nobody wants it any more")  # an interrupt came between: there is nobody to hear this either
        made += [path for path in (folder, *folder.parents) if not path.exists()]
        lock = Lock(_taken(folder / "lock"))
    except BaseException as error:  # Busy, or an impossible place: the caller's to hear
        _unmake(made)
        outcome.append(error)
        begun.release()
    else:
        outcome.append(lock)
        begun.release()
        while not life.acquire(timeout=HEARTBEAT):
            with suppress(OSError):  # lost: `check` tells; a file server that is away: the next beat
                os.utime(lock.file)
        _release(lock.file)
        _unmake(made)
    finally:
        outcome.append(None)
        ended.release()


def _unmake(folders: list[Path]) -> None:
    with suppress(OSError):  # not empty: something was written
        for path in folders:
            path.rmdir()


def _release(file: Path) -> None:
    """What cannot be removed is at least stale at once."""
    try:
        file.unlink(missing_ok=True)
    except OSError:
        with suppress(OSError):
            os.utime(file, (0, 0))
    with suppress(OSError):  # gone, another's by now, or foreign files are in it
        file.parent.rmdir()


@contextmanager
def waited(folder: Path, tell: Tell = lambda text: None, pause: float = 0.05) -> Iterator[Lock]:
    """As `held`, after waiting for whoever holds the lock, who is asked after every `pause` seconds. `tell` hears for whom, where
    it takes long."""
    word = time.monotonic() + WORD
    with ExitStack() as stack:
        while True:
            try:
                lock = stack.enter_context(held(folder))
                break
            except Busy as other:
                if time.monotonic() > word:
                    tell(f"{folder}: waiting for its lock ({other})")
                    word = time.monotonic() + STALE
                time.sleep(pause)
        yield lock


def under(folder: Path, work: Callable[[Lock], Result], tell: Tell = lambda text: None) -> Result:
    """What `work` returns under the lock of a folder, waited for; done again where the lock was lost meanwhile.

    Who was suspended for so long knows old facts, and may have written them over newer ones: the last word is a fresh one.
    """
    while True:
        with suppress(Lost), waited(folder, tell) as lock:
            result = work(lock)
            lock.check()
            return result


def is_held(folder: Path) -> bool:
    """Whether somebody holds the lock of a folder, or was killed while he did."""
    try:
        return bool(_owners(folder / "lock"))
    except OSError:
        return False


def name() -> str:
    """What this process may call a file or folder that it will remove, behind a prefix such as `.lock.`: who finds it can tell
    whether its owner is alive."""
    return f"{_here()}.{os.getpid()}.{secrets.token_hex(4)}"


def abandoned(folder: Path, prefix: str, now: float) -> Iterator[Path]:
    """What is called `prefix`.`name()` in a folder and has a dead or stale owner; `now` by the clock of the file system."""
    for left in folder.glob(f"{prefix}.*"):
        with suppress(Busy, OSError, TypeError):  # TypeError: it is called otherwise
            _look(left, now)
            yield left


def _taken(lock: Path) -> Path:
    """Become the owner -> the file that says so."""
    me = name()
    ready = lock.with_name(f".lock.{me}")
    _make(ready)
    try:
        (ready / me).touch()
        now = (ready / me).stat().st_mtime  # by the clock of the file system, as the heartbeats
        try:
            os.rename(ready, lock)
        except OSError as error:
            if error.errno not in TAKEN:
                raise
            _take_over(lock, me, now)
    except (FileNotFoundError, FileExistsError):  # whom we looked at went away, or a folder without an owner got one
        raise Busy("another process was quicker") from None
    finally:
        shutil.rmtree(ready, ignore_errors=True)
        with suppress(OSError):  # what cannot be removed is at least stale at once
            os.utime(ready, (0, 0))
    for left in abandoned(lock.parent, ".lock", now):  # by who was killed while he tried
        shutil.rmtree(left, ignore_errors=True)
    return lock / me


def _make(folder: Path) -> None:
    """Make a folder and its parents, which others may remove as we make them: they were empty. Raises OSError where nothing
    can be made."""
    for turn in range(20):
        try:
            return folder.mkdir(parents=True)
        except (FileNotFoundError, FileExistsError):
            if turn == 19:
                raise
            time.sleep(0.001 * turn)


def _take_over(lock: Path, me: str, now: float) -> None:
    """Put our name in the place of a stale owner's, or into a folder where there is none. Raises Busy; FileNotFoundError if the
    owner just went."""
    owners = _owners(lock)
    for owner in owners:
        _look(owner, now)
    if not owners:
        if not any(lock.iterdir()):
            raise FileNotFoundError  # it is being released
        os.close(os.open(lock / CLAIM, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        owners = [lock / CLAIM]
    os.utime(owners[0])  # first, so that the lock is never ours and stale
    os.rename(owners[0], lock / me)
    try:
        for other in _owners(lock):
            if other.name != me:
                _look(other, now)
                with suppress(OSError):  # stale as well
                    other.unlink()
    except BaseException:  # another was quicker, in a way that his rename did not stop ours
        (lock / me).unlink(missing_ok=True)
        raise


def _look(owner: Path, now: float) -> None:
    """Raises Busy unless the owner is dead or stale; `now` by the clock of the file system."""
    named = OWNER.fullmatch(PREFIX.sub("", owner.name))
    seen = owner.stat().st_mtime
    if f"{named['host']}.{named['machine']}" == _here() and not _alive(int(named["pid"])):
        return
    if seen > now + HEARTBEAT:  # a clock that is ahead: from here on by ours
        with suppress(OSError):
            os.utime(owner)
    if now - seen < STALE:
        raise Busy(f"done by process {named['pid']} on {named['host']}")


def _owners(lock: Path) -> list[Path]:
    """The files in a lock that are called as owners are, in the same order for everybody."""
    return sorted(path for path in lock.iterdir() if OWNER.fullmatch(path.name))


def _here() -> str:
    """The host's name, and what no other host shares: its machine, its boot, and which processes a pid counts."""
    facts = []
    for path in IDENTITY:
        with suppress(OSError):
            facts.append(Path(path).read_text())
    facts = facts or [str(uuid.getnode())]  # not Linux: the address of its network card
    with suppress(OSError):
        facts.append(os.readlink("/proc/self/ns/pid"))
    machine = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
    return f"{platform.node().replace('/', '-') or 'localhost'}.{machine}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    try:  # a zombie has ended, though nobody asked for its exit status
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True
