"""The screen, and how things are written on it: lines, tables of rich, durations.

Results go to stdout, mistakes and failures in one line each to stderr.
"""

import errno
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def say(*lines: str) -> None:
    """A line each, with what a terminal would obey escaped: names and paths come from somebody's files."""
    for line in lines:
        print(escaped(line), flush=True)


def complain(message: str) -> None:
    if sys.stderr is not None:
        print(f"lamm-cl: {plain(message)}", file=sys.stderr)


def plain(text: str) -> str:
    """In one line, with single spaces."""
    return escaped(" ".join(text.split()))


def escaped(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def console() -> "Console":
    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            """Told as `print` tells it, where rich would exit with status 1."""
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    # A file or a pipe has no width of its own: rich would fold tables at 80 columns.
    return Screen(width=None if sys.stdout.isatty() else 160, highlight=False)


def new_table(*heads: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def show_table(table: "Table") -> int:
    console().print(table)
    return 0
