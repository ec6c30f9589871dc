"""MoE-Adapters: the cases moe_* of tests/fidelity_towers/README.md."""

import re
from collections import Counter

from generated import fill
from torch import Tensor

from fidelity_readers.towers_stream import Played, keep
from lamm_cl.config.schema import Card
from lamm_cl.learner.model import Learner
from lamm_cl.methods.moe import EPSILON, key
from lamm_cl.towers.additions import Where
from lamm_cl.training.optimizing import learning_rate


def card_of(case: dict, use: str = "moe.Noisy") -> Card:
    hyper = case["hyper"]
    adamw = hyper["optimizer"]
    assert hyper["noise_at_evaluation"] and hyper["label_smoothing"] == 0 and hyper["noise_epsilon"] == EPSILON
    tower = {"use": use, "experts": hyper["experts"], "top": hyper["top_k"], "m": hyper["bottleneck"],
             "scale": hyper["adapter_scale"], "dropout": hyper["dropout"]}  # fmt: skip
    training = {"epochs": hyper["epochs"], "batch": 1, "augmentation": "none", "lr": adamw["lr"],
                "optimizer": {"use": adamw["name"], "betas": adamw["betas"], "eps": adamw["eps"]},
                "weight_decay": adamw["weight_decay"], "schedule": {"use": "annealing", "per": "step"},
                "warmup": {"use": "linear", "steps": hyper["warmup_iterations"]}}  # fmt: skip
    context = {"use": "zeroshot.Ensemble", "templates": [hyper["template"]]}
    return Card(key="case", name="case", paper="-", context=context, tower=tower, training=training, label_space="experience",
                trainable="", provenance={})  # fmt: skip


def name_of(where: Where) -> str:
    return f"{'visual.' * (where.tower == 'image')}transformer.resblocks.{where.block}"


def parameter(model: Learner, theirs: str) -> Tensor:
    visual, block, rest = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", theirs).groups()
    at, tower = key(Where("image" if visual else "text", int(block))), model.tower
    if rest in ("router_list.0", "w_noise_list.0"):
        return {"router_list.0": tower.R, "w_noise_list.0": tower.N}[rest][at]
    expert, layer, which = re.fullmatch(r"adaptmlp_list\.(\d+)\.(down|up)_proj\.(weight|bias)", rest).groups()
    return getattr(getattr(tower, layer)[at][int(expert)], which)


class Experts(Played):
    def __post_init__(self):
        super().__post_init__()
        self.clean = self.built(card_of(self.case, "moe.MoEAdapters"))
        self.phase, self.texts = "", 0
        tower, p = self.model.tower, self.case["hyper"]["dropout"]
        patches = 1 + (self.arch["image"] // self.arch["patch"]) ** 2

        def noise(where: Where, n: int) -> Tensor:
            at = self.served[where] if where.tower == "text" else 0  # the texts of an experience follow those before
            self.served[where] += n
            whole = self.texts if where.tower == "text" else n
            return fill(f"noise.{self.phase}.{name_of(where)}", (whole, self.case["hyper"]["experts"]), 1.0, 0.0, self.salt)[
                at : at + n
            ]

        def dropped(where: Where, expert: int, h: Tensor) -> Tensor:
            if not tower.training:
                return h
            whole = 77 if where.tower == "text" else patches
            assert h.shape[1] in (whole, 1)
            name = f"drop.{self.phase}.{name_of(where)}.adaptmlp_list.{expert}"
            return h * keep(name, (len(h), whole, h.shape[2]), p, self.salt)[:, : h.shape[1]]

        tower.noise, tower.dropped = noise, dropped

    def enter(self, phase: str, texts: int) -> None:
        self.phase, self.texts, self.served = phase, texts, Counter()

    def evaluated(self, k: int) -> None:
        x, C = self.held_out, len(self.names)
        self.enter(f"eval.e{k}", C)
        out = self.output(x)
        arrays = {"logits": out.logits, "image_features": out.image, "text_features": out.text}
        self.found |= {f"eval/e{k}/{name}": value for name, value in arrays.items()}
        self.clean.load_learned(self.model.learned_tensors())
        self.found[f"eval_clean/e{k}/logits"] = self.output(x, self.clean).logits
        if k:
            seen = range(self.experiences[k - 1].stop)
            self.enter(f"probs.e{k}", len(seen))
            self.found[f"eval/e{k}/probs"] = self.output(x, classes=seen).logits.softmax(dim=1)


def moe(case: dict, cases: dict) -> dict:
    hyper, card = case["hyper"], card_of(case)
    played = Experts(case, cases, card, parameter)
    (frame,) = played.model.texts.frames
    played.found["tokens"] = frame.tokens.int()
    for total in hyper["lr_totals"]:
        rates = [learning_rate(card.training, 0, i, total) for i in range(total + hyper["extra_iterations"])]
        played.found[f"schedule/{total}/lr"] = rates
    played.evaluated(0)
    for e, classes in enumerate(played.experiences):
        played.model.begin(e)
        per_epoch = len(case["experiences"][e]["batches"])
        for step in played.steps(e, card.training, hyper["epochs"] * per_epoch + hyper["extra_iterations"], per_epoch):
            played.enter(f"e{e + 1}.s{step}", len(classes))
        played.clean.begin(e)
        played.evaluated(e + 1)
    return played.found


READERS = {"MoE-Adapters": moe}
