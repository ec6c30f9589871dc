"""ENGINE: tests/fidelity_cil/README.md."""

import json
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fidelity_readers.cil import Tower, World, learner_of, percent, steps
from fidelity_readers.cil_bofa import Traced, through
from lamm_cl.config.schema import Card, Training
from lamm_cl.methods.engine import Released
from lamm_cl.training.features import Noise


def descriptions(names: list[str]) -> dict:
    return {
        a: {b: [f"Trait {k} of {a} unlike {b}" for k in range(2 + zlib.crc32(f"{a}|{b}".encode()) % 3)] for b in names if b != a}
        for a in names
    }


class Drawn:
    """What ENGINE draws, as inputs.  t, s: experience, step in it;  batch: of the evaluation."""

    def __init__(self, world: World, head: Released, projection: Tensor):
        self.world, self.head, self.projection, self.t, self.s, self.batch = world, head, projection, 0, 0, 0
        self.x = torch.empty(0)  # of this experience before the projection
        for name in ("encoded", "order", "drawn_places", "normal", "noisy", "pick", "which"):
            setattr(head, name, getattr(self, name))

    def encoded(self, texts: list[str]) -> Tensor:
        return self.world.raw(texts)

    def made(self, key: str, n: int) -> np.ndarray:
        draw = np.random.RandomState(zlib.crc32((self.world.salt + key).encode()))
        return draw.randint(0, 2**31 - 1, size=20000)[:n]

    def order(self, old: int) -> list[int]:
        seed = self.world.given["shuffle_seed"] + 1000 * self.t + int(self.head.epoch)
        return np.random.RandomState(seed).permutation(old).tolist()

    def drawn_places(self, n: int) -> list[int]:
        seed = self.world.given["shuffle_seed"] + 500 + 1000 * self.t + self.s
        return np.random.RandomState(seed).randint(0, n, self.head.sample).tolist()

    def normal(self, n: int) -> Tensor:
        return torch.stack([self.world.made(f"noise.t{self.t}.s{self.s}.{j}", (len(self.projection.T),)) for j in range(n)])

    def noisy(self, out) -> tuple[Tensor, Tensor]:
        x = self.x[out.x.ids] + self.world.made(f"aug.t{self.t}.s{self.s}", (len(out.x), len(self.projection)), 0.5)
        return torch.ones(len(x), dtype=torch.bool), F.normalize(x @ self.projection, dim=-1)

    def pixels(self, n: int) -> Tensor:
        """The noisy images of a first step."""
        x, z = (self.world.made(f"{what}.t{self.t}.s0", (n, 3, 2, 2)) for what in ("pixels", "augnoise"))
        return Noise(0, self.head.noise, self.head.clamp).added(x, z)

    def pick(self, d: int, n: int) -> int:
        return int(self.made(f"des.t{self.t}.s{self.s}", d + 1)[d] % n)

    def which(self, counts: Tensor, r: int) -> Tensor:
        drawn = self.made(f"rerank.t{self.t}.b{self.batch}.r{r}", counts.numel())
        return torch.from_numpy(drawn % counts.flatten().numpy()).view(counts.shape)


def engine(case: dict, cases: dict) -> dict:
    world, hyper, found, accuracy = World(case, cases["salt"]), case["hyper"], {}, []
    assert hyper["optimizer"] == "sgd"
    training = Training(epochs=hyper["tuned_epoch"], batch=world.given["batch"], optimizer="sgd", momentum=0.9,
                        lr=hyper["init_lr"], weight_decay=hyper["weight_decay"], augmentation="none",
                        schedule={"use": "annealing", "floor": float(hyper["min_lr"])})  # fmt: skip
    w, E = world.D, world.given.get("text_dim", world.D)
    tower = Tower(world, world.made("visual.proj", (w, E), w**-0.5))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(descriptions(case["classnames"])))
        card = Card(key="case", name="case", paper="-", label_space="seen", trainable="", provenance={},
                    head={"use": "engine.Released", "scale": hyper["logit_scale"], "stat": float(hyper["stat"]),
                          "image": float(hyper["image_aug"]), "text": float(hyper["text_des"]), "top": hyper["rerank_top"],
                          "rerank": float(hyper["rerank"]), "spread": float(hyper["sample_noise"]),
                          "sample": hyper["sample_num"], "texts": str(file)})  # fmt: skip
        model = learner_of(world, card, tower, world.raw_texts(hyper["templates"]))
    head = model.head
    drawn = Drawn(world, head, tower.projection)
    for t, mine in enumerate(world.experiences):
        shown, seen = through(world.images("train", t), tower.projection), range(mine.stop)
        drawn.t, drawn.s, drawn.x = t, 0, shown.trunk
        model.begin(t)
        model.observe(t, shown)
        maps = {"Image_Adapter": head.images[t], "Text_Adapter": head.texts[t]}
        for side, each in maps.items():
            each.weight.data.copy_(world.made(f"{side}.{t}.fc.0.weight", (E, E), (3 * E) ** -0.5))
            each.bias.data.copy_(world.made(f"{side}.{t}.fc.0.bias", (E,), (3 * E) ** -0.5))

        def parameters(maps=maps, t=t):
            return {f"{side}.{t}.fc.0.{n}": (p, p.grad) for side, each in maps.items() for n, p in each.named_parameters()}

        traced, rows, lr = Traced(), [], []
        for made, _, terms in steps(world, model, training, t, shown):
            [group] = made.param_groups
            traced.take(parameters())
            lr.append(group["lr"])
            rows.append({"loss": sum(terms.values()).item(), "loss_clip": terms["cross_entropy"].item()}
                        | {f"loss_{name}": terms[name].item() / head.weight[name] for name in ("image", "text") if name in terms})
            drawn.s += 1
        traced.take(parameters())
        model.finish(t)
        after = {name: [row[name] for row in rows] for name in rows[0]} | {"lr": lr, "prototypes": head.mu[mine.start :]}
        after |= {f"param/{name}": torch.stack(values[:6]) for name, values in traced.values.items()}
        after |= {f"grad/{name}": torch.stack(values[:5]) for name, values in traced.gradients.items()}
        after |= {f"final/{name}": values[-1] for name, values in traced.values.items()}
        after |= {"gda_W": head.w.T, "gda_b": head.b, "gda_cov_inv": head.gaussians.P, "gda_mu": head.gaussians.m}
        if head.weight["image"]:
            after["aug_image_step0"] = drawn.pixels(min(len(shown.y), world.given["batch"]))
        test, scores, logits = through(world.tested(t), tower.projection), [], []
        model.eval()
        with torch.no_grad():
            for drawn.batch, ids in enumerate(torch.arange(len(test.y)).split(world.given["batch"])):
                out = model.features(test.images(ids), seen)
                scores.append(head.scores(out))
                logits.append(head.mixed(*scores[-1]))
        model.train()
        _, adapted, ranked = map(torch.cat, zip(*scores))
        after |= {"eval/adapter": adapted, "eval/rerank": ranked, "eval/logits": torch.cat(logits)}
        accuracy.append(round(percent(after["eval/logits"], test.y), 2))  # as they print it
        found |= {f"t{t}/{name}": value for name, value in after.items()}
    return found | {"accuracy": accuracy}


READERS = {"ENGINE": engine}
