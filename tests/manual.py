"""The manual, README and docs/: its code blocks and the commands in its sentences."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).parent.parent
ABOVE = ["README.md", "CONTRIBUTING.md", "results/reference/README.md"]
PAGES = [*ABOVE, *sorted(f"docs/{path.name}" for path in TOP.glob("docs/*.md"))]
UNRUN = re.compile(r"^# not run in tests: \S", re.MULTILINE)  # in the first lines of a block, where its readers see it


class Block(NamedTuple):
    language: str
    title: str  # the name of the file that it is; "" for code that is run
    code: str

    @property
    def runs(self) -> bool:
        return not UNRUN.search("\n".join(self.code.splitlines()[:2]))


def blocks(page: str) -> list[Block]:
    found = re.findall(r'^```([^\s`]*)(?: title="([^"]+)")? *\n(.*?)^```$', (TOP / page).read_text(), re.DOTALL | re.MULTILINE)
    return [Block(*each) for each in found]


def titled(page: str, title: str) -> str:
    """The code of the block that is a file of this name."""
    (code,) = (block.code for block in blocks(page) if block.title == title)
    return code


def commands(code: str) -> Iterator[list[str]]:
    """The words of each line of a shell block, without comments."""
    for line in code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def spoken(page: str) -> list[str]:
    """The commands of lamm-cl in a page's sentences."""
    prose = re.sub(r"^```.*?^```$", "", (TOP / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(each.split()) for each in re.findall(r"`(lamm-cl [^`]+)`", prose)]
