"""CLIP-LoRA: the cases cliplora_* of tests/fidelity_towers/README.md."""

import re

import torch
from torch import Tensor

from fidelity_readers.towers_stream import Played, keep
from lamm_cl.config.schema import Card
from lamm_cl.learner.model import Learner
from lamm_cl.methods.cliplora import key
from lamm_cl.towers.additions import Where

MODULES = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "proj"}


def card_of(case: dict, templates: list[str]) -> Card:
    hyper = case["hyper"]
    adamw, schedule = hyper["optimizer"], hyper["lr_schedule"]
    assert hyper["position"] == "all" and adamw["name"] == "adamw" and schedule["T_max"] == hyper["n_iters"] * hyper["shots"]
    assert (schedule["type"], schedule["per"]) == ("CosineAnnealingLR", "iteration")
    towers = {"both": "both", "vision": "image", "text": "text"}[hyper["encoder"]]
    use = "cliplora.LoRA" if hyper["dropout_rate"] else "cliplora.Released"
    tower = {"use": use, "on": hyper["params"], "r": hyper["r"], "alpha": hyper["alpha"], "dropout": hyper["dropout_rate"],
             "towers": towers}  # fmt: skip
    training = {"steps_per_shot": hyper["n_iters"], "batch": 1, "augmentation": "none", "lr": adamw["lr"],
                "optimizer": {name: adamw[of] for name, of in {"use": "name", "betas": "betas", "eps": "eps"}.items()},
                "weight_decay": adamw["weight_decay"],
                "schedule": {"use": "annealing", "per": "step", "floor": schedule["eta_min"]}}  # fmt: skip
    return Card(key="case", name="case", paper="-", context={"use": "zeroshot.Ensemble", "templates": templates}, tower=tower,
                head={"use": "cliplora.Factor", "factor": 100.0}, training=training, trainable="", provenance={})  # fmt: skip


def parameter(model: Learner, theirs: str) -> Tensor:
    tower, block, module, which = re.fullmatch(
        r"(visual\.)?transformer\.resblocks\.(\d+)\.attn\.(\w+)\.w_lora_([AB])", theirs
    ).groups()
    name = next(ours for ours, module_ in MODULES.items() if module_ == module)
    return getattr(model.tower, which)[key(Where("image" if tower else "text", int(block)), name)]


class LowRank(Played):
    def __post_init__(self):
        self.case = self.case | {"classnames": [name.replace("_", " ") for name in self.case["classnames"]]}
        super().__post_init__()
        # alone with --encoder vision there is more than one template: then it trains with all and tests with the first
        tested = card_of(self.case, self.case["hyper"]["templates"][:1])
        self.tested, self.plain = self.built(tested), self.built(tested.model_copy(update={"tower": None}))

    def masked(self, e: int, step: int) -> None:
        """Dropout by the masks of README.md; a delta that is asked for fewer positions has the first."""
        p = self.case["hyper"]["dropout_rate"]

        def dropped(where: Where, name: str, h: Tensor) -> Tensor:
            if not self.model.tower.training:
                return h
            L, N, d = h.shape[1], *h.shape[::2]
            whole = 77 if where.tower == "text" else 1 + (self.arch["image"] // self.arch["patch"]) ** 2
            assert L in (whole, 1)
            module = f"{'visual.' * (where.tower == 'image')}transformer.resblocks.{where.block}.attn.{MODULES[name]}"
            return h * keep(f"drop.e{e + 1}.s{step}.{module}", (whole, N, d), p, self.salt).transpose(0, 1)[:, :L]

        if p:
            self.model.tower.dropped = dropped

    def evaluated(self, k: int) -> None:
        self.tested.load_learned(self.model.learned_tensors())
        out = self.output(self.held_out, self.tested if k else self.plain)
        arrays = {"logits": out.logits, "image_features": out.image, "text_features": out.text}
        self.found |= {f"eval/e{k}/{name}": value for name, value in arrays.items()}


def cliplora(case: dict, cases: dict) -> dict:
    hyper = case["hyper"]
    card = card_of(case, hyper["templates"])
    played = LowRank(case, cases, card, parameter)
    (frame,) = played.tested.texts.frames
    played.found["tokens"] = frame.tokens.int()
    played.evaluated(0)
    for e in range(len(played.experiences)):
        played.model.begin(e)
        count = hyper["n_iters"] * hyper["shots"]
        for step in played.steps(e, card.training, count, len(case["experiences"][e]["batches"])):
            played.masked(e, step)
        played.tested.begin(e)
        with torch.no_grad():
            played.evaluated(e + 1)
    return played.found


READERS = {"CLIP-LoRA": cliplora}
