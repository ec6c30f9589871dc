"""cache: the bank of image features, its size, its damage, and what can go."""

import argparse

from lamm_cl.cli import arguments
from lamm_cl.cli.screen import say


def add(commands: argparse._SubParsersAction) -> None:
    text = "The bank of image features: how large it is, whether every entry is whole, and what can go."
    bank = commands.add_parser("cache", help="size, check or prune the feature bank", description=text)
    bank.add_argument("action", choices=("size", "verify", "prune"), help="prune removes damaged and old entries")
    bank.add_argument("--older-than", type=float, default=30, metavar="DAYS", help="age at which prune removes (default 30)")
    arguments.add_cache(bank)
    bank.set_defaults(command=_cache)


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
