"""Class-incremental methods on frozen features: tests/fidelity_cil/README.md.

The heads stand in ordinary learners, whose towers are a table of the generated text features.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from generated import fill
from torch import Tensor

from fidelity_readers.heads_inputs import Shown
from lamm_cl.config.schema import Backbone, Card, Training
from lamm_cl.learner.build import build
from lamm_cl.learner.shown import Images
from lamm_cl.methods.rapf import Fused, fused
from lamm_cl.towers.features import FeaturesOnly
from lamm_cl.training.optimizing import learning_rate, optimizer, set_rate


@dataclass
class World:
    """The data of a case."""

    case: dict
    salt: str

    def __post_init__(self):
        self.given = self.case["world"]
        ends = np.cumsum(self.given["tasks"]).tolist()
        self.experiences = [range(end - n, end) for n, end in zip(self.given["tasks"], ends)]
        self.C, self.D = ends[-1], self.given["dim"]

    def made(self, name: str, shape, std: float = 1.0) -> Tensor:
        return fill(name, shape, std, 0.0, self.salt)

    def images(self, part: str, t: int) -> Shown:
        g, classes = self.given, self.experiences[t]
        y = torch.from_numpy(np.repeat(np.array(classes), [g[part][c % len(g[part])] for c in classes]))
        centre, bias = self.made("centre", (self.C, self.D)), self.made("bias", (self.D,), g["bias"])
        return Shown(g["scale"] * (centre[y] + bias + g["spread"] * self.made(f"{part}.{t}", (len(y), self.D))), y)

    def tested(self, t: int) -> Shown:
        """The test images of all experiences so far."""
        parts = [self.images("test", i) for i in range(t + 1)]
        return Shown(torch.cat([part.raw for part in parts]), torch.cat([part.y for part in parts]))

    def texts(self) -> Tensor:
        """(C, D), unit, of the case's template."""
        g, E = self.given, self.given.get("text_dim", self.D)
        common, template = self.made("text.bias", (E,), g["text_bias"]), self.case["hyper"]["template"]
        rows = [common + self.made(f"text:{template.format(name)}", (E,)) for name in self.case["classnames"]]
        return F.normalize(g["text_scale"] * torch.stack(rows), dim=-1)

    def batches(self, t: int, epoch: int, n: int):
        order = np.random.RandomState(self.given["order_seed"] + 1000 * t + epoch).permutation(n)
        return torch.from_numpy(order).split(self.given["batch"])


class Drawn:
    """What a step of RAPF draws, as inputs."""

    def __init__(self, world: World, head: Fused):
        self.world, self.head, self.t, self.s = world, head, 0, 0
        self.first: dict[str, Tensor] = {}  # what is replayed in an experience's first step
        self.samples = head.replayed
        head.noise, head.order, head.replayed = self.noise, self.order, self.replayed

    def noise(self, what: str, n: int, samples: int) -> Tensor:
        named = f"noise.t{self.t}.s{self.s}.{what}"
        return torch.stack([self.world.made(f"{named}.{j}", (samples, self.world.D)) for j in range(n)])

    def order(self, old: int) -> Tensor:
        seed = self.world.given["shuffle_seed"] + 1000 * self.t + int(self.head.epoch)
        return torch.from_numpy(np.random.RandomState(seed).permutation(old))

    def replayed(self, classes: list[int], noise: Tensor) -> Tensor:
        x = self.samples(classes, noise)
        self.first.setdefault("old" if noise.shape[1] == self.head.samples else "pair", x)
        return x


def rapf(case: dict, cases: dict) -> dict:
    world, hyper, found, accuracy = World(case, cases["salt"]), case["hyper"], {}, []
    increment = world.given["tasks"][1]
    classes = {"imagenet_R": 5, "cub200": 10}.get(hyper["dataset"], 4 if (hyper["dataset"], increment) == ("cifar100", 5) else 2)
    card = Card(key="case", name="case", paper="-", label_space="seen", trainable="", provenance={},
                head={"use": "rapf.Fused", "beta": float(hyper["beta"]), "mix": hyper["mix_bias"], "classes": classes,
                      "threshold": hyper["threshold"], "shrink": float(hyper["shrinkage"])})  # fmt: skip
    training = Training(epochs=hyper["epochs"], batch=world.given["batch"], optimizer="adam", lr=hyper["lr"], weight_decay=0.0,
                        schedule={"milestones": hyper["milestones"], "factor": 0.1}, augmentation="none")  # fmt: skip
    texts = world.texts()
    tower = FeaturesOnly(Backbone(architecture="features", weights="generated")).of("case", "case", world.D, texts)
    tower.scale = torch.tensor(hyper["logit_scale"]).exp()
    model = build(card, tower, case["classnames"], world.experiences)
    head = model.head
    head.W.data.copy_(world.made("adapter.weight", (world.D, world.D), (3 * world.D) ** -0.5))
    drawn = Drawn(world, head)
    for t, mine in enumerate(world.experiences):
        shown, seen = world.images("train", t), range(mine.stop)
        steps: list[dict] = []
        drawn.t, drawn.s, drawn.first = t, 0, {}
        model.begin(t)
        model.observe(t, shown)
        adam, weights, n = optimizer(training, model), [head.W.detach().clone()], len(shown.y)
        for epoch in range(training.epochs):
            for ids in world.batches(t, epoch, n):
                adam.zero_grad()
                _, terms = model.loss(Images(frozen=shown.unit[ids], raw=shown.raw[ids]), shown.y[ids])
                sum(terms.values()).backward()
                rate = learning_rate(training, epoch)
                steps.append({"loss": sum(terms.values()).item(), "loss_ce": terms["cross_entropy"].item(), "lr": rate,
                              "loss_hinge": terms["hinge"].item() if "hinge" in terms else 0.0,
                              "grad": head.W.grad.clone()})  # fmt: skip
                set_rate(adam, rate)
                adam.step()
                weights.append(head.W.detach().clone())
                drawn.s += 1
            model.after_epoch(epoch, training.epochs)
        model.finish(t)
        test = world.tested(t)
        with torch.no_grad():
            logits = model.eval().output(Images(frozen=test.unit, raw=test.raw), seen).logits
        model.train()
        accuracy.append(100 * (logits.argmax(dim=1) == test.y).double().mean().item())
        covariances = [head.covariance(shown.raw[shown.y == c]).dense() for c in mine]
        after = {name: [step[name] for step in steps] for name in ("loss", "loss_ce", "loss_hinge", "lr")} | {
            "class_name_features": texts[: mine.stop],
            "grad": torch.stack([step["grad"] for step in steps[:5]]),
            "weight": torch.stack(weights[:6]),
            "weight_before_fusion": weights[-1],
            "weight_after_fusion": head.W.detach().clone(),
            "class_mean": torch.stack(head.m[mine.start :]),
            "class_cov": torch.stack(covariances),
            "logits": logits,
        }
        if t:
            after |= {
                "class_distance": torch.cdist(texts[: mine.start], texts[mine.start : mine.stop]),
                "hard_pairs": head.pairs,
                "fusion_mask": fused(weights[-1], head.W_old, head.mix)[1],
            } | {f"{what}_samples_step0": x for what, x in drawn.first.items()}
        found |= {f"t{t}/{name}": value for name, value in after.items()}
    return found | {"accuracy": accuracy}


READERS = {"RAPF": rapf}
