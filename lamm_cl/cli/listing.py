"""list, show: the names that scenarios use, and what stands on a method card. Both answer at once."""

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamm_cl.cli import arguments
from lamm_cl.cli.screen import new_table, say, show_table

if TYPE_CHECKING:
    from lamm_cl.config.libraries import Library
    from lamm_cl.config.schema import Card, Piece, Training


def add(commands: argparse._SubParsersAction) -> None:
    _add_list(commands)
    _add_show(commands)


def _add_list(commands: argparse._SubParsersAction) -> None:
    lists = {
        "scenarios": _list_scenarios,
        "methods": _list_methods,
        "datasets": _list_datasets,
        "backbones": _list_backbones,
    }
    text = "list scenarios, methods, datasets or backbones"
    listing = commands.add_parser("list", help=text, description=f"{text.capitalize()}: the names that scenarios use.")
    listing.add_argument("what", choices=lists, metavar="|".join(lists))
    arguments.add_library(listing)
    listing.set_defaults(command=lambda args: lists[args.what](arguments.library(args)))


def _list_scenarios(library: "Library") -> int:
    from lamm_cl.config.cards import load_scenario, scenario_names

    table = new_table("name", "datasets", "experiences", "shots", "methods", "what")
    table.columns[0].no_wrap = True  # a name is typed as it stands there
    for name in [*scenario_names(), *library.scenarios]:
        s = load_scenario(name, library)
        experiences = s.experiences if isinstance(s.experiences, int | str) else " + ".join(map(str, s.experiences))
        table.add_row(name, _joined(s.names), str(experiences), _joined(s.shots), _joined(s.methods), s.description)
    return show_table(table)


def _list_methods(library: "Library") -> int:
    from lamm_cl.config.cards import card_names, load_card

    table = new_table("key", "name", "paper", "trainable at ViT-B/16", "training")
    for key in [*card_names(), *library.cards]:
        card = load_card(key, library)
        t = card.training
        training = f"{_length(t)}, batch {t.batch}, lr {t.lr:g}" if t else "none"
        table.add_row(key, card.name, short_paper(card.paper), card.trainable.partition(" (")[0], training)
    return show_table(table)


def _list_datasets(library: "Library") -> int:
    from lamm_cl.data import catalogue

    table = new_table("name", "classes", "train", "test", "where", "source", "licence")
    for info in catalogue.names():
        table.add_row(info.name, *info.counts, info.where, info.source, info.licence)
    for name, path in library.datasets.items():
        table.add_row(name, "", "", "", str(path), "", "")
    return show_table(table)


def _list_backbones(library: "Library") -> int:
    from lamm_cl.towers import architectures

    table = new_table("architecture", "kind", "pixels", "weights")
    table.add_row("lamm-cl-mini", "ViT", "48", "embedded (the tiny CLIP inside the package)")
    for name, kind, pixels, tags in architectures.architectures():
        quick = "for a file of weights that needs QuickGELU, as OpenAI's" if name.endswith("-quickgelu") else ""
        table.add_row(name, kind, str(pixels), _joined(tags) or quick or "a file")
    show_table(table)
    say("All take text prompts; methods that prompt the image tower (maple, comma) need a ViT. Weights may also be")
    say("a file, --backbone ViT-B-16-quickgelu:path/to/file, or a repository, --backbone hf-hub:OWNER/NAME.")
    return 0


def short_paper(paper: str) -> str:
    """ "Zhou et al., A Title, With Commas, IJCV 2022, arXiv:..." -> "Zhou et al., IJCV 2022"."""
    venue = re.search(r"[A-Z][\w-]* (19|20)\d\d", paper)
    return f"{paper.partition(',')[0]}, {venue[0]}" if venue else paper


def _joined(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _add_show(commands: argparse._SubParsersAction) -> None:
    text = "Print a method card: its settings, the source of every number, departures, published results."
    show = commands.add_parser("show", help="print a method card", description=text)
    show.add_argument("method", metavar="METHOD", help="a name from 'lamm-cl list methods', or a card's path (.yaml)")
    arguments.add_library(show)
    show.set_defaults(command=_show)


def _show(args: argparse.Namespace) -> int:
    from lamm_cl.config.cards import load_card

    card = load_card(args.method, arguments.library(args))
    say(f"{card.name} ({card.key})", *filter(None, [card.paper, card.repository]))
    for part in ("context", "labels", "loss", "head", "tower", "memory"):
        told = [f"{piece.use}  {_options(piece)}" for field, piece in card.pieces() if field == part]
        if told or part in ("context", "labels", "loss"):
            say("", *(f"{part:<10} {each}" for each in told or ["none"]))
    say("", f"{'training':<10} {_training(card)}", "", f"{'trainable':<10} {card.trainable}")
    _say_section("sources", [f"{key}: {text}" for key, text in card.provenance.items()])
    departures = [text if isinstance(text, str) else text_of(text) for text in card.departures]
    _say_section("departures from the authors' code or paper", departures)
    for name, facts in card.published.items():
        rows = (
            [f"{key}: {text_of(value, '.2f')}" for key, value in facts.items()]
            if isinstance(facts, dict)
            else [text_of(facts)]
        )
        _say_section(f"published: {name}", rows)
    return 0


def _options(piece: "Piece") -> str:
    return ", ".join(f"{key}: {text_of(value)}" for key, value in piece.options.items())


def _say_section(title: str, rows: list[str]) -> None:
    if rows:
        say("", title, *(f"  {row}" for row in rows))


def _training(card: "Card") -> str:
    t = card.training
    if t is None:
        return "none"
    facts = t.model_dump(mode="json", exclude_defaults=True)
    shown = ("epochs", "steps", "steps_per_shot", "batch", "optimizer", "lr", "momentum", "weight_decay", "schedule", "warmup",
             "augmentation")  # fmt: skip
    rest = "".join(f"; {name}: {text_of(facts[name])}" for name in facts if name not in shown)
    if "warmup" in facts:
        unit = "steps" if t.warmup.steps else "epochs"
        words = f"warm-up {facts['warmup'][unit]}{' steps' * (unit == 'steps')}"
        warm = f", {words} at {t.warmup.lr:g}" if t.warmup.lr else f", linear {words}"
    else:
        warm = ""
    optimizer, schedule = (text_of(facts[name]).removeprefix("use ") for name in ("optimizer", "schedule"))
    return f"{_length(t)}, batch {t.batch}, {optimizer} lr {t.lr:g}, {schedule}{warm}, {t.augmentation}{rest}"


def _length(t: "Training") -> str:
    if t.steps_per_shot:
        return f"{t.steps_per_shot} steps a shot"
    return f"{t.steps} steps" if t.steps else f"{t.epochs} epochs"


def text_of(value: object, number: str = "") -> str:
    """A fact of a card as people write it; `number` formats floats."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {text_of(each, number)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(text_of(each, number) for each in value)
    return format(value, number) if isinstance(value, float) else "none" if value is None else str(value)
