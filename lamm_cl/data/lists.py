"""Lists of images that somebody else wrote: text, JSON and MATLAB files, read with suspicion."""

import json
from pathlib import Path

from lamm_cl.data.dataset import Entry
from lamm_cl.errors import UserError
from lamm_cl.files import open_regular, read_regular


def read_text(path: Path) -> str:
    """UserError if the file is absent or not UTF-8."""
    try:
        return read_regular(path).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as failure:
        reason = getattr(failure, "strerror", None) or failure
        raise UserError(f"{path}: not a readable text file in UTF-8 ({reason})") from None


def read_lines(path: Path) -> list[str]:
    """The lines that are not blank, without the space around them."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_rows(path: Path) -> list[list[str]]:
    return [line.split() for line in read_lines(path)]


def read_names(path: Path) -> dict[str, str]:
    """{first word: rest of the line}, in the order of the lines: "n01484850 great white shark"."""
    return {line.split()[0]: line.partition(" ")[2].strip() for line in read_lines(path)}


def read_json(path: Path):
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as failure:
        raise UserError(f"{path}: not JSON ({failure})") from None


def read_mat(path: Path, key: str):
    """One variable of a MATLAB file, without its leading axis of length 1."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        with open_regular(path) as file:
            return loadmat(file)[key][0]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, TypeError, LookupError, NotImplementedError, MatReadError) as failure:
        raise UserError(f"{path}: not a MATLAB file with a variable '{key}' ({failure})") from None


def read_split(path: Path, prefix: str = "") -> tuple[list[Entry], list[Entry]]:
    """Train and test of a `split_zhou_*.json`: {"train": [[path, label, class name], ...], "val": ..., "test": ...}.

    `prefix` is put before each path; the validation images are for choosing among settings and are left out.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not {"train", "test"} <= set(content):
        raise UserError(f"{path}: no 'train' and 'test'; lists of [path, label, class name] are expected under both")
    return _entries(content["train"], f"{path}: train", prefix), _entries(content["test"], f"{path}: test", prefix)


def _entries(rows: object, where: str, prefix: str) -> list[Entry]:
    if not isinstance(rows, list):
        raise UserError(f"{where}: a list of [path, label, class name] is expected, not {type(rows).__name__}")
    entries = []
    for row in rows:
        match row:
            case [str(image), int(label), str(name)] if not isinstance(label, bool):
                # an absolute path must stay one, or the prefix would hide it
                entries.append(Entry(image if image.startswith("/") else prefix + image, label, name))
            case _:
                raise UserError(f"{where}: {json.dumps(row)[:100]} is not [path, label, class name]")
    return entries
