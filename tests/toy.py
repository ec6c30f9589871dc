"""A run in a second: the tiny generated CLIP and 7 classes of coloured noise."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from generated import tiny_clip
from safetensors.torch import load_file

from lamm_cl.config.cards import card_for
from lamm_cl.config.schema import Scenario
from lamm_cl.data.dataset import Dataset, Split
from lamm_cl.sweeping.plan import Run
from lamm_cl.training import keeper
from lamm_cl.training.run import Prepared, complete, prepare

CLASSES = ("red", "green", "blue", "golden retriever", "black", "white", "grey cat")
SMALL = {"epochs": 2, "batch": 8, "augmentation": "none"}
DEPTHS = {  # what the contexts of cards say otherwise on towers of 3 blocks
    ("maple", "comma", "vpt"): {"depth": 3},
    ("ivlp", "promptsrc"): {"depth": 3, "depth_image": 3},
    ("tcp",): {"block": 2},
    ("dualprompt",): {"e_blocks": [2]},
    ("codaprompt",): {"pool": 6, "blocks": [0, 2]},
}
NARROW = {  # the heads of cards, for a few images and narrow towers
    "ranpac": {"M": 64},
    "ranpac-released": {"M": 64},
    "acil": {"buffer": 64},
    "bofa": {"Kt": 8},
    "bofa-c3box": {"Kt": 8},
}


def shallow(method: str) -> dict:
    """The overrides of a card for towers of 3 blocks."""
    return next(({"context": dict(changes)} for starts, changes in DEPTHS.items() if method.startswith(starts)), {})


OVERRIDES = {
    method: {"training": SMALL} | shallow(method)
    for method in (
        "coop",
        "cocoop",
        "maple",
        "comma",
        "comma-released",
        "lamm",
        "coop+lamm",
        "maple+lamm",
        "maple+lamm-released",
        "coop-16-csc",
        "kgcoop",
        "prograd",
        "promptsrc",
        "ivlp",
        "vpt",
        "tcp",
        "kgcoop+lamm",
        "promptsrc+lamm",
        "clip-adapter",
        "taskres",
    )
}
PLUGINS = {  # cards with EWC, LwF, replay or DER
    "coop+ewc": {"training": SMALL},
    "coop+lwf": {"training": SMALL},
    "coop+replay": {"training": SMALL, "memory": {"total": 9}},
    "coop+der": {"training": SMALL, "memory": {"total": 9}},
    "maple+replay": {"training": SMALL, "memory": {"total": 9}} | shallow("maple"),
    "lamm+replay": {"training": SMALL, "memory": {"total": 9}},
}


def dataset(train_images: int = 6, test_images: int = 9) -> Dataset:
    def part(n: int, seed: int) -> Split:
        labels = np.repeat(np.arange(len(CLASSES)), n)
        draw = np.random.RandomState(seed)
        colours = np.random.RandomState(0).randint(0, 255, (len(CLASSES), 1, 1, 3))
        noise = draw.randint(-60, 60, (len(labels), 16, 16, 3))
        return Split((colours[labels] + noise).clip(0, 255).astype(np.uint8), labels)

    return Dataset("toy", CLASSES, part(train_images, 1), part(test_images, 2), "a photo of a {}.", "f" * 64, ())


def scenario(**changes) -> Scenario:
    facts = dict(name="toy", version=1, backbone={"architecture": "lamm-cl-mini", "weights": "embedded"}, datasets=["toy"],
                 experiences="halves",
                 order="dataset", shots=4, seeds=[1], methods=["zero-shot"], overrides=OVERRIDES | PLUGINS)  # fmt: skip
    return Scenario(**(facts | changes))


def planned(folder, method: str, seed: int = 1, **changes) -> Run:
    measured = scenario(**changes)
    return Run(measured, "toy", method, card_for(measured, method), measured.shots[0], seed, folder)


def prepared(run: Run, cache) -> Prepared:
    return prepare(run, tiny_clip(), dataset(), cache)


def run(tmp_path, method: str, seed: int = 1, folder: str = "run", save_every: float = 30, logs: tuple[str, ...] = (), **changes):
    """-> (record, learned tensors) of one run."""
    one = planned(tmp_path / folder, method, seed, **changes)
    record = complete(prepared(one, tmp_path / "cache"), lambda at: None, save_every=save_every, logs=logs)
    return record, load_file(one.folder / "learned.safetensors")


class Killed(BaseException):
    pass


@contextmanager
def killed(moment: int, target=keeper, name: str = "write_state") -> Iterator[list[tuple]]:
    """The process dies in here, right after the `moment`-th call of target.name: of a run, when it has saved so many states.
    -> what the calls were given; all is as before behind it.
    """
    plain, calls = getattr(target, name), []

    def dying(*arguments, **options):
        found = plain(*arguments, **options)
        calls.append(arguments)
        if len(calls) == moment:
            raise Killed
        return found

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(target, name, dying)
        yield calls


def train(run: Run, settings, progress) -> None:
    """For sweeps: the toy's images and CLIP, really trained."""
    complete(prepared(run, settings.cache), progress, save_every=settings.save_every, logs=settings.logs,
             keep_predictions=settings.predictions)  # fmt: skip
