"""Files that are either whole or absent."""

import errno
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent  # where the files that the package ships lie
FULL_OR_FORBIDDEN = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM are heard when the block has ended. (In a thread that is not the first nothing hears them anyway.)"""
    heard: list[int] = []
    first = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if first}
    try:
        for number in before:
            signal.signal(number, lambda number, frame: heard.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in heard:
        signal.raise_signal(number)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` in one step: a reader, or a crash at any moment, sees the old content or the new, never a part.

    An interrupt waits for its end. Raises OSError (full disk, no permission), leaving the old file as it was and no
    temporary file behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    with uninterrupted():
        _replace(path, data)


def _replace(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:
            error.filename, error.filename2 = str(path), None  # a full disk does not say what it was asked to hold
        raise


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that killed writers of `path` left; for who alone may write it now."""
    for temporary in path.parent.glob(f".{path.name}.*"):
        temporary.unlink(missing_ok=True)


def refusal(error: OSError) -> str | None:
    """One line for a full disk or a lost permission; None for any other error."""
    if error.errno not in FULL_OR_FORBIDDEN:
        return None
    return f"{error.filename or 'writing'}: {error.strerror}; when that is mended, the same command goes on"
