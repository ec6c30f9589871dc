"""What a run predicts for each test image, kept on request (results/predictions.py has the format)."""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor

from lamm_cl.data.dataset import Dataset, Files
from lamm_cl.errors import UserError
from lamm_cl.files import write_atomic
from lamm_cl.results.csv import csv_lines, csv_text
from lamm_cl.results.predictions import HEAD, PREDICTIONS
from lamm_cl.results.record import LABEL_SPACES
from lamm_cl.training.recorder import Recorder


class Predictions(SupervisedPlugin):
    """Writes each test's lines into state/ of the run as soon as it is over, so that a run which is cut off loses none.

    Stands behind the recorder, which says what is scored. `check` is asked before a write, and may stop the run.
    """

    def __init__(self, folder: Path, dataset: Dataset, recorder: Recorder, check: Callable[[], None]):
        super().__init__()
        self.folder, self.recorder, self.check = folder, recorder, check
        images = dataset.test.images
        self.files: Sequence[str] = images.names if isinstance(images, Files) else ()
        self.lines: list[tuple] = []

    def before_eval(self, strategy, **_) -> None:
        self.lines = []

    def before_eval_exp(self, strategy, **_) -> None:
        self.found: dict[str, list[Tensor]] = {name: [] for name in LABEL_SPACES}

    def after_eval_iteration(self, strategy, **_) -> None:
        for name, classes in self.recorder.spaces.items():
            if classes is not None:
                logits = strategy.mb_output[:, classes.start : classes.stop]
                self.found[name].append((logits.argmax(dim=-1) + classes.start).cpu())

    def after_eval_exp(self, strategy, **_) -> None:
        samples, targets = (each.tolist() for each in (strategy.experience.samples, strategy.experience.targets))
        predicted = [torch.cat(each).tolist() if each else [""] * len(samples) for each in self.found.values()]
        at = (self.recorder.trained, self.recorder.tested)
        for sample, target, *each in zip(samples, targets, *predicted, strict=True):
            self.lines.append((*at, sample, csv_text(self.files[sample]) if self.files else "", target, *each))

    def after_eval(self, strategy, **_) -> None:
        self.check()
        write_atomic(part_of(self.folder, self.recorder.trained), csv_lines(self.lines))


def part_of(folder: Path, trained: int) -> Path:
    return folder / "state" / f"predictions-{trained}.csv"


def are_kept(folder: Path, trained: int) -> bool:
    """Whether every test up to that after so many experiences left its lines: a run can go on from there."""
    return all(part_of(folder, i).is_file() for i in range(trained + 1))


def write(folder: Path, T: int) -> None:
    """predictions.csv.gz of its parts, in one step; the same run gives the same bytes."""
    if not are_kept(folder, T):
        raise UserError(f"{folder / 'state'}: predictions were removed meanwhile; the same command tries again")
    parts = (part_of(folder, i).read_bytes() for i in range(T + 1))
    write_atomic(folder / PREDICTIONS, gzip.compress(b"".join([csv_lines([HEAD]).encode(), *parts]), mtime=0))
