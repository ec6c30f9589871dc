"""Which runs of a scenario a command is about: its options, and what follows from them."""

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lamm_cl.cli import arguments
from lamm_cl.errors import UserError

if TYPE_CHECKING:
    from lamm_cl.config.libraries import Library
    from lamm_cl.sweeping.plan import Run
    from lamm_cl.sweeping.shards import Shard

AUTO = "auto"
TASK = {name: f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "COUNT", "MIN", "STEP")}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenario", metavar="SCENARIO", help="a name from 'lamm-cl list scenarios', or a path (.yaml)")
    many = {"action": "append", "default": []}
    parser.add_argument("--method", **many, metavar="METHOD", help="a method, or a card's path (.yaml)")
    parser.add_argument("--dataset", **many, metavar="DATASET", help="a dataset")
    parser.add_argument("--seed", **many, type=arguments.seed, metavar="SEED", help="a seed")
    parser.add_argument("--shots", **many, type=arguments.shots, metavar="K", help="training images per class, or full")
    name = "DATASET/METHOD/shotsK-seedS"
    parser.add_argument("--run", **many, metavar=name, help="of all these, a run as 'lamm-cl plan' names it")
    text = "of all these, the I-th of N parts (I from 1 on); auto: as the SLURM array of this job says"
    parser.add_argument("--shard", type=_shard, metavar="I/N", help=text)
    parser.add_argument(
        "--backbone",
        metavar="ARCH[:WEIGHTS]",
        help="instead of the scenario's; WEIGHTS: a tag from 'lamm-cl list backbones' (default: openai) or a file; "
        "or hf-hub:OWNER/NAME",
    )
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="of the frozen towers (default: fp32)")
    arguments.add_data_root(parser)
    arguments.add_library(parser)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")


def planned(args: argparse.Namespace) -> "list[Run]":
    """Every run that the lists of the scenario and of the command line give; see `chosen`."""
    lists = {"datasets": args.dataset, "methods": args.method, "shots": args.shots, "seeds": args.seed}
    root, library = arguments.data_root(args), arguments.library(args)
    return listed(args.scenario, lists, args.results, root, args.backbone, args.precision, library=library)


def listed(name: str, lists: dict[str, list], results: Path, data_root: Path | None, backbone: str | None = None,
           precision: str | None = None, *, library: "Library") -> "list[Run]":  # fmt: skip
    """The runs that were asked for.  lists: datasets, methods (or paths of cards), shots and seeds; empty: the scenario's."""
    from lamm_cl.config.cards import load_scenario, replace_backbone, with_card
    from lamm_cl.sweeping.plan import plan

    scenario = load_scenario(name, library)
    methods = []
    for method in lists["methods"]:
        if method.endswith(".yaml") or (method in library.cards and method not in scenario.overrides):
            scenario, method = with_card(scenario, method, library)
        methods.append(method)
    if backbone or precision:
        scenario = replace_backbone(scenario, backbone, precision)
    lists = lists | {"methods": methods, "datasets": [library.dataset(each) for each in lists["datasets"]]}
    runs = plan(scenario, results, **{name: list(dict.fromkeys(given)) for name, given in lists.items()})
    names = [*(run.dataset for run in runs), *filter(None, [scenario.train_on])]
    arguments.check_names(f"{scenario.name}: datasets", names, data_root)
    return runs


def chosen(runs: "list[Run]", args: argparse.Namespace) -> "list[Run]":
    """Of what is planned, the runs that are this call's to do."""
    from lamm_cl.sweeping import shards

    if args.run:
        runs = shards.named(runs, args.run)
    return shard(args.shard).of(runs) if args.shard else runs


def shard(text: str) -> "Shard":
    from lamm_cl.sweeping.shards import Shard

    if text != AUTO:
        return Shard(*map(int, text.split("/")))
    found = {name: os.environ.get(variable, "") for name, variable in TASK.items()}
    found["STEP"] = found["STEP"] or "1"
    if absent := [TASK[name] for name, word in found.items() if not re.fullmatch("[0-9]{1,9}", word)]:
        raise UserError(f"--shard auto: no {absent[0]} here; expected a job of a SLURM array, or give I/N")
    number = {name: int(word) for name, word in found.items()}
    index = (number["ID"] - number["MIN"]) // max(1, number["STEP"]) + 1
    if not 1 <= index <= number["COUNT"]:
        raise UserError(f"--shard auto: task {number['ID']} from {number['MIN']} on is none of {number['COUNT']}")
    return Shard(index, number["COUNT"])


def _shard(text: str) -> str:
    match = re.fullmatch("([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", text)
    if text != AUTO and not (match and int(match[1]) <= int(match[2])):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 1 to N, or auto, got {text!r}")
    return text
