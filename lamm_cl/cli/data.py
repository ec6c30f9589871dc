"""data list, data check, data fetch: which datasets there are, whether they are whole, and how they get here."""

import argparse
import time

from lamm_cl.cli import arguments
from lamm_cl.cli.progress import checking
from lamm_cl.cli.screen import new_table, say, show_table
from lamm_cl.errors import UserError


def add(commands: argparse._SubParsersAction) -> None:
    text = "list, check or download datasets"
    parser = commands.add_parser("data", help=text, description=f"{text.capitalize()}.")
    verbs = parser.add_subparsers(metavar="list|check|fetch", required=True)
    lists = verbs.add_parser("list", help="what there is, and where it is expected")
    checks = verbs.add_parser("check", help="what is there, what is missing, which images cannot be read, what to do")
    checks.add_argument("name", nargs="*", metavar="NAME", help="a dataset, or a path (default: all of the data root)")
    text = "check its datasets as it sees them: in its classes, names, split and templates"
    checks.add_argument("--scenario", metavar="SCENARIO", help=text)
    checks.add_argument("--jobs", type=arguments.positive, default=1, metavar="N", help="processes (default: 1)")
    arguments.add_cache(checks, of="listings")
    fetches = verbs.add_parser("fetch", help="download and unpack a dataset, where its licence allows it")
    fetches.add_argument("name", metavar="NAME", help="a dataset")
    for verb, command in ((lists, _list), (checks, _check), (fetches, _fetch)):
        arguments.add_data_root(verb)
        arguments.add_library(verb)
        verb.set_defaults(command=command)


def _list(args: argparse.Namespace) -> int:
    from lamm_cl.data import catalogue

    table = new_table("name", "classes", "train", "test", "GB", "licence", "source", "where", "here")
    root = arguments.data_root(args)
    for info in catalogue.names():
        here = info.embedded or (root and (root / info.folder).is_dir())
        row = (info.name, *info.counts, f"{info.gigabytes:g}", info.licence, info.source, info.where)
        table.add_row(*row, "yes" if here else "no")
    for name, path in arguments.library(args).datasets.items():
        table.add_row(name, *[""] * 6, str(path), "yes")
    return show_table(table)


def _check(args: argparse.Namespace) -> int:
    """Without names: all that is there, and a line for what is not. Status 1 where a run would fail."""
    from lamm_cl.data import catalogue, check

    root = arguments.data_root(args)
    if root is not None and not root.is_dir():
        raise UserError(f"--data-root {root}: no such folder")
    library, scenario = arguments.library(args), None
    if args.scenario:
        from lamm_cl.config.cards import load_scenario
        from lamm_cl.data import measured

        measured.check(scenario := load_scenario(args.scenario, library))
        args.name = args.name or list(scenario.datasets)
    names, missing = [library.dataset(name) for name in args.name], []
    arguments.check_names("data check", names, root)
    if not names:
        files = [info for info in catalogue.names() if not info.embedded]
        if root is None:
            raise UserError("data check: which data? give NAMEs, or a folder with --data-root (or $LAMM_CL_DATA)")
        missing = [info.name for info in files if not (root / info.folder).is_dir()]
        names = [info.name for info in files if info.name not in missing]
    with checking() as progress:
        findings = check.check(names, root, arguments.cache(args), scenario=scenario, jobs=args.jobs, progress=progress)
        absent = check.check(missing, root, arguments.cache(args))
    for finding in findings:
        say(f"{finding.level:<8} {finding.dataset}: {finding.text}" + (f"; {finding.fix}" if finding.fix else ""))
    for finding in absent:
        say(f"absent   {finding.dataset}: {finding.fix}")
    problems = sum(finding.level == "problem" for finding in findings)
    say(f"{len(names)} datasets checked, {problems} problems" + (f", {len(missing)} absent" if missing else ""))
    return 1 if problems else 0


def _fetch(args: argparse.Namespace) -> int:
    from lamm_cl.data import catalogue, fetch

    root = arguments.data_root(args)
    if root is None:
        raise UserError("data fetch: where to? give a folder with --data-root (or $LAMM_CL_DATA)")
    last = [0.0]

    def show(file: str, done: int, total: int | None) -> None:
        if time.monotonic() - last[0] > 5:
            last[0] = time.monotonic()
            of = f" of {total / 1e6:,.0f}" if total else ""
            say(f"{file}: {done / 1e6:,.0f}{of} MB")

    folders = fetch.fetch(catalogue.canonical(args.name), root, show)
    for folder in folders:
        say(f"wrote {folder}")
    if not folders:
        say(f"nothing to do: {catalogue.canonical(args.name)} is there")
    return 0
