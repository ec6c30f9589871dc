"""The doors that the command line opens: what trains and what follows from records, for sweeps, which know neither.

The only way from here to torch and to the tables of a sweep: both are imported when a door is opened, not before.
"""

from collections.abc import Callable
from pathlib import Path

from lamm_cl.sweeping.execute import Settings
from lamm_cl.sweeping.plan import Progress, Run
from lamm_cl.sweeping.publish import publish as publish_with


def train(run: Run, settings: Settings, progress: Callable[[Progress], None]) -> None:
    """Do one run with one thread of torch: sums, and so results, depend neither on the cores nor on the number of jobs."""
    from lamm_cl.training.run import do

    do(run, data_root=settings.data_root, cache=settings.cache, device=settings.device, progress=progress,
       save_every=settings.save_every, checkpoint=settings.checkpoint, logs=settings.logs,
       keep_predictions=settings.predictions, linears=settings.linears)  # fmt: skip


def derived(folder: Path) -> dict[str, str]:
    """Name -> content of records.csv and the tables of a results folder."""
    from lamm_cl.reports.derived import derived_files

    return derived_files(folder)


def publish(run: Run, tell: Callable[[str], None] = lambda text: None) -> None:
    publish_with(run, derived, tell)
