"""plan: the runs of a scenario as a list, for whatever places work on machines."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from lamm_cl.cli import choice
from lamm_cl.cli.screen import say

if TYPE_CHECKING:
    from lamm_cl.sweeping.plan import Run

FORMATS = ("lines", "json")


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "plan",
        help="list the runs of a scenario",
        description="List the runs that 'lamm-cl run' with the same options would do, for any scheduler: each can be done alone, "
        "anywhere, in any order, by 'lamm-cl run SCENARIO ... --run NAME'. Nothing is written.",
    )
    choice.add(parser)
    parser.add_argument("--format", choices=FORMATS, default="lines", help="lines: names only (default: lines)")
    parser.add_argument("--unfinished", action="store_true", help="only runs without a record")
    parser.set_defaults(command=_plan)


def _plan(args: argparse.Namespace) -> int:
    from lamm_cl.sweeping.plan import made
    from lamm_cl.sweeping.shards import place_of

    runs = choice.chosen(choice.planned(args), args)
    done = made(runs)
    shown = [run for run in runs if not (args.unfinished and run.folder in done)]
    if args.format == "lines":
        say(*(place_of(run) for run in shown))
    else:
        facts = [_facts(run, run.folder in done) for run in shown]
        sys.stdout.write("[" + ",\n ".join(json.dumps(each) for each in facts) + "]\n")
    return 0


def _facts(run: "Run", finished: bool) -> dict:
    from lamm_cl.sweeping.shards import place_of

    return {"run": place_of(run), **run.identity, "folder": str(run.folder), "finished": finished}
