"""Class-incremental methods on frozen features: tests/fidelity_cil/README.md.

The heads stand in ordinary learners, whose towers are a table of the generated text features.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from generated import fill
from torch import Tensor
from torch.optim import Optimizer

from fidelity_readers.heads_inputs import Shown
from lamm_cl.config.schema import Backbone, Card, Training
from lamm_cl.learner.build import piece
from lamm_cl.learner.model import Learner
from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Labels, Words
from lamm_cl.learner.table import TextTable
from lamm_cl.methods.rapf import Fused, fused
from lamm_cl.towers.features import FeaturesOnly
from lamm_cl.training.optimizing import optimizer, set_rate


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

    def raw_texts(self, templates: list[str]) -> Tensor:
        """(templates, C, E)."""
        return torch.stack([self.raw([template.format(name) for name in self.case["classnames"]]) for template in templates])

    def raw(self, strings: list[str]) -> Tensor:
        """Text features (n, E) of any strings."""
        g, E = self.given, self.given.get("text_dim", self.D)
        common = self.made("text.bias", (E,), g["text_bias"])
        return g["text_scale"] * torch.stack([common + self.made(f"text:{each}", (E,)) for each in strings])

    def batches(self, t: int, epoch: int, n: int):
        order = np.random.RandomState(self.given["order_seed"] + 1000 * t + epoch).permutation(n)
        return torch.from_numpy(order).split(self.given["batch"])


@dataclass
class Tower(FeaturesOnly):
    """In place of a CLIP: the projection (w, D) of its image tower, and its scale."""

    world: World
    projection: Tensor | None = field(default=None)

    def __post_init__(self):
        super().__init__(Backbone(architecture="features", weights="generated"))
        self.D = self.world.given.get("text_dim", self.world.D)
        self.scale = torch.tensor(self.world.case["hyper"]["logit_scale"]).exp()


def learner_of(world: World, card: Card, tower: Tower, texts: Tensor) -> Learner:
    """The head and the memory of an ordinary card, on a table of texts (C, E) or (templates, C, E)."""
    given = dict(clip=tower, names=world.case["classnames"], template="", dataset="", shots=1, experiences=world.experiences)
    head, memory = piece(card, "head", given), piece(card, "memory", given)
    return Learner(tower, world.experiences, context=Words(), labels=Labels(), head=head, memory=memory,
                   texts=TextTable(texts, world.experiences), train_label_space=card.label_space)  # fmt: skip


def steps(world: World, model: Learner, training: Training, t: int, shown: Shown) -> Iterator[tuple[Optimizer, Output, dict]]:
    """Every step of an experience, when its gradients are there: the optimizer, whose rates are set, the output, loss terms."""
    made = optimizer(training, model)
    for epoch in range(training.epochs):
        for ids in world.batches(t, epoch, len(shown.y)):
            made.zero_grad()
            out, terms = model.loss(shown.images(ids), shown.y[ids])
            sum(terms.values()).backward()
            set_rate(made, epoch)
            yield made, out, terms
            made.step()
        model.after_epoch(epoch, training.epochs)


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
    texts = F.normalize(world.raw_texts([hyper["template"]])[0], dim=-1)
    model = learner_of(world, card, Tower(world), texts)
    head = model.head
    head.W.data.copy_(world.made("adapter.weight", (world.D, world.D), (3 * world.D) ** -0.5))
    drawn = Drawn(world, head)
    for t, mine in enumerate(world.experiences):
        shown, seen = world.images("train", t), range(mine.stop)
        rows: list[dict] = []
        drawn.t, drawn.s, drawn.first = t, 0, {}
        model.begin(t)
        model.observe(t, shown)
        for made, _, terms in steps(world, model, training, t, shown):
            rows.append({"loss": sum(terms.values()).item(), "loss_ce": terms["cross_entropy"].item(),
                         "lr": made.param_groups[0]["lr"], "loss_hinge": terms["hinge"].item() if "hinge" in terms else 0.0,
                         "grad": head.W.grad.clone(), "weight": head.W.detach().clone()})  # fmt: skip
            drawn.s += 1
        last = head.W.detach().clone()
        model.finish(t)
        test = world.tested(t)
        with torch.no_grad():
            logits = model.eval().output(test.images(), seen).logits
        model.train()
        accuracy.append(percent(logits, test.y))
        covariances = [head.covariance(shown.raw[shown.y == c]).dense() for c in mine]
        after = {name: [row[name] for row in rows] for name in ("loss", "loss_ce", "loss_hinge", "lr")} | {
            "class_name_features": texts[: mine.stop],
            "grad": torch.stack([row["grad"] for row in rows[:5]]),
            "weight": torch.stack([*(row["weight"] for row in rows), last][:6]),
            "weight_before_fusion": last,
            "weight_after_fusion": head.W.detach().clone(),
            "class_mean": torch.stack(head.m[mine.start :]),
            "class_cov": torch.stack(covariances),
            "logits": logits,
        }
        if t:
            after |= {
                "class_distance": torch.cdist(texts[: mine.start], texts[mine.start : mine.stop]),
                "hard_pairs": head.pairs,
                "fusion_mask": fused(last, head.W_old, head.mix)[1],
            } | {f"{what}_samples_step0": x for what, x in drawn.first.items()}
        found |= {f"t{t}/{name}": value for name, value in after.items()}
    return found | {"accuracy": accuracy}


def percent(logits: Tensor, y: Tensor) -> float:
    return 100 * (logits.argmax(dim=1) == y).double().mean().item()


READERS = {"RAPF": rapf}
