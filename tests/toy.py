"""A run in a second: the tiny generated CLIP and 7 classes of coloured noise."""

import numpy as np
from generated import tiny_clip

from lamm_cl.config.cards import card_for
from lamm_cl.config.schema import Scenario
from lamm_cl.data.dataset import Dataset, Split
from lamm_cl.sweeping.plan import Run
from lamm_cl.training import run as train

CLASSES = ("red", "green", "blue", "golden retriever", "black", "white", "grey cat")
SMALL = {"epochs": 2, "batch": 8, "augmentation": "none"}
OVERRIDES = {
    method: {"training": SMALL} | ({"context": {"depth": 3}} if method.startswith(("maple", "comma")) else {})
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
    )
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
                 order="dataset", shots=4, seeds=[1], methods=["zero-shot"], overrides=OVERRIDES)  # fmt: skip
    return Scenario(**(facts | changes))


def run(tmp_path, monkeypatch, method: str, seed: int = 1, folder: str = "run", save_every: float = 30,
        logs: tuple[str, ...] = (), **changes):  # fmt: skip
    """-> (record, learned tensors) of one run through lamm_cl.train.run."""
    from safetensors.torch import load_file

    monkeypatch.setattr(train, "backbone_on", lambda backbone, device: tiny_clip())
    monkeypatch.setattr(train, "dataset_in", lambda name, data_root, cache: dataset())
    measured = scenario(**changes)
    one = Run(measured, "toy", method, card_for(measured, method), measured.shots[0], seed, tmp_path / folder)
    record = train.run(
        one, data_root=None, cache=tmp_path / "cache", device="cpu", progress=lambda at: None, save_every=save_every, logs=logs
    )
    return record, load_file(one.folder / "learned.safetensors")
