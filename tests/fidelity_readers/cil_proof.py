"""PROOF: tests/fidelity_cil/README.md."""

import re
import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fidelity_readers.cil import Tower, World, learner_of, percent, steps
from fidelity_readers.cil_bofa import Traced
from fidelity_readers.heads_inputs import Shown
from lamm_cl.config.schema import Card, Training
from lamm_cl.learner.shown import Images
from lamm_cl.methods.proof import Attention, Released

ATTENTION = {"w_qs": "q", "w_ks": "k", "w_vs": "v", "fc": "out", "layer_norm": "norm"}


def our_name(theirs: str) -> str:
    """The authors' name of a parameter -> ours in the head."""
    if theirs == "convnet.logit_scale":
        return "s"
    if found := re.fullmatch(r"context_prompts\.(\d+)", theirs):
        return f"contexts.{found[1]}"
    if found := re.fullmatch(r"projs_(img|text)\.(\d+)\.MLP\.0\.(weight|bias)", theirs):
        return f"{'images' if found[1] == 'img' else 'texts'}.{found[2]}.{found[3]}"
    _, module, name = theirs.split(".")
    return f"attention.{ATTENTION[module]}.{name}"


def start(world: World, theirs: str, p: Tensor) -> Tensor:
    if "layer_norm" in theirs or theirs == "convnet.logit_scale":
        return p  # ones and zeros, and CLIP's own scale
    std = 1.0 if theirs.startswith("context") else (3 * world.D) ** -0.5 if theirs.startswith("projs") else world.D**-0.5
    return world.made(theirs, p.shape, 0.05 if theirs == "sel_attn.fc.bias" else std)


class Masks:
    """Dropout of a step, as an input.  t, s: experience, and step in it."""

    def __init__(self, world: World, attention: Attention):
        self.world, self.attention, self.t, self.s = world, attention, 0, 0
        attention.dropped = self.dropped

    def dropped(self, x: Tensor, what: str) -> Tensor:
        if not self.attention.training:
            return x
        p = self.attention.p
        draw = np.random.RandomState(zlib.crc32(f"{self.world.salt}dropout.t{self.t}.s{self.s}.{what}".encode()))
        return x * torch.from_numpy(draw.random_sample(tuple(x.shape)) >= p) / (1 - p)


def proof(case: dict, cases: dict) -> dict:
    world, hyper, found, accuracy = World(case, cases["salt"]), case["hyper"], {}, []
    size = {"per_class": hyper["memory_per_class"]} if hyper["fixed_memory"] else {"total": hyper["memory_size"]}
    kind = {"sgd": {"optimizer": "sgd", "momentum": 0.9}, "adam": {"optimizer": "adamw"}}[hyper["optimizer"]]
    training = Training(epochs=hyper["tuned_epoch"], batch=world.given["batch"], lr=hyper["init_lr"], augmentation="none",
                        weight_decay=hyper["weight_decay"], schedule={"use": "annealing", "floor": float(hyper["min_lr"])},
                        **kind)  # fmt: skip
    card = Card(key="case", name="case", paper="-", label_space="seen", trainable="", provenance={}, training=training,
                memory={"use": "exemplars.Exemplars", "choose": "herding", **size},
                head={"use": "proof.Released", "contexts": 3, "dropout": hyper["dropout"],
                      "together": world.given["batch"]})  # fmt: skip
    model = learner_of(world, card, Tower(world), world.raw_texts(hyper["templates"]))
    head = model.head
    masks = Masks(world, head.attention)
    parts = [world.images("train", t) for t in range(len(world.experiences))]
    raw, y = torch.cat([part.raw for part in parts]), torch.cat([part.y for part in parts])
    begun: set[str] = set()
    for t, mine in enumerate(world.experiences):
        seen, masks.t, masks.s = range(mine.stop), t, 0
        parts[t].first = sum(len(part.y) for part in parts[:t])
        model.begin(t)
        model.observe(t, parts[t])
        ours = {our_name(name): name for name in case["trainable"][t]}
        named = {name: p for name, p in head.named_parameters() if p.requires_grad}
        assert named.keys() == ours.keys(), "what is trained differs"
        for name, p in named.items():
            if name not in begun:
                p.data.copy_(start(world, ours[name], p))
        begun |= named.keys()

        def parameters(named=named, ours=ours):
            return {ours[name]: (p, p.grad) for name, p in named.items()}

        ids = torch.cat([parts[t].ids, model.memory.samples(model.experience(t))])
        traced, rows = Traced(), []
        for made, _, terms in steps(world, model, training, t, Shown(raw[ids], y[ids])):
            [group] = made.param_groups
            traced.take(parameters())
            names = {"loss_ce": "cross_entropy", "loss_proto": "prototype", "loss_clip": "clip"}
            rows.append({"loss": sum(terms.values()).item(), "lr": group["lr"]}
                        | {theirs: terms[name].item() for theirs, name in names.items()})  # fmt: skip
            masks.s += 1
        traced.take(parameters())
        model.finish(t)
        memory = torch.cat([kept[: model.memory.room(mine.stop)] for kept in model.memory.kept])
        after = {name: [row[name] for row in rows] for name in rows[0]}
        after |= {"prototypes": head.m, "memory": memory, "memory_labels": y[memory]}
        after |= {f"param/{name}": torch.stack(values[:6]) for name, values in traced.values.items()}
        after |= {f"grad/{name}": torch.stack(values[:5]) for name, values in traced.gradients.items()}
        after |= {f"final/{name}": values[-1] for name, values in traced.values.items()}
        after |= tested(model.eval(), world.tested(t), seen)
        model.train()
        accuracy.append(round(percent(after["eval/logits"], world.tested(t).y), 2))  # as they print it
        found |= {f"t{t}/{name}": value for name, value in after.items()}
    return found | {"accuracy": accuracy}


@torch.no_grad()
def tested(model: nn.Module, test: Shown, seen: range) -> dict:
    head: Released = model.head
    fuse: Callable = head.fused
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    head.fused = lambda i, t: kept.append(fuse(i, t)) or kept[-1]
    x: Images = test.images()
    logits = model.output(x, seen).logits
    head.fused = fuse
    return {"eval/logits": logits, "eval/fused_image": torch.cat([image for image, _, _ in kept]),
            "eval_last_batch/fused_text": kept[-1][1], "eval_last_batch/fused_prototype": kept[-1][2]}  # fmt: skip


READERS = {"PROOF": proof}
