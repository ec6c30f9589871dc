"""The steps of a stream of tests/fidelity_towers/README.md, by the moments, the optimizer and the rates of a run."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from generated import fill, frozen_clip, images
from torch import Tensor

from lamm_cl.config.lengths import training_of
from lamm_cl.config.schema import Card, Training
from lamm_cl.learner.build import build
from lamm_cl.learner.model import Learner
from lamm_cl.learner.shown import Images
from lamm_cl.towers.clip import FrozenCLIP
from lamm_cl.training.optimizing import clip, learning_rate, optimizer, set_rate

READERS: dict = {}
CLIPS: dict[tuple, FrozenCLIP] = {}


def keep(name: str, shape, p: float, salt: str) -> Tensor:
    """A dropout mask, already divided by what is kept."""
    drawn = np.random.RandomState(zlib.crc32((salt + name).encode())).random_sample(shape)
    return torch.from_numpy((drawn >= p).astype(np.float32)) / (1 - p)


@dataclass
class Played:
    """One case.  parameter: the authors' name of a parameter -> ours;  shown: pixels and labels -> what a step brings."""

    case: dict
    cases: dict
    card: Card
    parameter: Callable[[Learner, str], Tensor]
    shown: Callable[["Played", Tensor], Images] = lambda played, pixels: Images(pixels=pixels)
    found: dict = field(default_factory=dict)

    def __post_init__(self):
        self.salt, self.names = self.cases["salt"], [name for name in self.case["classnames"]]
        ends = np.cumsum([len(each["classes"]) for each in self.case["experiences"]]).tolist()
        self.experiences = [range(end - len(e["classes"]), end) for e, end in zip(self.case["experiences"], ends)]
        for e, classes in zip(self.case["experiences"], self.experiences):
            assert e["classes"] == list(classes)
        self.clip = self.clip_with(self.arch["activation"])
        self.model = self.built(self.card)
        self.initialise(self.model)

    @property
    def arch(self) -> dict:
        return self.cases["architectures"][self.case["arch"]]

    def clip_with(self, activation: str) -> FrozenCLIP:
        at = self.salt, str(self.arch), activation
        if at not in CLIPS:
            CLIPS[at] = frozen_clip(self.arch | {"activation": activation}, self.salt)
        return CLIPS[at]

    def built(self, card: Card) -> Learner:
        return build(card, self.clip, self.names, self.experiences, shots=self.case["hyper"].get("shots", 1))

    @torch.no_grad()
    def initialise(self, model: Learner) -> None:
        for name, how in self.case["initialisation"].items():
            value = fill(how.get("fill_name") or name, how["shape"], how["std"], how["mean"], self.salt)
            ours = self.parameter(model, name)
            assert ours.numel() == value.numel(), name
            ours.copy_(value.view_as(ours))

    def batches(self, e: int) -> list[tuple[Images, Tensor]]:
        return [
            (self.shown(self, images(each["seed"], len(each["labels"]), self.arch["image"])), torch.tensor(each["labels"]))
            for each in self.case["experiences"][e]["batches"]
        ]

    @property
    def held_out(self) -> Tensor:
        return images(self.case["eval_images"]["seed"], self.case["eval_images"]["batch"], self.arch["image"])

    @torch.no_grad()
    def output(self, pixels: Tensor, model: Learner | None = None, classes: range | None = None):
        """In evaluation; over all classes of the stream unless some are named."""
        model = model or self.model
        model.eval()
        out = model.output(self.shown(self, pixels), classes or model.classes)
        model.train()
        return out

    def steps(self, e: int, training: Training, count: int, per_epoch: int) -> Iterator[int]:
        """Before every step its number; what it gives goes into `found`."""
        model, batches = self.model, self.batches(e)
        model.train()
        current = training_of(training, e, self.case["hyper"].get("shots", 1))
        names = self.case["trainable"]
        ours = {name: self.parameter(model, name) for name in names}
        mine = {id(p) for p in model.parameters() if p.requires_grad}
        assert mine == {id(p) for p in ours.values()}, "what is trained differs"
        made = optimizer(current, model)
        rows, norms, losses = {n: [p.detach().clone()] for n, p in ours.items()}, {n: [] for n in names}, []
        for step in range(count):
            yield step
            x, y = batches[step % len(batches)]
            made.zero_grad()
            out, terms = model.loss(x, y)
            total = sum(terms.values())
            model.backward(terms, total)
            clip(current, made)
            rate = learning_rate(current, step // per_epoch, step % per_epoch, per_epoch)
            set_rate(made, step // per_epoch, step % per_epoch, per_epoch)
            losses.append({"loss": total.item(), "lr": rate} | self.step_facts(out, terms))
            for name, p in ours.items():
                gradient = torch.zeros_like(p) if p.grad is None else p.grad
                norms[name].append(gradient.double().norm().item())
                if e == 0 and step == 0:
                    self.part(f"grad/e1/{name}", f"grad_sub/e1/{name}", gradient.clone(), 256)
            made.step()
            for name, p in ours.items():
                rows[name].append(p.detach().clone())
        k = e + 1
        self.found |= {f"train/e{k}/{name}": [row[name] for row in losses] for name in losses[0]}
        for name in names:
            values = torch.stack(rows[name])
            flat = values.flatten(1).double()
            self.found[f"grad_norm/e{k}/{name}"] = norms[name]
            self.found[f"delta_norm/e{k}/{name}"] = (flat - flat[0]).norm(dim=1)
            if e == 0:
                self.part(f"param/e1/{name}", f"param_sub/e1/{name}", values, 128, leading=1)
            else:
                self.part(f"param_end/e{k}/{name}", f"param_end_sub/e{k}/{name}", values[-1], 128)

    def part(self, whole: str, sub: str, x: Tensor, m: int, leading: int = 0) -> None:
        """An array, or as many of its elements as the case has."""
        arrays = self.case["arrays"]
        if whole in arrays:
            self.found[whole] = x.reshape(arrays[whole]["shape"])
        if sub in arrays:
            flat = x.flatten(leading)
            n = flat.shape[-1]
            self.found[sub] = flat[..., [j * n // m for j in range(m)]]

    def step_facts(self, out, terms: dict) -> dict:
        """What else a family tells of every step."""
        return {}
