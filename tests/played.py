"""Training that is played: runs of no time, in this process and in the workers it starts.

The seed decides what a run does: 66 crashes, 77 finds a mistake of the user's, 88 kills its process, 99 takes for ever, 55 too
the first time that it is tried;
all others write a file for each log that is asked for, and a record that depends on nothing but the run.

As a script it is lamm-cl with training played: python tests/played.py run demo ...
"""

import os
import signal
import sys
import time
from dataclasses import replace
from types import ModuleType, SimpleNamespace

from fake_records import record

from lamm_cl.cli import doors, main
from lamm_cl.config.identity import content_hash
from lamm_cl.data import catalogue
from lamm_cl.errors import UserError
from lamm_cl.results.file import write_record
from lamm_cl.sweeping.code import of_card
from lamm_cl.sweeping.plan import Progress

ONCE, CRASH, MISTAKE, DEATH, FOREVER = 55, 66, 77, 88, 99


def train(run, settings, progress):
    progress(Progress(experience=1, experiences=2, epoch=1, epochs=4, stage="train"))
    if run.seed == CRASH:
        raise RuntimeError(f"seed {CRASH} crashes")
    if run.seed == MISTAKE:
        raise UserError("context: depth: 9, but the towers have 4 blocks")
    if run.seed == DEATH:
        os.kill(os.getpid(), signal.SIGKILL)
    tried = run.folder / "tried"
    if run.seed == FOREVER or (run.seed == ONCE and not tried.exists()):
        tried.touch()
        time.sleep(600)
    if tried.exists():
        tried.unlink()
    for name in settings.logs:
        (run.folder / "logs").mkdir(exist_ok=True)
        (run.folder / "logs" / name).touch(exist_ok=False)
    correct = [[50, 50], [max(80 - run.seed, 0), 50], [70, 90]]
    made = record(correct, dataset=run.dataset, method=run.method, shots=run.shots, seed=run.seed)
    facts = replace(made.run, scenario=run.scenario.name, version=run.scenario.version)
    scenario = run.scenario.model_dump(mode="json") | {"hash": content_hash(run.scenario)}
    card = run.card.model_dump(mode="json") | {"hash": content_hash(run.card)}
    seen = made.dataset
    if (settings.cache / "worlds").exists():  # the command line loaded the data, and compares them with finished runs
        seen = replace(seen, fingerprint=catalogue.load(run.dataset, settings.data_root, settings.cache).fingerprint)
    write_record(replace(made, run=facts, scenario=scenario, card=card, dataset=seen, code=of_card(run.card)), run.folder)


def estimated() -> dict[str, ModuleType]:
    """The room that a dry run asks, played: a sweep of no cost, measured in no time."""
    names = {
        "lamm_cl.bench.speed": {"known": lambda *_: (SimpleNamespace(images=1.0, prompts=1.0, D=1), "2026-01-01")},
    }
    rooms = {name: ModuleType(name) for name in names}
    for name, room in rooms.items():
        vars(room).update(names[name])
    return rooms


if __name__ == "__main__":
    import played  # the module that workers import, not __main__

    if "PLAYED_WITHOUT_FIGURES" in os.environ:  # they take longer than all the rest
        main.run.MANY = -1
    sys.modules.update(estimated())
    doors.train = played.train
    main.command()
