"""What files hold, as sha256: each file is read once, and remembered by path, size, times and inode in the cache folder.

    <cache>/hashes/<key>.npz      of one listing: names (bytes, each ending in 0), facts (N, 4), sha256 (N, 32)

A file that is written again has another time of change, which no program can set, so it is read again.  A file that changed
less than SETTLED seconds before it was read is not remembered: it could change again within the clock's tick.
"""

import hashlib
import io
import os
import stat
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lamm_cl.errors import UserError
from lamm_cl.files import write_atomic

SETTLED = 2.0  # seconds; some file systems keep times in steps of two
THREADS = 8  # reading waits for disks and networks, hashing lets other threads run
BLOCK = 256  # files a thread takes at once
WHOLE = 2**20  # bytes; larger files are read in parts


class Known(NamedTuple):
    """facts (N, 4): size, time of the content, time of any change, inode; sha256 (N, 32)."""

    names: bytes
    facts: NDArray[np.int64]
    sha256: NDArray[np.uint8]


def of_files(folder: Path, names: Sequence[str], cache: Path | None, listing: str) -> NDArray[np.uint8]:
    """The sha256 (N, 32) of the files `names` below `folder`; `listing`: what keeps them apart from others of this folder."""
    key = hashlib.sha256(os.fsencode(folder.resolve()) + b"\0" + os.fsencode(listing)).hexdigest()
    kept = None if cache is None else cache / "hashes" / f"{key}.npz"
    joined = os.fsencode("".join(f"{name}\0" for name in names))
    facts, digests = _in_blocks(partial(_facts, folder), names, (4, np.int64)), np.zeros((len(names), 32), np.uint8)
    fresh = np.ones(len(names), bool)
    if known := kept and _read(kept):
        at, old = _places(known, joined, names)
        same = (known.facts[old] == facts[at]).all(axis=1)
        digests[at[same]], fresh[at[same]] = known.sha256[old[same]], False
    if not fresh.any():
        return digests
    todo = np.flatnonzero(fresh)
    digests[todo] = _in_blocks(partial(_digests, folder), [names[i] for i in todo], (32, np.uint8))
    if kept is not None:
        unsettled = facts[:, 1:3].max(axis=1) > time.time_ns() - SETTLED * 1e9
        facts[unsettled] = -1
        with suppress(OSError):  # a cache that cannot be written costs time and nothing else
            write_atomic(kept, _packed(Known(joined, facts, digests)))
    return digests


def of_file(path: Path, cache: Path | None) -> str:
    """The sha256 of one file, in hexadecimal digits; a process remembers it too."""
    return _of_file(path, cache, tuple(_facts(path.parent, [path.name])[0].tolist()))


@lru_cache(maxsize=16)
def _of_file(path: Path, cache: Path | None, facts: tuple[int, ...]) -> str:
    return of_files(path.parent, [path.name], cache, path.name)[0].tobytes().hex()


def _places(known: Known, joined: bytes, names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of the names are known -> their places here, and there."""
    if known.names == joined:
        everywhere = np.arange(len(names))
        return everywhere, everywhere
    there = {os.fsdecode(name): place for place, name in enumerate(known.names.split(b"\0")[:-1])}
    pairs = [(here, there[name]) for here, name in enumerate(names) if name in there]
    at, old = np.array(pairs, np.int64).reshape(-1, 2).T
    return at, old


def _in_blocks(work, names: Sequence[str], row: tuple[int, type]) -> NDArray:
    """`work` on blocks of names, in threads -> one row of numbers a name."""
    blocks = [names[start : start + BLOCK] for start in range(0, len(names), BLOCK)]
    if len(blocks) < 2:
        found = [work(block) for block in blocks]
    else:
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(work, blocks))
    return np.concatenate([np.zeros((0, row[0]), row[1]), *found])


def _facts(folder: Path, names: Sequence[str]) -> NDArray[np.int64]:
    rows = []
    for name in names:
        path = os.path.join(folder, name)
        try:
            found = os.stat(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, a device never ends
            raise UserError(f"{path}: no ordinary file; expected an image file")
        rows.append((found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & (2**63 - 1)))
    return np.array(rows, np.int64)


def _digests(folder: Path, names: Sequence[str]) -> NDArray[np.uint8]:
    joined = b"".join(_digest(os.path.join(folder, name)) for name in names)
    return np.frombuffer(joined, np.uint8).reshape(-1, 32)


def _digest(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size > WHOLE:
                return hashlib.file_digest(file, "sha256").digest()
            return hashlib.sha256(file.readall()).digest()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def _packed(known: Known) -> bytes:
    file = io.BytesIO()
    np.savez(file, names=np.frombuffer(known.names, np.uint8), facts=known.facts, sha256=known.sha256)
    return file.getvalue()


def _read(path: Path) -> Known | None:
    """What is remembered; None if nothing is, or if the file is damaged (a zip archive has checksums)."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            known = Known(arrays["names"].tobytes(), arrays["facts"], arrays["sha256"])
    except (OSError, EOFError, ValueError, LookupError, TypeError, zipfile.BadZipFile):
        return None
    N = known.names.count(0)
    fits = known.facts.shape == (N, 4) and known.sha256.shape == (N, 32)
    return known if fits and (known.facts.dtype, known.sha256.dtype) == (np.int64, np.uint8) else None
