"""Records that were read already: a folder of many runs is parsed once in a process, however often it is asked for."""

import os
import time
from pathlib import Path

from lamm_cl.results.file import read_record
from lamm_cl.results.record import Record


class Memory:
    """Records by the path of their files, as long as these have the same times, size and inode.

    A file that changed within the last TICK seconds is not remembered: it might change again within one tick of the clock of
    its file system. What is held is limited by the sizes of the files.
    """

    TICK = 1.0
    LARGEST = 2**28  # bytes

    def __init__(self) -> None:
        self.known: dict[str, tuple[tuple[int, ...], Record]] = {}
        self.held = 0

    def read(self, path: Path) -> Record:
        """As `read_record`."""
        name, facts = os.path.abspath(path), facts_of(path)
        known = self.known.get(name)
        if known and known[0] == facts:
            return known[1]
        record = read_record(path)
        self._forget(name)
        # Facts of before the reading: what was written since has others. Without facts there was no file a moment ago.
        if tell_apart(facts):
            self.known[name] = facts, record
            self.held += facts[2]
            while self.held > self.LARGEST:
                self._forget(next(iter(self.known)))
        return record

    def _forget(self, name: str) -> None:
        if known := self.known.pop(name, None):
            self.held -= known[0][2]


def tell_apart(facts: tuple[int, ...]) -> bool:
    """Whether a file that changes again is sure to get others: not within one tick of a clock."""
    return bool(facts) and abs(time.time() - max(facts[:2]) / 1e9) > Memory.TICK


def facts_of(path: Path) -> tuple[int, ...]:
    """Times in ns, size, inode and device; () where nothing can be asked."""
    try:
        facts = os.stat(path)
    except OSError:
        return ()
    return facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino, facts.st_dev


_MEMORY = Memory()  # of this process; what it says follows from the files alone


def remembered(path: Path) -> Record:
    """As `read_record`; the file is parsed only if it is new here, or another than it was."""
    return _MEMORY.read(path)
