"""Files: written whole or not at all, read only where they are files, and never written through a link that leads elsewhere."""

import _thread
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from lamm_cl.errors import UserError

PACKAGE = Path(__file__).resolve().parent  # where the files that the package ships lie
LARGEST_TEXT = 500_000_000  # bytes of a record, a list or a table: a million image ids take ten million
LARGEST_TENSORS = 1 << 40
# What a place can do to whoever writes or reads there: none of it is a defect of ours, all of it is told in one line.
CIRCUMSTANCES = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR),
    *(errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP, errno.ENAMETOOLONG, errno.ENODEV, errno.ENXIO, errno.EINVAL),
    *(errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOLCK, errno.EINTR, errno.EBUSY, errno.ETXTBSY),
    *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN, errno.EREMOTEIO, errno.EXDEV, errno.EMLINK),
}
Result = TypeVar("Result")


# --- reading what others may have put there -----------------------------------------------------------------------------


def open_regular(path: Path, limit: int = LARGEST_TENSORS) -> BufferedReader:
    """A file, opened for reading. OSError for whatever else lies there, and for more than `limit` bytes.

    A pipe would keep its reader waiting for ever and a device has no end: nothing here waits for either.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        facts = os.fstat(handle)
        if stat.S_ISDIR(facts.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "is a pipe or a device; expected a file", str(path))
        if facts.st_size > limit:
            raise OSError(errno.EFBIG, f"is larger than {limit:,} bytes", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path, limit: int = LARGEST_TEXT) -> bytes:
    """The content of a file; OSError as `open_regular`."""
    with open_regular(path, limit) as file:
        content = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1) or b""
    if len(content) > limit:  # it grew, or told no size
        raise OSError(errno.EFBIG, f"is larger than {limit:,} bytes", str(path))
    return content


def key_of(facts: dict[str, Any]) -> str:
    """What a file of a cache is called, by what decides its content."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


# --- writing ------------------------------------------------------------------------------------------------------------


def uninterrupted(work: Callable[[], Result]) -> Result:
    """What `work` returns; an interrupt (Ctrl-C, SIGTERM) is heard when it has ended, or before it has begun.

    Python hears signals in its first thread only: what another one does cannot be cut off, and no handler need be changed.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return work()
    ticket, ended = [True], _thread.allocate_lock()
    outcome: list[tuple[Any, BaseException | None]] = []

    def body() -> None:
        with suppress(IndexError):
            ticket.pop()  # one of two gets it: who works, or who calls the work off
            try:
                outcome.append((work(), None))
            except BaseException as error:
                outcome.append((None, error))
        ended.release()

    ended.acquire()
    try:
        _thread.start_new_thread(body, ())
        with ended:
            pass
    except BaseException:
        with suppress(IndexError):
            ticket.pop()
            raise
        while not outcome:
            with suppress(BaseException), ended:  # one interrupt is as good as two
                pass
        raise
    result, error = outcome.pop()
    if error is not None:
        raise error
    return result


def write_atomic(path: Path, content: bytes | str, within: Path | None = None) -> None:
    """Replace `path` in one step: a reader, or a crash at any moment, sees the old content or the new, never a part.

    An interrupt waits for its end. Raises OSError (full disk, no permission), leaving the old file as it was and no
    temporary file behind; UserError where a link leads out of `within`.
    """
    if within is not None:
        stay_within(within, path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    uninterrupted(lambda: _replace(path, data))


def write_new(path: Path, content: str) -> None:
    """As `write_atomic`, but FileExistsError where there is something already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    uninterrupted(lambda: _replace(path, content.encode(), new=True))


def _replace(path: Path, data: bytes, new: bool = False) -> None:
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        if new:
            os.link(temporary, path)
            os.unlink(temporary)
        else:
            os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # the first error is the one to tell
            if temporary is not None:
                os.unlink(temporary)
        if isinstance(error, OSError) and error.errno:
            error.filename, error.filename2 = str(path), None  # a full disk does not say what it was asked to hold
        raise


def check_free(folder: Path) -> None:
    """UserError unless there is nothing here, or an empty folder."""
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise UserError(f"{folder}: is in the way; expected a new or an empty folder")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside a free one, which it becomes at the end; where that is not reached nothing is left of it."""
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=f".{folder.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def stay_within(folder: Path, path: Path) -> None:
    """UserError if a link on the way from `folder` to `path` leads out of it: it may be a stranger's folder. (That `folder`
    itself is a link is its owner's decision.)"""
    home, real = os.path.realpath(folder), os.path.realpath(path)
    if real != home and not real.startswith(home.rstrip(os.sep) + os.sep):
        raise UserError(f"{path}: leads out of {folder} by a link; nothing is written through it, remove the link")


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that killed writers of `path` left; for who alone may write it now."""
    for temporary in path.parent.glob(f".{path.name}.*"):
        with suppress(OSError):  # nobody reads it: it may as well stay
            temporary.unlink()


# --- telling ------------------------------------------------------------------------------------------------------------


def refusal(error: OSError) -> str | None:
    """One line for what a place does to its user: a full disk, a lost permission, a server that is away; None for any other
    error."""
    if error.errno not in CIRCUMSTANCES:
        return None
    where = error.filename
    if where is None and error.errno == errno.ENOENT:
        try:
            os.getcwd()
        except FileNotFoundError:
            where = "the current folder"
        else:
            return None  # no place has said so
    where = os.fsdecode(where) if isinstance(where, bytes | str) else "reading or writing"
    return f"{where}: {error.strerror}; when that is mended, the same command goes on"
