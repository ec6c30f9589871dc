"""bench: speed and memory, as ratios to the released amount of work and as shares of what the machine allows."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lamm_cl.cli import arguments
from lamm_cl.cli.screen import new_table, say, show_table
from lamm_cl.errors import UserError

if TYPE_CHECKING:
    from lamm_cl.bench.instruments import Measure

GROUPS = ("limit", "text", "steps", "growth", "images", "experiences", "memory", "runs", "start", "commands", "heads", "prompts",
          "folders", "counts")  # fmt: skip
QUICK = ("limit", "text", "start", "commands", "counts")  # in under two minutes


def add(commands: argparse._SubParsersAction) -> None:
    text = "Measure the fast paths against the released amount of work and against the best matrix products, in one process, " \
           "interleaved; start and whole runs as processes. Many minutes at ViT-B/16; --quick in under two."  # fmt: skip
    parser = commands.add_parser("bench", help="measure speed and memory as ratios", description=text)
    parser.add_argument("--backbone", default="ViT-B-16-quickgelu", metavar="ARCH", help="open_clip architecture, random weights")
    number = {"type": arguments.positive, "metavar": "N"}
    parser.add_argument("--classes", **number, default=50, help="classes of the training steps (default 50)")
    parser.add_argument("--repeats", **number, help="turns; the least time counts (default 2; with --quick 1)")
    arguments.add_device(parser)
    parser.add_argument("--only", action="append", choices=GROUPS, help="measure this group; give it again for several")
    parser.add_argument("--quick", action="store_true", help=f"the short form, for every day: {', '.join(QUICK)}; less of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the measures, an entry each")
    parser.add_argument("--page", type=Path, metavar="FILE", help="also write them as tables, between the marks of docs/speed.md")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="measure nothing: take what --json wrote")
    parser.set_defaults(command=_bench)


def _bench(args: argparse.Namespace) -> int:
    groups = _groups(args)
    from lamm_cl.bench import page

    if args.page:
        page.with_tables(args.page, [])  # what is wrong with it is told now, not after minutes
    found = page.read(args.source) if args.source else list(_measured(args, groups))
    table = new_table("what", "value", "ratio", "target", "met", "against")
    for m in found:
        table.add_row(*page.cells(m))
    show_table(table)
    if args.json:
        page.write(args.json, found)
    if args.page:
        page.rewrite(args.page, found)
    return 0


def _groups(args: argparse.Namespace) -> tuple[str, ...]:
    """What is measured; UserError for what does not go together."""
    asked = tuple(args.only or ())
    if args.source:
        given = [word for word, is_given in (("--only", asked), ("--quick", args.quick), ("--json", args.json)) if is_given]
        if given:
            raise UserError(f"{given[0]}: nothing is measured with --from; expected one of the two")
    if args.quick and (others := [group for group in asked if group not in QUICK]):
        raise UserError(f"--only {others[0]}: is not in the short form; expected one of {', '.join(QUICK)}, or no --quick")
    return asked or (QUICK if args.quick else GROUPS)


def _measured(args: argparse.Namespace, groups: tuple[str, ...]) -> "Iterator[Measure]":
    """Each told as soon as it is there."""
    from lamm_cl.bench import page, workloads
    from lamm_cl.towers.devices import device

    amount = workloads.QUICK if args.quick else workloads.FULL
    repeats = args.repeats or (1 if args.quick else 2)
    for m in workloads.measure(args.backbone, args.classes, repeats, device(args.device), groups, amount):
        say(f"{m.name}: {page.figure(m.value)} {m.unit}  {m.note}")
        yield m
