"""Training curves of a run, for those who want them: <run.folder>/logs/training.csv, and TensorBoard or W&B files beside it.

training.csv is the journal: `experience,epoch,name,value`, where `epoch` epochs of `experience` (from 1; 0: untrained) are done.
A run that goes on from a saved state drops the rows after it, and the other formats are begun anew from the rows that stay.

TensorBoard's files come from torch's SummaryWriter and W&B's from wandb itself.  Avalanche's loggers wrap these two for the
metrics of its own evaluator, which knows one label space and is not asked here (see train.Recorder).
"""

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lamm_cl.extras import check_logs
from lamm_cl.files import write_atomic
from lamm_cl.sweeping.plan import Run
from lamm_cl.training.loop import Loop
from lamm_cl.training.recorder import Recorder
from lamm_cl.training.state import State

JOURNAL = "training.csv"
Write = Callable[[int, dict[str, float]], None]  # step, values by name


class Row(NamedTuple):
    experience: int
    epoch: int
    name: str
    value: float


@contextmanager
def plugins_for(names: Sequence[str], run: Run, identity: dict[str, Any], *, epochs: Sequence[int], recorder: Recorder,
                resumed: State | None) -> Iterator[list["Curves"]]:  # fmt: skip
    """The plugins that write the logs `names` (of csv, tensorboard, wandb) while the run lasts; none for no names.

    epochs: of each experience.  recorder: whose counts become accuracies.  resumed: the state that the run goes on from.
    They come before what saves states: a row of a saved epoch is then always on disk.
    """
    if not names:
        yield []
        return
    check_logs(names)
    folder = run.folder / "logs"
    kept = list(rows_until(folder / JOURNAL, resumed))
    with ExitStack() as opened:
        journal = opened.enter_context(_journal(folder / JOURNAL, kept))
        writes = [opened.enter_context(FORMATS[name](folder, str(run), identity)) for name in names if name != "csv"]
        for (experience, epoch), rows in groupby(kept, lambda row: row[:2]):
            values = {row.name: row.value for row in rows}
            for write in writes:
                write(step(experience, epoch, epochs), values)
        yield [Curves(journal, writes, epochs, recorder)]


def step(experience: int, epoch: int, epochs: Sequence[int]) -> int:
    """The x of a curve: epochs done over the stream; experiences learned, for a method that does not train."""
    return sum(epochs[: max(experience - 1, 0)]) + epoch if any(epochs) else experience


class Curves:
    """An Avalanche plugin: per epoch the loss terms (as weighted, means over the images) with their sum and the learning
    rate, per evaluation the accuracies in %.  Sums stay on the device and are read once per epoch."""

    def __init__(self, journal: Callable[[Sequence[Row]], None], writes: Sequence[Write], epochs: Sequence[int],
                 recorder: Recorder):  # fmt: skip
        self.journal, self.writes, self.epochs, self.recorder = journal, writes, epochs, recorder
        self.told = len(recorder.counts)

    def before_training_epoch(self, strategy: Loop, **_: Any) -> None:
        self.images, self.sums = 0, {}

    def after_training_iteration(self, strategy: Loop, **_: Any) -> None:
        self.images += len(strategy.mb_y)
        for name, term in strategy.terms.items():
            self.sums[name] = self.sums.get(name, 0) + term.detach() * len(strategy.mb_y)

    def after_training_epoch(self, strategy: Loop, **_: Any) -> None:
        values = {f"loss/{name}": total / self.images for name, total in _read(self.sums).items()}
        values["loss/total"] = sum(values.values())
        group = strategy.optimizer.param_groups[0]
        values["learning_rate"] = group["lr"] / group["factor"]
        self._tell(strategy.experience.current_experience + 1, strategy.epoch + 1, values)

    def after_eval(self, strategy: Loop, **_: Any) -> None:
        new = self.recorder.counts[self.told :]
        self.told += len(new)
        values = {
            f"accuracy_{count.label_space}/experience_{count.tested}": 100 * count.correct / count.total
            for count in new
            if count.correct is not None and count.total
        }
        trained = strategy.model.learned
        self._tell(trained, self.epochs[trained - 1] if trained else 0, values)

    def _tell(self, experience: int, epoch: int, values: dict[str, float]) -> None:
        self.journal([Row(experience, epoch, name, value) for name, value in values.items()])
        for write in self.writes:
            write(step(experience, epoch, self.epochs), values)


def _read(sums: dict[str, Tensor]) -> dict[str, float]:
    """Scalars on a device -> numbers, in one transfer."""
    return dict(zip(sums, torch.stack(list(sums.values())).tolist()))


# --- formats ----------------------------------------------------------------------------------------------------------


def rows_until(path: Path, state: State | None) -> Iterator[Row]:
    """The rows of a journal up to a saved state; the accuracies of its own experience are measured after it."""
    if state is None or not path.exists():
        return
    for columns in csv.reader(path.read_text(errors="replace").splitlines()[1:]):
        try:
            row = Row(int(columns[0]), int(columns[1]), columns[2], float(columns[3]))
        except (IndexError, ValueError):  # a line that a power failure cut
            continue
        if row.name.startswith("accuracy_"):
            before = row.experience <= state.experience
        else:
            before = (row.experience, row.epoch) <= (state.experience + 1, state.epochs)
        if before:
            yield row


@contextmanager
def _journal(path: Path, kept: Sequence[Row]) -> Iterator[Callable[[Sequence[Row]], None]]:
    """training.csv with the rows that are kept, to append others to."""
    start = io.StringIO()
    csv.writer(start, lineterminator="\n").writerows([Row._fields, *kept])
    write_atomic(path, start.getvalue())
    with path.open("a", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")

        def write(rows: Sequence[Row]) -> None:
            lines.writerows(rows)
            file.flush()

        yield write


@contextmanager
def _tensorboard(folder: Path, title: str, identity: dict[str, Any]) -> Iterator[Write]:
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    with SummaryWriter(str(folder / "tensorboard"), flush_secs=10) as events:

        def write(at: int, values: dict[str, float]) -> None:
            for name, value in values.items():
                events.add_scalar(name, value, at)

        yield write


@contextmanager
def _wandb(folder: Path, title: str, identity: dict[str, Any]) -> Iterator[Write]:
    """Offline, whatever the environment says: a run needs no account and no network; `wandb sync` uploads it afterwards."""
    import wandb

    shutil.rmtree(folder / "wandb", ignore_errors=True)
    quiet = wandb.Settings(console="off", silent=True, disable_code=True, disable_git=True, x_disable_stats=True)
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]  # the same run again replaces itself
    curves = wandb.init(project="lamm-cl", name=title, id=key, config=identity, dir=folder, mode="offline", settings=quiet)
    failed = 1
    try:
        yield lambda at, values: curves.log(values, step=at)
        failed = 0
    finally:
        curves.finish(failed)  # its own `with` would print the traceback of an interrupt


FORMATS: dict[str, Callable[[Path, str, dict[str, Any]], AbstractContextManager[Write]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
