"""The feature bank on disk: arrays under a key made of everything that decides their content, each with its checksum.

    <cache>/features/<2 hex digits>/<key>.npy      the array, memory-mapped when read
    <cache>/features/<2 hex digits>/<key>.json     the facts of the key, and the sha256 of the array's file

Entries are written whole or not at all, so several processes may share a bank. Those that need the same entry at the same time
make it once: a lock lies beside it meanwhile (<key>.making), which is taken over from who was killed.  A damaged entry is
found by its checksum and made again.  Nothing here imports torch.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lamm_cl.files import key_of, open_regular, read_regular, write_atomic
from lamm_cl.sweeping import locks

PAUSE = 0.5  # seconds between two looks at an entry that another process makes
LEFT = 1 / 24  # days after which a temporary file has no writer any more


@dataclass(frozen=True)
class Entry:
    path: Path
    bytes: int
    whole: bool
    days: float  # since it was made


def get_all(bank: Path, wanted: dict[str, dict], make: Callable[[], dict[str, np.ndarray]],
            tell: locks.Tell = lambda text: None) -> dict[str, np.ndarray]:  # fmt: skip
    """The arrays of several facts (JSON types) by name, memory-mapped; made together if any is absent or damaged, by one process
    while others wait: `tell` hears for whom."""
    paths = {name: place(bank, facts) for name, facts in wanted.items()}
    if broken := [name for name, path in paths.items() if not intact(path)]:
        with ExitStack() as stack:
            for path in sorted(paths[name] for name in broken):  # in one order, so that nobody waits in a circle
                stack.callback(_remove_empty, making := path.with_suffix(".making"))
                stack.enter_context(locks.waited(making, tell, PAUSE))
            broken = [name for name in broken if not intact(paths[name])]  # what others made meanwhile is there
            for name, array in make().items() if broken else ():
                if name in broken:
                    file = io.BytesIO()
                    np.save(file, array, allow_pickle=False)
                    write_atomic(paths[name], file.getvalue())
                    facts = wanted[name] | {"sha256": digest(paths[name])}
                    write_atomic(paths[name].with_suffix(".json"), json.dumps(facts, sort_keys=True))
    return {name: np.load(path, mmap_mode="c", allow_pickle=False) for name, path in paths.items()}


def _remove_empty(folder: Path) -> None:
    """The last of several that waited there does it."""
    with suppress(OSError):
        folder.rmdir()


def get(bank: Path, facts: dict, make: Callable[[], np.ndarray], tell: locks.Tell = lambda text: None) -> np.ndarray:
    """As `get_all`, of one array."""
    return get_all(bank, {"": facts}, lambda: {"": make()}, tell)[""]


def place(bank: Path, facts: dict) -> Path:
    key = key_of(facts)
    return bank / key[:2] / f"{key}.npy"


def intact(path: Path) -> bool:
    """Whether an entry is whole: the checksum beside it is that of its bytes."""
    try:
        return json.loads(read_regular(path.with_suffix(".json")))["sha256"] == digest(path)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entries(bank: Path, check: bool = True) -> Iterator[Entry]:
    """All entries, in the order of their keys; `check` reads every byte."""
    for path in sorted(bank.glob("*/*.npy")):
        yield entry_at(path, intact(path) if check else True)


def leftovers(bank: Path) -> Iterator[Entry]:
    """Temporary files of writers that were killed: those that nobody has written to for LEFT days."""
    for path in sorted(bank.glob("*/.*")):
        with suppress(FileNotFoundError):  # its writer is alive and has just finished
            if (entry := entry_at(path, whole=False)).days >= LEFT:
                yield entry


def entry_at(path: Path, whole: bool) -> Entry:
    facts = path.stat()
    return Entry(path, facts.st_size, whole, (time.time() - facts.st_mtime) / 86400)


def prune(bank: Path, older_than: float) -> list[Entry]:
    """Remove leftovers, damaged entries and those older than so many days -> what was removed; entries are made again when
    needed."""
    removed = [*leftovers(bank), *(entry for entry in entries(bank) if not entry.whole or entry.days >= older_than)]
    for entry in removed:
        entry.path.unlink(missing_ok=True)
        entry.path.with_suffix(".json").unlink(missing_ok=True)
    return removed
