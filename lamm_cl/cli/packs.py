"""pack, unpack: finished runs in one file, which every command that reads results takes like a folder; merge: several as one."""

import argparse
from pathlib import Path

from lamm_cl.cli.screen import say


def add(commands: argparse._SubParsersAction) -> None:
    pack = commands.add_parser(
        "pack",
        help="put results into one file",
        description="Write all finished runs of RESULTS to one sealed file: their records and scenario.yaml. Every command that "
        "reads results takes the file, or a folder with it, in place of RESULTS.",
    )
    pack.add_argument("results", type=Path, metavar="RESULTS", help="results folder of a scenario, as results/demo")
    pack.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: RESULTS/records.pack")
    pack.add_argument("--with-tensors", action="store_true", help="the learned tensors too")
    pack.add_argument("--replace", action="store_true", help="also a FILE with runs that RESULTS has not, or one that is no pack")
    pack.set_defaults(command=_pack)
    unpack = commands.add_parser(
        "unpack",
        help="make a results folder of a pack",
        description="Write the runs of a pack, scenario.yaml, records.csv and tables to a new folder.",
    )
    unpack.add_argument("file", type=Path, metavar="FILE", help="a pack, or a folder with one")
    unpack.add_argument("-o", "--output", type=Path, metavar="DIR", required=True, help="a new or an empty folder")
    unpack.set_defaults(command=_unpack)
    merge = commands.add_parser(
        "merge",
        help="put results made apart into one folder",
        description="Write the runs of several results folders or packs of one scenario, made on different machines, to a new "
        "folder with records.csv and tables. Every record and file is checked; a run that is there twice must agree.",
    )
    merge.add_argument("results", type=Path, nargs="+", metavar="RESULTS", help="results folder of a scenario, or a pack")
    merge.add_argument("-o", "--output", type=Path, metavar="DIR", required=True, help="a new or an empty folder")
    merge.set_defaults(command=_merge)


def _pack(args: argparse.Namespace) -> int:
    from lamm_cl.files import write_atomic
    from lamm_cl.results import stored

    if not args.output:
        stored.check_writable(args.results, "say where with --output FILE")
    output = args.output or args.results / stored.PACK
    content = stored.pack(args.results, args.with_tensors)
    if output.exists() and not args.replace:
        stored.check_replaced(output, args.results)
    write_atomic(output, content)
    say(f"wrote {output}: {len(stored.stored(output))} runs, {len(content):,} bytes")
    return 0


def _unpack(args: argparse.Namespace) -> int:
    from lamm_cl.cli import doors
    from lamm_cl.files import write_atomic
    from lamm_cl.results import stored

    runs = stored.unpack(args.file, args.output)
    for name, content in doors.derived(args.output).items():
        write_atomic(args.output / name, content)
    say(f"wrote {args.output}: {runs} runs")
    return 0


def _merge(args: argparse.Namespace) -> int:
    from lamm_cl.cli import doors
    from lamm_cl.sweeping.merging import merge

    runs, twice = merge(args.results, args.output, doors.derived)
    say(f"wrote {args.output}: {runs} runs" + (f", {twice} were there twice and agree" if twice else ""))
    return 0
