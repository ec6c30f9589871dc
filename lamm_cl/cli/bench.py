"""bench: speed and memory, as ratios to the released amount of work."""

import argparse
from pathlib import Path

from lamm_cl.cli import arguments
from lamm_cl.cli.screen import new_table, say, show_table

GROUPS = ("text", "steps", "growth", "images", "experiences", "memory", "runs", "heads", "prompts", "counts")


def add(commands: argparse._SubParsersAction) -> None:
    text = "Measure the fast paths against the released amount of work, in one process, interleaved; minutes at ViT-B/16."
    parser = commands.add_parser("bench", help="measure speed and memory as ratios", description=text)
    parser.add_argument("--backbone", default="ViT-B-16-quickgelu", metavar="ARCH", help="open_clip architecture, random weights")
    number = {"type": arguments.positive, "metavar": "N"}
    parser.add_argument("--classes", **number, default=50, help="classes of the training steps (default 50)")
    parser.add_argument("--repeats", **number, default=2, help="turns; the least time counts (default 2)")
    arguments.add_device(parser)
    parser.add_argument("--only", action="append", choices=GROUPS, help="measure this group; give it again for several")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write {name, value, unit, ratio, target, met} entries")
    parser.set_defaults(command=_bench)


def _bench(args: argparse.Namespace) -> int:
    import json

    from lamm_cl.bench import workloads
    from lamm_cl.files import write_atomic
    from lamm_cl.towers.devices import device

    found = []
    for measure in workloads.measure(args.backbone, args.classes, args.repeats, device(args.device), args.only or GROUPS):
        found.append(measure)
        say(f"{measure.name}: {_figure(measure.value)} {measure.unit}  {measure.note}")
    table = new_table("what", "value", "ratio", "target", "met", "against")
    for m in found:
        ratio = "" if m.ratio is None else f"{m.ratio:.3g}"
        met = {True: "yes", False: "no", None: ""}[m.met]
        table.add_row(m.name, f"{_figure(m.value)} {m.unit}", ratio, m.target or "", met, m.note)
    show_table(table)
    if args.json:
        keys = ("name", "value", "unit", "ratio", "target", "met")
        write_atomic(args.json, json.dumps([{key: getattr(m, key) for key in keys} for m in found], indent=1) + "\n")
    return 0


def _figure(value: float) -> str:
    """Three digits, and no exponent where people read thousands."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
