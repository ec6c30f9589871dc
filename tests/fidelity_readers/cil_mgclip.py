"""MG-CLIP: the cases mgclip_* of tests/fidelity_cil/README.md, section 6."""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from generated import fill
from torch import Tensor

from fidelity_readers.steps import clip_of
from lamm_cl.config.schema import Card, Training
from lamm_cl.learner.build import build
from lamm_cl.learner.model import Learner
from lamm_cl.learner.shown import Images
from lamm_cl.methods.cliplora import key
from lamm_cl.methods.mgclip import FLOOR
from lamm_cl.towers.additions import Where
from lamm_cl.training.optimizing import learning_rate, optimizer, set_rate

STEPS = 5  # of which parameters and gradients are kept


def card_of(hyper: dict) -> Card:
    template, closed = hyper["template"].split(" {}")
    assert closed == "."
    head = {"use": "mgclip.Compensated", "epochs": hyper["visual_agent_epochs"], "batch": hyper["visual_agent_batch_size"],
            "lr": hyper["visual_agent_lr"]}  # fmt: skip
    return Card(key="case", name="case", paper="-", context={"use": "coop.Words", "init": template}, head=head,
                tower={"use": "mgclip.LowRank", "r": hyper["lora_rank"]}, label_space="experience",
                trainable="", provenance={})  # fmt: skip


@dataclass
class Looked:
    """The n training images of an experience, as `observe` is shown them; all as one batch."""

    pixels: Tensor
    y: Tensor

    def batches(self):
        yield Images(pixels=self.pixels), self.y


@dataclass
class Played:
    case: dict
    cases: dict
    found: dict = field(default_factory=dict)

    def __post_init__(self):
        self.world, self.hyper, self.salt = self.case["world"], self.case["hyper"], self.cases["salt"]
        self.arch = self.cases["architectures"][self.world["arch"]]
        ends = np.cumsum(self.world["tasks"]).tolist()
        self.experiences = [range(end - n, end) for n, end in zip(self.world["tasks"], ends)]
        names = [name.replace("_", " ") for name in self.case["classnames"]]
        self.model: Learner = build(card_of(self.hyper), clip_of(self.world["arch"], self.cases), names, self.experiences)
        tower = self.model.tower
        self.parameters = {  # the authors' names
            f"{'visual.' * (name == 'image')}transformer.resblocks.{i}.attn.{on}_proj_weight_lora_{which}":
                getattr(tower, which)[key(Where(name, i), on)]
            for name in ("image", "text") for i in range(self.model.clip.shape(name)[0]) for on in "kv" for which in "AB"
        }  # fmt: skip
        for name, p in self.parameters.items():
            std = sum(p.shape) ** -0.5 * 2**0.5 if name.endswith("A") else 0.1 * (self.hyper["lora_B"] == "generated")
            p.data.copy_(fill(name, p.shape, std, 0.0, self.salt))

    def images(self, part: str, t: int) -> tuple[Tensor, Tensor]:
        counts, classes = self.world[part], self.experiences[t]
        y = torch.from_numpy(np.repeat(np.array(classes), [counts[c % len(counts)] for c in classes]))
        draw = np.random.RandomState(self.world["image_seed"] + 10 * t + (part == "test"))
        return torch.from_numpy(draw.standard_normal((len(y), 3, *[self.arch["image"]] * 2)).astype(np.float32)), y

    def order(self, t: int, epoch: int, n: int, offset: int = 0) -> Tensor:
        return torch.from_numpy(np.random.RandomState(self.world["order_seed"] + offset + 1000 * t + epoch).permutation(n))

    def keep(self, t: int, arrays: dict) -> None:
        self.found |= {f"t{t}/{name}": value for name, value in arrays.items()}

    def trained(self, t: int, x: Tensor, y: Tensor) -> None:
        model, lr = self.model, self.hyper["lr"]
        training = Training(epochs=self.hyper["epochs"], batch=self.world["batch"], optimizer="adam", lr=lr, weight_decay=0.0,
                            schedule={"use": "annealing", "floor": 0.01 * lr}, augmentation="none")  # fmt: skip
        model.train()
        adam, losses, rates = optimizer(training, model), [], []
        values, grads = [self.values()], []
        for epoch in range(training.epochs):
            for ids in self.order(t, epoch, len(y)).split(training.batch):
                adam.zero_grad()
                _, terms = model.loss(Images(pixels=x[ids]), y[ids])
                total = sum(terms.values())
                model.backward(terms, total)
                losses.append(total.item())
                rates.append(learning_rate(training, epoch))
                grads.append({name: p.grad.clone() for name, p in self.parameters.items()})
                set_rate(adam, epoch)
                adam.step()
                values.append(self.values())
            model.after_epoch(epoch, training.epochs)
        self.keep(t, {"loss": losses, "lr": rates})
        for name in self.parameters:
            self.keep(t, {f"grad/{name}": torch.stack([each[name] for each in grads[:STEPS]]), f"final/{name}": values[-1][name],
                          f"param/{name}": torch.stack([each[name] for each in values[: STEPS + 1]])})  # fmt: skip

    def values(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    def compensated(self, t: int) -> None:
        """`finish`, whose steps are looked at."""
        head, old = self.model.head, self.model.head.W.clone()
        rows, loss, rate, losses, rates, steps = head.rows, head.loss, head.rate, [], [], []

        def told(kept: list, function):
            def call(*given):
                kept.append(function(*given))
                return kept[-1]

            return call

        def watched(*given):
            for w in rows(*given):
                steps.append((w.detach().clone(), None if w.grad is None else w.grad.clone()))
                yield w

        head.order = lambda epoch, n: self.order(t, epoch, n, 500)
        head.rows, head.loss, head.rate = watched, told(losses, loss), told(rates, rate)
        self.model.finish(t)
        del head.rows, head.loss, head.rate, head.order
        after = steps[1 : STEPS + 1]
        self.keep(t, {
            "visual_start": torch.cat([old, steps[0][0]]),
            "visual_loss": [each.item() for each in losses],
            "visual_lr": rates,
            "visual_grad": torch.stack([torch.cat([torch.zeros_like(old), grad]) for _, grad in after]),
            "visual_weight": torch.stack([torch.cat([old, w]) for w, _ in after]),
            "visual_final": head.W.clone(),
        })  # fmt: skip
        assert FLOOR == 0.01

    @torch.no_grad()
    def evaluated(self, t: int) -> float:
        """-> accuracy."""
        x, y = map(torch.cat, zip(*(self.images("test", i) for i in range(t + 1))))
        model, head = self.model.eval(), self.model.head
        out = model.output(Images(pixels=x), range(self.experiences[t].stop))
        logits, cosines = out.scale * out.similarity, out.image @ F.normalize(head.W, dim=1).T
        text, images = head.parts(logits, cosines)
        chosen = out.logits.argmax(dim=1)
        self.keep(t, {
            "eval/image_features": out.image,
            "eval/text_scores": logits.softmax(dim=1),
            "eval/visual_scores": cosines,
            "eval/text_softmax": text,
            "eval/visual_softmax": images,
            "eval/predictions": chosen,
        })  # fmt: skip
        return 100 * (chosen == y).double().mean().item()


def mgclip(case: dict, cases: dict) -> dict:
    played, accuracy = Played(case, cases), []
    for t in range(len(played.experiences)):
        x, y = played.images("train", t)
        played.model.begin(t)
        played.model.observe(t, Looked(x, y))
        played.trained(t, x, y)
        played.compensated(t)
        accuracy.append(played.evaluated(t))
    return played.found | {"accuracy": accuracy}


READERS = {"MG-CLIP": mgclip}
