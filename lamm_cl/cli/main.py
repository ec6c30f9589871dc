"""The command line: parses, calls, prints. The only owner of the screen and the only reader of the environment.

A module for each command or family of commands, with its parser (`add`) beside what it does. Heavy imports stay inside the
commands' functions: `--help`, `list` and `show` answer at once.

Exit status: 0 done; 1 some runs failed; 2 the user's mistake, told in one line; 130 or 143 interrupted; 141 the reader of
the output went away.
"""

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from lamm_cl.cli import bench, cache, data, listing, packs, plan, predict, published, results, run
from lamm_cl.cli.screen import complain, say
from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.files import refusal
from lamm_cl.leaving import at_once


def command() -> NoReturn:
    """The program: one command, and out."""
    at_once(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command -> its exit status."""
    if sys.stdout is None:  # closed, as some daemons leave it
        complain("standard output is closed, and what a command says goes there; give it a file, or /dev/null")
        return 2
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        status = args.command(args)
        sys.stdout.flush()  # what cannot be written is told below
        return status
    except UserError as error:
        complain(str(error))
        return 2
    except OSError as error:
        if error.errno == errno.EPIPE:  # lamm-cl list methods | head; pipes to workers are looked after in sweep.py
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        if (told := refusal(error)) is None:
            raise
        complain(told)
        return 2
    except KeyboardInterrupt:
        complain("interrupted; finished runs are kept, the same command goes on from here")
        return 128 + signal.SIGINT
    except _Terminated:
        complain("terminated; finished runs are kept, the same command goes on from here")
        return 128 + signal.SIGTERM


class _Terminated(BaseException):
    """SIGTERM, on its way up through the same clean-up as Ctrl-C."""


def _terminated(signum: int, frame: object) -> NoReturn:
    raise _Terminated


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        near = ""
        if found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            near = did_you_mean(found[1], re.findall(r"[\w+-]+", found[2]))
        complain(f"{message}{near} (see {self.prog} --help)")
        sys.exit(2)


class _Version(argparse.Action):
    """Looked up when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        say(f"lamm-cl {version('lamm-cl')}")
        sys.exit(0)


def parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="lamm-cl",
        description="Continual learning with CLIP prompt learners: every method through one loop, on one stream.",
        epilog="Begin with: lamm-cl run demo",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version of lamm-cl")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for family in (run, plan, results, published, predict, packs, listing, data, bench, cache):
        family.add(commands)
    return parser
