"""cache: the bank of image features, its size, its damage, what can go, and what others can use."""

import argparse
from pathlib import Path

from lamm_cl.cli import arguments
from lamm_cl.cli.screen import say
from lamm_cl.errors import UserError


def add(commands: argparse._SubParsersAction) -> None:
    text = "The bank of image features: how large it is, whether every entry is whole, what can go, and a file for use elsewhere."
    bank = commands.add_parser("cache", help="size, check, prune or export the feature bank", description=text)
    actions = bank.add_subparsers(metavar="size|verify|prune|export", required=True)
    helps = {"size": "how large it is", "verify": "whether every entry is whole", "prune": "remove damaged and old entries"}
    for name, told in helps.items():
        action = actions.add_parser(name, help=told)
        text = "age at which prune removes (default 30)"
        action.add_argument("--older-than", type=float, default=30, metavar="DAYS", help=text)
        arguments.add_cache(action)
        action.set_defaults(command=_cache, action=name)
    _add_export(actions)


def _add_export(actions: argparse._SubParsersAction) -> None:
    text = "write the features of a dataset, and its class texts, as an .npz: a dataset for any head, without weights or images"
    export = actions.add_parser("export", help=text, description=f"{text.capitalize()}.")
    export.add_argument("--dataset", required=True, metavar="DATASET", help="a dataset, or a path")
    export.add_argument("--backbone", required=True, metavar="ARCH[:WEIGHTS]", help="as in 'lamm-cl run'")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.npz", help="where to")
    arguments.add_data_root(export)
    arguments.add_library(export)
    arguments.add_cache(export)
    arguments.add_device(export)
    export.set_defaults(command=_export)


def _cache(args: argparse.Namespace) -> int:
    from lamm_cl.training import bank

    folder = arguments.cache(args) / "features"
    if args.action == "prune":
        removed = bank.prune(folder, args.older_than)
        say(f"{folder}: removed {len(removed)} files, {sum(entry.bytes for entry in removed) / 1e6:.1f} MB")
        return 0
    found, left = list(bank.entries(folder, check=args.action == "verify")), list(bank.leftovers(folder))
    damaged = [entry for entry in found if not entry.whole]
    say(f"{folder}: {len(found)} entries, {sum(entry.bytes for entry in found) / 1e6:.1f} MB")
    if left:
        size = sum(entry.bytes for entry in left) / 1e6
        say(f"and {size:.1f} MB in {len(left)} files of writers that were killed; prune removes them")
    for entry in damaged:
        say(f"damaged: {entry.path}; the next run that needs it makes it again")
    return 1 if damaged else 0


def _export(args: argparse.Namespace) -> int:
    from lamm_cl.config.cards import backbone_named
    from lamm_cl.config.schema import FEATURES
    from lamm_cl.data import catalogue
    from lamm_cl.files import write_atomic

    if args.output.suffix != ".npz":
        raise UserError(f"-o {args.output}: expected a name that ends in .npz")
    backbone = backbone_named(args.backbone)
    if backbone.architecture == FEATURES:
        raise UserError(f"--backbone {args.backbone}: has no towers to make features with")
    named = arguments.library(args).dataset(args.dataset)
    arguments.check_names("--dataset", [named], arguments.data_root(args))
    dataset = catalogue.load(named, arguments.data_root(args), arguments.cache(args))
    from lamm_cl.towers.devices import device  # torch: after all that can be wrong at once
    from lamm_cl.training.export import export

    say(f"encoding {len(dataset.train) + len(dataset.test):,} images, or reading their features from the bank")
    content = export(dataset, backbone, arguments.cache(args), device(args.device))
    write_atomic(args.output, content)
    say(f"wrote {args.output} ({len(content) / 1e6:.1f} MB); in a scenario:")
    say(f"  backbone: {{architecture: {FEATURES}, weights: \"{backbone.architecture} {backbone.weights}\"}}")
    say(f"  datasets: [{args.output}]")
    return 0
