"""Plays lamm_cl.training.run in every process that has this folder in PYTHONPATH and LAMM_CL_STANDIN set: runs of no time.

The seed decides what a run does: 66 crashes, 77 finds a mistake of the user's, 88 kills its process, 99 takes for ever;
all others write a file for each log that is asked for, and a record that depends on nothing but the run.
"""

import os
import signal
import sys
import time
from types import ModuleType, SimpleNamespace

CRASH, MISTAKE, DEATH, FOREVER = 66, 77, 88, 99


def run(run, *, progress, logs=(), **settings):
    import torch
    from fake_records import record

    from lamm_cl.config.identity import content_hash
    from lamm_cl.errors import UserError
    from lamm_cl.results.file import write_record

    progress(SimpleNamespace(experience=1, experiences=2, epoch=1, epochs=4, stage="train"))
    if run.seed == CRASH:
        raise RuntimeError(f"seed {CRASH} crashes")
    if run.seed == MISTAKE:
        raise UserError("context: depth: 9, but the towers have 4 blocks")
    if run.seed == DEATH:
        os.kill(os.getpid(), signal.SIGKILL)
    if run.seed == FOREVER:
        time.sleep(600)
    assert torch.get_num_threads() == 1
    for name in logs:
        (run.folder / "logs").mkdir(exist_ok=True)
        (run.folder / "logs" / name).touch(exist_ok=False)
    correct = [[50, 50], [80 - run.seed, 50], [70, 90]]
    made = record(correct, dataset=run.dataset, method=run.method, shots=run.shots, seed=run.seed)
    scenario = run.scenario.model_dump(mode="json") | {"hash": content_hash(run.scenario)}
    card = run.card.model_dump(mode="json") | {"hash": content_hash(run.card)}
    facts = made.run.__class__(run.scenario.name, run.scenario.version, run.dataset, run.method, run.shots, run.seed)
    write_record(made.__class__(**vars(made) | {"run": facts, "scenario": scenario, "card": card}), run.folder)


class OneThread(ModuleType):
    """As much of torch as a sweep touches itself, without the seconds that its import takes."""

    Tensor = type("Tensor", (), {})  # SciPy asks every array whether it is one
    threads = 2
    cuda = SimpleNamespace(is_available=lambda: False, OutOfMemoryError=MemoryError, empty_cache=lambda: None)

    def get_num_threads(self) -> int:
        return self.threads

    def set_num_threads(self, threads: int) -> None:
        self.threads = threads


class Estimate(ModuleType):
    """A sweep of no cost, measured in no time; which pieces a card has does not matter to it."""

    Sizes = staticmethod(lambda *counts: counts)
    work = staticmethod(lambda *_: SimpleNamespace(encoded=7, prompted=0, prompts=0, seconds=lambda speed: (0, 0, 0)))
    speed = staticmethod(lambda architecture, precision, device: SimpleNamespace(images=1.0, prompts=1.0, D=1))
    find = None


PLAYED = ("lamm_cl.training.run", "lamm_cl.sweeping.estimate", "lamm_cl.bench.speed", "lamm_cl.learner.build")
played = {name: Estimate(name) for name in PLAYED} | {"torch": OneThread("torch")}
played["lamm_cl.training.run"].run = run
if os.environ.get("LAMM_CL_STANDIN"):
    sys.modules.update(played)
