"""A finished run, from its record and its learned tensors: the model as it was when the run ended."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save
from torch import Tensor

from lamm_cl.config.identity import from_record
from lamm_cl.config.schema import Card, Scenario
from lamm_cl.data import catalogue
from lamm_cl.data.images import open_image
from lamm_cl.data.measured import named_templates
from lamm_cl.data.orders import ranges_of
from lamm_cl.errors import UserError
from lamm_cl.files import write_atomic
from lamm_cl.learner.build import build
from lamm_cl.learner.model import Learner
from lamm_cl.learner.pieces import Head
from lamm_cl.learner.prompts import each_with
from lamm_cl.learner.shown import Images
from lamm_cl.results.file import check_bytes, read_bytes, read_record
from lamm_cl.results.record import Record, bound_of
from lamm_cl.seeds import derive
from lamm_cl.towers.clip import FrozenCLIP, Prompts
from lamm_cl.towers.devices import device as resolved
from lamm_cl.training.features import onto
from lamm_cl.training.run import backbone_on

LEARNED = "learned.safetensors"
BATCH = 64


@dataclass(frozen=True)
class Reloaded:
    """A learner that has learned every experience, in evaluation; `names` are its classes by arrival."""

    record: Record
    learner: Learner
    names: tuple[str, ...]


def reload(run: Path, device: str = "auto") -> Reloaded:
    """The model of a run's folder. No image of its data is needed: what was observed of them is in the learned tensors.

    Raises UserError for what is no finished run, for tensors that are not the record's, and for other weights of the CLIP.
    """
    folder = run.parent if run.name == "record.json" else run
    if not (folder / "record.json").is_file():
        expected = "a folder with record.json, as results/demo/runs/digits/lamm/shots16-seed1"
        raise UserError(f"{run}: no finished run; expected {expected}")
    record = read_record(folder / "record.json")
    if LEARNED not in record.files:
        raise UserError(f"{folder}: {record}: its model was not kept (a strategy of one's own)")
    content = read_bytes(folder / LEARNED)
    check_bytes(content, record.files[LEARNED], folder / LEARNED)
    scenario = from_record(Scenario, record.scenario, f"{folder}: scenario")
    card = from_record(Card, record.card, f"{folder}: card")
    clip = backbone_on(scenario.backbone, resolved(device))
    if not isinstance(clip, FrozenCLIP):
        raise UserError(f"{folder}: {record}: learned from features; a CLIP that could encode images is not known")
    if clip.weights_hash != record.backbone.hash:
        raise UserError(f"{folder}: backbone: weights {scenario.backbone.weights} are others than those of the run")
    data = record.dataset
    experiences = ranges_of(data.experiences)
    members = zip(data.chain.names, data.chain.classes, strict=True) if data.chain else [(record.run.dataset, len(data.classes))]
    own = each_with([catalogue.template_of(name) for name, classes in members for _ in range(classes)])
    spoken = named_templates(scenario.templates or [own], f"{folder}: scenario")
    shots = record.run.shots if not isinstance(record.run.shots, str) else sum(data.train_images) / len(data.classes)
    learner = build(card, clip, list(data.classes), experiences, template=spoken[0], spoken=spoken,
                    dataset=record.run.dataset, shots=shots, train_label_space=scenario.train_label_space,
                    seed=derive(record.run.seed, "initial values"))  # fmt: skip
    for i in range(len(experiences)):
        learner.begin(i)
    try:
        tensors = tensors_of(content)
    except SafetensorError as error:
        raise UserError(f"{folder / LEARNED}: {error}") from None
    names = learner.learned_tensors().keys()
    if names != tensors.keys():
        method, other = bound_of(record.run.method)[0], ", ".join(sorted(names ^ tensors.keys())[:3])
        raise UserError(f"{folder / LEARNED}: this version of {method} has other tensors: {other}")
    learner.load_learned(tensors)
    return Reloaded(record, learner.eval(), data.told)


@torch.no_grad()
def logits(model: Reloaded, images: list[Path]) -> Tensor:
    """(B, C) of image files, over all classes."""
    clip, needs, found = model.learner.clip, model.learner.needs, []
    for start in range(0, len(images), BATCH):
        pixels = onto(clip.device, torch.stack([clip.preprocess(open_image(path)) for path in images[start : start + BATCH]]))
        every = clip.image_all(pixels)
        trunk = every.trunk if "trunk" in needs else None
        shown = Images(every.unit, every.raw, trunk, pixels if "pixels" in needs else None)
        found.append(model.learner(shown).cpu())
    return torch.cat(found)


@torch.no_grad()
def exported(model: Reloaded) -> tuple[dict[str, Tensor], dict]:
    """(tensors, facts) for use elsewhere: the text features of the classes where images are scored by their cosine with them,
    else what the method learned."""
    learner, record = model.learner, model.record
    texts = learner.texts if type(learner.head) is Head and not learner.context.reads_images else None
    facts = {
        "run": str(record), "method": record.card.get("name"), "classes": list(model.names),
        "experiences": list(record.dataset.experiences), "dataset": record.run.dataset,
        "backbone": {"architecture": record.backbone.architecture, "weights": record.backbone.weights,
                     "hash": record.backbone.hash, "preprocess": _plain(learner.clip.preprocess_facts)},
    }  # fmt: skip
    if texts is not None:
        prompts = learner.context.text(None, learner.classes) if learner.head.reads_text else Prompts()
        text = texts.features(prompts, learner.classes)
        plain = not learner.needs_pixels
        told = "the frozen tower's" if plain else "prompted or changed: a plain CLIP's image features do not fit these texts"
        facts |= {"kind": "text features", "images": told, "score": "softmax(scale * image @ text.T), image normalised"}
        return {"text": text.cpu().contiguous(), "scale": learner.clip.scale.detach().cpu().reshape(1)}, facts
    tensors = {name: tensor.cpu().contiguous() for name, tensor in learner.learned_tensors().items()}
    return tensors, facts | {"kind": "learned tensors", "head": type(learner.head).__name__}


def export_to(folder: Path, model: Reloaded) -> list[Path]:
    """Write `exported` -> [model.safetensors, model.json] in the folder."""
    tensors, facts = exported(model)
    write_atomic(folder / "model.safetensors", save(tensors))
    write_atomic(folder / "model.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return [folder / "model.safetensors", folder / "model.json"]


def _plain(facts: dict) -> dict:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in facts.items()}
