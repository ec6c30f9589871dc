"""A data set through a frozen CLIP, as an .npz of features (data/features.py): what the bank knows, for use elsewhere."""

import io
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from lamm_cl.config.cards import load_card
from lamm_cl.config.schema import Backbone
from lamm_cl.data.dataset import Dataset
from lamm_cl.errors import UserError
from lamm_cl.learner.build import build
from lamm_cl.towers.backbones import load
from lamm_cl.towers.clip import Prompts
from lamm_cl.towers.devices import one_thread
from lamm_cl.training.features import Features, Pixels
from lamm_cl.training.run import facts_of_features


@torch.no_grad()
def export(dataset: Dataset, backbone: Backbone, cache: Path, device: str) -> bytes:
    """The content of the file: features as they leave the tower, before they are normalised, and the texts' under the data
    set's template.  The same bank gives the same bytes."""
    if dataset.features:
        raise UserError(f"{dataset.name}: holds {dataset.kind} already")
    if dataset.chain:
        raise UserError(f"{dataset.name}: is a chain; a file of features is of one of its datasets")
    if not len(dataset.train):
        raise UserError(f"{dataset.name}: has test images only; a file of features needs training features too")
    with one_thread():
        frozen = load(backbone).to(device)
        arrays = {}
        for part, split in (("train", dataset.train), ("test", dataset.test), ("val", dataset.val)):
            if split is None:
                continue
            facts = facts_of_features(frozen) | {"dataset": dataset.fingerprint, "split": part}
            ids = torch.arange(len(split))
            features = Features(Pixels(split, frozen), ids, facts, cache / "features", ("unit", "raw"))
            arrays |= {f"{part}_x": features.batch(ids, 0, "raw").cpu().numpy(), f"{part}_y": split.labels}
        names = list(dataset.classes)
        model = build(load_card("zero-shot"), frozen, names, [range(len(names))], template=dataset.template, dataset=dataset.name)
        text = model.texts.encode(Prompts(), range(len(names))).cpu().numpy()
    origin = (
        f"{dataset.name} through {backbone.architecture} {backbone.weights} (weights {frozen.weights_hash[:16]}, "
        f"{frozen.precision}), texts {dataset.template!r}, by lamm-cl {version('lamm-cl')}"
    )
    file = io.BytesIO()
    np.savez(file, **arrays, text=text, names=np.array(names, dtype=str), origin=np.array(origin))
    return file.getvalue()
