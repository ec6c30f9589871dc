"""table, plot, compare, report, verify: what is read from the records of finished runs, and whether it can be trusted."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from lamm_cl.cli import arguments
from lamm_cl.cli.screen import console, escaped, plain, say
from lamm_cl.errors import UserError

RESULTS = "results folder of a scenario, as results/demo, or a pack of one"
KINDS = (
    *("degradation", "degradation-per-dataset", "incremental", "base-to-new", "ablation", "domain-generalisation"),
    *("chain", "ranks", "cost", "few-shot"),
)
FIGURES = ("forgetting", "incremental", "matrix", "few-shot", "class-drops", "critical-difference", "cost",
           "confusion")  # fmt: skip
FORMATS = ("terminal", "md", "csv", "json", "tex", "html")


def add(commands: argparse._SubParsersAction) -> None:
    for add_command in (_add_table, _add_plot, _add_compare, _add_report, _add_verify):
        add_command(commands)


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help=RESULTS)


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", default="terminal", choices=FORMATS, help="how")


def _add_table(commands: argparse._SubParsersAction) -> None:
    table = commands.add_parser(
        "table",
        help="print a table of results",
        description="Print a table of the finished runs, in %, mean and standard deviation over seeds; in rows of "
        "their own, what the papers published in the same setting, and chance.",
    )
    _add_results(table)
    table.add_argument("--kind", default="degradation", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    _add_format(table)
    table.add_argument("--write", action="store_true", help="also write the files of RESULTS/tables")
    table.add_argument("--output", type=Path, metavar="DIR", help="write them to DIR instead; of one RESULTS")
    text = "write them also where records.csv has counts whose records are gone, and records.csv with them"
    table.add_argument("--replace", action="store_true", help=text)
    table.set_defaults(command=_table)


def _table(args: argparse.Namespace) -> int:
    from lamm_cl.reports import builders
    from lamm_cl.reports.derived import write_tables
    from lamm_cl.results.csv import write_records_csv

    writing = args.write or args.replace or args.output is not None
    shown = builders.tables(args.results, args.kind)
    if writing:
        _check_writable(args.results, args.output, args.replace)
    _print_tables(shown, args.format)
    for folder in args.results if writing else ():
        paths = write_tables(folder, args.output)
        if args.replace and not args.output:
            paths.append(write_records_csv(folder))
        for path in paths:
            say(f"wrote {path}")
    return 0


def _check_writable(results: Sequence[Path], output: Path | None, replace: bool) -> None:
    """Whether tables may be written there; before anything is printed."""
    from lamm_cl.results.csv import lost
    from lamm_cl.results.stored import check_writable

    if output:
        if len(results) > 1:
            raise UserError(f"--output: expected one RESULTS, got {len(results)}: their tables have the same names")
        return
    for folder in results:
        check_writable(folder, "say where with --output DIR")
        if not replace and (told := lost(folder)):
            raise UserError(f"{told}; --replace does it, or write the tables elsewhere with --output DIR")


def _add_plot(commands: argparse._SubParsersAction) -> None:
    plot = commands.add_parser(
        "plot",
        help="draw results",
        description="Draw curves, matrices, class drops and costs as PNG, SVG and PDF; several RESULTS in one figure.",
    )
    _add_results(plot)
    plot.add_argument("--kind", choices=FIGURES, metavar="KIND", help=f"{', '.join(FIGURES)}; default: all that fit")
    plot.add_argument("--label-space", choices=("own", "joint", "all"), help="default: the figure's, if scored")
    plot.add_argument("--shots", type=arguments.shots, metavar="K", help="where there are several (default: the most)")
    plot.add_argument("--output", type=Path, metavar="DIR", help="default: RESULTS/figures, of several ./figures")
    plot.set_defaults(command=_plot)


def _plot(args: argparse.Namespace) -> int:
    from lamm_cl.files import stay_within
    from lamm_cl.reports import figures
    from lamm_cl.results.runs import Unfit, runs_in
    from lamm_cl.results.stored import check_writable

    output = args.output or (args.results[0] / "figures" if len(args.results) == 1 else Path("figures"))
    if not args.output and len(args.results) == 1:
        check_writable(args.results[0], "say where with --output DIR")
        stay_within(args.results[0], output)
    several_shots = any(len(runs_in(folder)) > 1 for folder in args.results)
    kinds = [args.kind] if args.kind else [kind for kind in figures.FIGURES if kind != "few-shot" or several_shots]
    for kind in kinds:
        draw, stem = figures.FIGURES[kind]
        options = {"label_space": args.label_space} | ({} if kind == "few-shot" else {"shots": args.shots})
        suffix = f"_{args.label_space}" if args.label_space else ""
        try:
            paths = draw(args.results, output / f"{stem}{suffix}", **options)
        except Unfit:
            if args.kind:
                raise
            continue
        for path in paths:
            say(f"wrote {path}")
    return 0


def _add_compare(commands: argparse._SubParsersAction) -> None:
    compare = commands.add_parser(
        "compare",
        help="tell whether a difference is one",
        description="Paired differences per dataset and seed, with a t interval, p after Holm's correction and the numbers "
        "of wins, ties and losses: of one RESULTS' methods to a baseline, or of several RESULTS to the first.",
    )
    _add_results(compare)
    compare.add_argument("--baseline", metavar="METHOD", help="a method of the first RESULTS (alone: its first)")
    _add_format(compare)
    compare.set_defaults(command=_compare)


def _compare(args: argparse.Namespace) -> int:
    from lamm_cl.reports.compare import compare

    found = compare(args.results, args.baseline)
    if len(args.results) > 1 and args.format == "terminal":
        say(*(("changed:", *found.changes) if found.changes else ("nothing changed",)))
    _print_tables(found.tables, args.format)
    return 0


def _print_tables(shown: Sequence, form: str) -> None:
    from lamm_cl.reports.renderers import RENDERERS, to_terminal

    if form == "terminal":
        for table in shown:
            console().print(to_terminal(table))
    else:
        text = RENDERERS[form](shown)
        if sys.stdout.isatty():  # a file gets the names as they are
            text = "".join("\n" if line == "\n" else escaped(line) for line in re.split("(\n)", text))
        sys.stdout.write(text)


def _add_report(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "report",
        help="write one HTML page about results",
        description="Write one HTML file with tables, curves, definitions and provenance, which asks no network for "
        "anything. Needs: pip install 'lamm-cl[report]'.",
    )
    _add_results(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: RESULTS/report.html")
    parser.set_defaults(command=_report)


def _report(args: argparse.Namespace) -> int:
    from lamm_cl.reports.page import page
    from lamm_cl.results.stored import check_writable

    several = len(args.results) > 1
    output = args.output or (Path("report.html") if several else args.results[0] / "report.html")
    if not args.output and not several:
        check_writable(args.results[0], "say where with --output FILE")
    say(f"wrote {page.write_page(args.results, output)}")
    return 0


def _add_verify(commands: argparse._SubParsersAction) -> None:
    verify = commands.add_parser(
        "verify",
        help="check results, repeat a run",
        description="Check that every file of the finished runs is whole and that tables follow from the records; do a "
        "run again and compare.",
    )
    verify.add_argument("results", type=Path, metavar="RESULTS", help=RESULTS)
    name = "DATASET/METHOD/shotsK-seedS"
    verify.add_argument("--run", action="append", default=[], metavar=name, help="a run to do again; give it again for several")
    text = "else N random runs; 0: none (default: 1)"
    verify.add_argument("--recompute", type=arguments.number, metavar="N", help=text)
    text = "also do runs again that take the network, other files or long training, on the word of who made the results"
    verify.add_argument("--trust", action="store_true", help=text)
    arguments.add_data_root(verify)
    text = "where one's own data lie now (default: as the record says); give it again for several"
    verify.add_argument("--data", action="append", default=[], type=arguments.place, metavar="NAME=PATH", help=text)
    arguments.add_cache(verify)
    arguments.add_device(verify)
    verify.set_defaults(command=_verify)


def _verify(args: argparse.Namespace) -> int:
    from lamm_cl.cli import doors
    from lamm_cl.sweeping import verify
    from lamm_cl.sweeping.execute import Settings

    chosen = verify.choose(args.results, args.run, 1 if args.recompute is None else args.recompute)
    found = verify.problems(args.results, doors.derived)
    finished = verify.runs(args.results)
    say(*map(plain, found) if found else [f"{len(finished)} runs: {_whole(args.results)}"])
    os.environ["OMP_NUM_THREADS"] = "1"  # see lamm_cl.cli.run
    settings = Settings(arguments.data_root(args), arguments.cache(args), args.device, jobs=1)
    refused = False
    for name in chosen:
        if not args.trust and (asked := verify.asks(finished[name], settings.data_root, dict(args.data))):
            refused = True
            say(f"{name}: not done again; that would take {' and '.join(asked)}. --trust does it")
            continue
        say(f"{plain(name)}: doing it again")
        differs = verify.recompute(finished[name], settings, lambda event: None, doors.train, dict(args.data))
        say(f"{plain(name)}: {f'differs: {plain(differs)}' if differs else 'the same counts and the same learned tensors'}")
        found += [differs] if differs else []
    wanted = args.run or args.recompute
    return 1 if found else 2 if refused and wanted else 0


def _whole(results: Path) -> str:
    """What was found in order."""
    from lamm_cl.results.pack import read_pack
    from lamm_cl.results.stored import pack_of

    if (pack := pack_of(results)) is None:
        return "every file is whole, tables follow from the records"
    tables = "a pack alone, without tables" if results.is_file() else "tables follow from the records"
    tensors = "" if read_pack(pack).tensors else "; learned tensors are not in it: only a run done again shows theirs"
    return f"every record of the pack is whole, {tables}{tensors}"
