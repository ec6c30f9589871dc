"""What was predicted for each test image: predictions.csv.gz beside a record, on request. The record says nothing of it.

One line an image and test: `trained` experiences were learned, the image is one of experience `tested`; `sample` is its place
among the dataset's test images, `file` its path in the dataset's folder (empty where images are no files); `class` is its class
and `own`, `joint`, `all` what was predicted in that label space (empty: undefined), as places in the record's dataset.classes.
"""

import csv
import gzip
import io
import zlib
from pathlib import Path

import numpy as np

from lamm_cl.errors import UserError
from lamm_cl.files import read_regular
from lamm_cl.results.record import LABEL_SPACES, Record

PREDICTIONS = "predictions.csv.gz"
HEAD = ("trained", "tested", "sample", "file", "class", *LABEL_SPACES)
LARGEST = 2**31  # bytes of text


def place_of(record: Record, results: Path) -> Path:
    """Where the predictions of a run lie, if there are any."""
    return results / "runs" / record.place / PREDICTIONS


def are_there(folder: Path) -> bool:
    """Whether a run's folder holds predictions."""
    return (folder / PREDICTIONS).is_file()


def confusion(record: Record, path: Path, label_space: str) -> np.ndarray:
    """(C, C) test images after the last experience: rows their classes, columns the classes predicted.

    Raises UserError for a file that is damaged, or whose counts are not the record's.
    """
    C, T = len(record.dataset.classes), len(record.dataset.experiences)
    try:
        predicted = _last(path, T, label_space)
    except (OSError, EOFError, zlib.error, ValueError, csv.Error) as error:
        raise UserError(f"{path}: no whole file of predictions ({error})") from None
    if predicted.size and not (0 <= predicted.min() and predicted.max() < C):
        raise UserError(f"{path}: names a class that record.json has not")
    counts = np.zeros((C, C), dtype=np.int64)
    np.add.at(counts, (predicted[:, 0], predicted[:, 1]), 1)
    told = sum(c.correct or 0 for c in record.counts if (c.label_space, c.trained) == (label_space, T))
    alike = record.scenario.get("same_names") == "together"  # then an answer of the same name is right too
    if (int(np.trace(counts)) != told and not alike) or len(predicted) != sum(record.dataset.test_images):
        said = f"{np.trace(counts)} of {len(predicted)} images are right"
        raise UserError(f"{path}: does not belong to the record beside it: {said}")
    return counts


def _last(path: Path, T: int, label_space: str) -> np.ndarray:
    """(N, 2) classes and predictions of the test after the last experience. Raises ValueError for what is no such file."""
    with gzip.open(io.BytesIO(read_regular(path))) as file:
        text = file.read(LARGEST).decode()
    lines = csv.reader(io.StringIO(text), strict=True)
    if tuple(next(lines, ())) != HEAD:
        raise ValueError(f"expected the columns {', '.join(HEAD)}")
    own, at = HEAD.index("class"), HEAD.index(label_space)
    found = [(int(line[own]), int(line[at])) for line in lines if len(line) == len(HEAD) and line[0] == str(T)]
    return np.array(found, dtype=np.int64).reshape(-1, 2)
