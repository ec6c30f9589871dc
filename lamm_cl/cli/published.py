"""published, explain: what is known of others' numbers, and what keeps ours from standing beside one."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lamm_cl.cli.results import RESULTS
from lamm_cl.cli.screen import new_table, say, show_table
from lamm_cl.errors import UserError

if TYPE_CHECKING:
    from lamm_cl.reports.standing import Claim
    from lamm_cl.results.record import Record


def add(commands: argparse._SubParsersAction) -> None:
    text = "List published numbers of class-incremental learning with their sources and what they were measured under."
    known = commands.add_parser("published", help="list published numbers", description=text)
    known.add_argument("--dataset", default="", metavar="DATASET", help="of one data set, as tables or we call it")
    known.add_argument("--method", default="", metavar="METHOD", help="of one method")
    known.set_defaults(command=_published)
    text = "Tell what differs between finished runs and a published number, fact by fact."
    explain = commands.add_parser("explain", help="tell why a number differs from a published one", description=text)
    explain.add_argument("results", type=Path, metavar="RESULTS", help=RESULTS)
    example = '"METHOD, DATASET PROTOCOL", as lamm-cl published has them: "PROOF, CIFAR100 B0-Inc10"'
    explain.add_argument("--against", required=True, metavar="NUMBER", help=example)
    explain.add_argument("--method", default="", metavar="METHOD", help="of RESULTS (default: the number's own, else all)")
    explain.set_defaults(command=_explain)


def _published(args: argparse.Namespace) -> int:
    from lamm_cl.reports.published import folded
    from lamm_cl.reports.standing import known

    of_cards = _of_cards()
    datasets = {name for _, columns, _ in of_cards for name in columns}
    found = known(args.dataset, args.method, datasets, [method for method, *_ in of_cards])
    others = [
        told
        for method, columns, told in of_cards
        if (not args.dataset or folded(args.dataset) in map(folded, columns)) and folded(args.method) in ("", folded(method))
    ]
    if found:
        _say_claims(found)
    if others:
        say("other tables, whole in `lamm-cl show METHOD`:", *(f"  {told}" for told in others))
    return 0


def _of_cards() -> list[tuple[str, list[str], str]]:
    """Of the tables that the cards keep: the method, the data sets that stand in it, and what it is with its source."""
    from lamm_cl.config.cards import card_names, load_card

    return [
        (key, [name for name in facts.get("columns", []) if isinstance(name, str)], f"{key}, {name}: {facts.get('source', '')}")
        for key in card_names()
        for name, facts in load_card(key).published.items()
        if isinstance(facts, dict)
    ]


def _say_claims(found: "list[Claim]") -> None:
    table = new_table("dataset", "protocol", "method", "average", "last", "known as", "source")
    for claim in found:
        numbers = ("-" if number != number else f"{number:.2f}" for number in claim.numbers)
        table.add_row(claim.dataset, claim.protocol, claim.method, *numbers, claim.marks or "its own", claim.source)
    show_table(table)
    say("measured under:")
    by_setting: dict[str, list[str]] = {}
    for claim in found:
        by_setting.setdefault(claim.setting, []).append(claim.method)
    for setting, methods in by_setting.items():
        say(f"  {', '.join(dict.fromkeys(methods))}: {setting}")
    for told in dict.fromkeys(f"{claim.method}: {claim.told}" for claim in found if claim.told):
        say(f"  {told}")
    say("secondary: read in tables of later papers; numbers of different settings do not belong beside one another")


def _explain(args: argparse.Namespace) -> int:
    from lamm_cl.errors import did_you_mean
    from lamm_cl.reports.standing import named
    from lamm_cl.results.runs import records_in

    claim = named(args.against)
    records = [record for record in records_in(args.results) if not record.bound]
    if not records:
        raise UserError(f"{args.results}: no finished run")
    methods = list(dict.fromkeys(record.run.method for record in records))
    if args.method and args.method not in methods:
        raise UserError(f"--method: no {args.method!r} in {args.results}{did_you_mean(args.method, methods)}")
    here = [record.run.dataset for record in records]
    dataset = claim.facts["dataset"] if claim.facts["dataset"] in here else here[0]
    records = [record for record in records if record.run.dataset == dataset]
    wanted = [args.method] if args.method else [method for method in methods if method in claim.cards] or methods
    by_run: dict[tuple, list[Record]] = {}
    for record in records:
        if record.run.method in wanted:
            by_run.setdefault((record.run.dataset, record.run.method, record.run.shots), []).append(record)
    if not by_run:
        raise UserError(f"{args.results}: no finished run of {', '.join(wanted)} on {dataset}")
    for of_one in by_run.values():
        _tell(of_one, claim)
    say(f"{claim.name}: {claim.source}{f'; {claim.marks}' if claim.marks else ''}", *([claim.told] if claim.told else []))
    return 0


def _tell(records: "list[Record]", claim: "Claim") -> None:
    """What one method's runs on one data set have in common with the number; the numbers themselves stand in no such table."""
    from lamm_cl.reports.standing import compared

    first = records[0]
    facts = compared(first, claim, [record.run.seed for record in records])
    say(f"{first.run.scenario}: {first.run.dataset}, {first.card.get('name', first.run.method)}, against {claim.name}")
    table = new_table("fact", "this run", "published", "")
    words = {True: "the same", False: "differs", None: "not stated"}
    for each in facts:
        table.add_row(each.fact, each.ours, each.theirs, words[each.same])
    show_table(table)
    decides = [each for each in facts if each.fact != "seeds"]
    differ = [each.fact for each in decides if each.same is False]
    unknown = [each.fact for each in decides if each.same is None]
    if not differ and not unknown:
        say("all facts are the same: the number stands beside this run in the incremental table")
        return
    parts = ([f"differs in {', '.join(differ)}"] if differ else []) + ([f"not stated: {', '.join(unknown)}"] if unknown else [])
    say(f"not comparable: {'; '.join(parts)}")
