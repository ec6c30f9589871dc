"""Files that are either whole or absent."""

import errno
import os
import tempfile
from pathlib import Path

FULL_OR_FORBIDDEN = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` in one step: a reader, or a crash at any moment, sees the old content or the new, never a part.

    Raises OSError (full disk, no permission), leaving the old file as it was and no temporary file behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
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
