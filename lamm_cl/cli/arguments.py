"""What several commands ask for: the types of words on the command line, shared options, and what their absence means.

Nothing else reads the environment: $LAMM_CL_DATA and $XDG_CACHE_HOME stand for --data-root and --cache.
"""

import argparse
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lamm_cl.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from lamm_cl.config.libraries import Library


def positive(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def number(text: str) -> int:
    return 0 if text == "0" else positive(text)


def seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"expected seconds, 0 or more, got {text!r}")
    return float(text)


def share(text: str) -> float:
    """Of GPUs: a part of one, or whole ones."""
    if not re.fullmatch(r"0?\.[0-9]{1,4}|[0-9]{1,3}(\.0*)?", text):
        raise argparse.ArgumentTypeError(f"expected a share of one GPU (0 to 1) or a whole number, got {text!r}")
    return float(text)


def seed(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**32 - 1}, got {text!r}")
    return int(text)


def shots(text: str) -> int | str:
    return "full" if text == "full" else positive(text)


def device(text: str) -> str:
    if not re.fullmatch("auto|cpu|cuda(:(0|[1-9][0-9]{0,2}))?", text):
        raise argparse.ArgumentTypeError(f"expected auto, cpu, cuda or cuda:N, got {text!r}")
    return text


def place(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"expected NAME=PATH, got {text!r}")
    return name, path


def add_data_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the datasets (default: $LAMM_CL_DATA)")


def data_root(args: argparse.Namespace) -> Path | None:
    return args.data_root or (Path(os.environ["LAMM_CL_DATA"]) if os.environ.get("LAMM_CL_DATA") else None)


def add_library(parser: argparse.ArgumentParser) -> None:
    text = "a folder with cards, scenarios and datasets of one's own, by name (docs/own-method.md); give it again for several"
    parser.add_argument("--library", action="append", default=[], type=Path, metavar="DIR", help=text)


def library(args: argparse.Namespace) -> "Library":
    from lamm_cl.config.libraries import opened

    return opened(args.library)


def add_cache(parser: argparse.ArgumentParser, of: str = "") -> None:
    default = "default: ~/.cache/lamm-cl"
    parser.add_argument("--cache", type=Path, metavar="DIR", help=f"of {of} ({default})" if of else default)


def cache(args: argparse.Namespace) -> Path:
    return args.cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lamm-cl"


def add_device(parser: argparse.ArgumentParser) -> None:
    text = "auto, cpu, cuda, or cuda:N for one of several (default: auto)"
    parser.add_argument("--device", type=device, default="auto", metavar="DEVICE", help=text)


def check_names(where: str, names: Iterable[str], root: Path | None) -> None:
    """Every name is a known dataset, or a path, or lies below the data root."""
    from lamm_cl.data import catalogue
    from lamm_cl.data.features import parts_of

    known = [info.name for info in catalogue.names()]
    for name in dict.fromkeys(one for each in names for one in catalogue.members(each) or [each]):
        if file := parts_of(name):
            catalogue.feature_file(file[0], root)  # says where it was looked for
            continue
        own = Path(name).expanduser().exists() or (root and (root / name).exists())
        if catalogue.canonical(name) not in known and not own:
            raise UserError(f"{where}: no dataset {name!r}{did_you_mean(name, known)}")
