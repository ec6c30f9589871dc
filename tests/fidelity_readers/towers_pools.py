"""L2P, DualPrompt, CODA-Prompt: the cases l2p_*, dual_*, coda_* of tests/fidelity_towers/README.md."""

import re

import torch
from generated import fill
from torch import Tensor

from fidelity_readers.towers_stream import Played
from lamm_cl.config.schema import Card
from lamm_cl.learner.model import Learner
from lamm_cl.learner.shown import Images

HEAD = {"head.weight": "W", "head.bias": "b", "fc.weight": "W", "fc.bias": "b"}
OURS = {"prompt.prompt": "P", "prompt.prompt_key": "K", "e_prompt.prompt": "E", "e_prompt.prompt_key": "K", "g_prompt": "G"}


def parameter(model: Learner, theirs: str) -> Tensor:
    if theirs in HEAD:
        return getattr(model.head, HEAD[theirs])
    if found := re.fullmatch(r"prompt\.e_([pka])_(\d)", theirs):
        name, block = found.groups()
        return getattr(model.context, name.upper())[model.context.blocks.index(int(block))]
    return getattr(model.context, OURS[theirs])


def card_of(case: dict, context: dict, loss: dict | None) -> Card:
    hyper = case["hyper"]
    adam, schedule = hyper["optimizer"], hyper["lr_schedule"]
    assert adam["name"] == "adam"
    training = {"epochs": hyper["epochs"], "batch": 1, "augmentation": "none", "lr": adam["lr"],
                "optimizer": {"use": "adam", "betas": adam["betas"], "eps": adam["eps"]},
                "weight_decay": float(adam["weight_decay"]), "clip_gradient": hyper.get("clip_grad"),
                "schedule": "constant" if schedule == "constant" else "lagging"}  # fmt: skip
    return Card(key="case", name="case", paper="-", context=context, loss=loss, head={"use": "linear.Linear"}, training=training,
                label_space="experience" if hyper["masked_logits"] else "seen", trainable="", provenance={})  # fmt: skip


class Pool(Played):
    def shown_to(self, pixels: Tensor) -> Images:
        query = self.clip_with(self.case["hyper"]["query_activation"]).image_all(pixels)
        return Images(frozen=query.unit, raw=query.raw, pixels=pixels)

    def step_facts(self, out, terms: dict) -> dict:
        facts = {"loss_ce": terms["cross_entropy"].item()}
        if "orthogonal" in terms or "ortho" in self.case["hyper"]:
            return facts | {"loss_ortho": terms["orthogonal"].item() if "orthogonal" in terms else 0.0}
        notes = out.image_prompts.notes
        return facts | {"reduce_sim": notes["matched"].mean().item(), "prompt_idx": self.ids(notes["chosen"][:1])[0].numpy()}

    def ids(self, chosen: Tensor) -> Tensor:
        return chosen.sort(dim=1).values.int()

    def evaluated(self, k: int) -> None:
        x, case = self.held_out, self.case
        single = case.get("eval_one_at_a_time", False)
        outs = [self.output(part) for part in (x.split(1) if single else [x])]
        self.found["eval/query"] = self.shown(self, x).raw
        self.found |= {f"eval/e{k}/logits": torch.cat([out.logits for out in outs]),
                       f"eval/e{k}/features": torch.cat([out.raw for out in outs])}  # fmt: skip
        notes = [out.image_prompts.notes for out in outs]
        if notes[0]:
            chosen = self.ids(torch.cat([each["chosen"] for each in notes]))
            self.found[f"eval/e{k}/similarity"] = torch.cat([each["similarity"] for each in notes])
            self.found[f"eval/e{k}/prompt_idx"] = chosen if single else chosen[0]
        if size := case.get("eval_in_batches_of"):
            self.found[f"eval_split/e{k}/logits"] = torch.cat([self.output(part).logits for part in x.split(size)])

    def play(self) -> dict:
        hyper = self.case["hyper"]
        for e in range(len(self.experiences)):
            self.model.begin(e)
            if e == 0:
                self.evaluated(0)
            per_epoch = len(self.case["experiences"][e]["batches"])
            for _ in self.steps(e, self.card.training, hyper["epochs"] * per_epoch, per_epoch):
                pass
            self.evaluated(e + 1)
        return self.found


def l2p(case: dict, cases: dict) -> dict:
    hyper = case["hyper"]
    assert not hyper["shared_prompt_pool"]
    context = {"use": "l2p.Assigned" if hyper["use_prompt_mask"] else "l2p.L2P", "pool": hyper["size"],
               "length": hyper["length"], "top": hyper["top_k"],
               "choose": "image" if case.get("eval_one_at_a_time") else "batch",
               "read": "prompts" if hyper["head"] == "prompt" else "class token"}  # fmt: skip
    card = card_of(case, context, {"use": "l2p.Pull", "weight": hyper["pull_constraint_coeff"]})
    return Pool(case, cases, card, parameter, Pool.shown_to).play()


def dualprompt(case: dict, cases: dict) -> dict:
    hyper, single = case["hyper"], case.get("eval_one_at_a_time")
    assert hyper["shared_prompt_pool"] and hyper["use_prompt_mask"] and hyper["head"] == "class token"
    use = "DualPrompt" if single else "Reshaped" if hyper["g_prompt_trains"] else "C3Box"
    context = {"use": f"dualprompt.{use}", "g_length": hyper["g_length"], "g_blocks": hyper["g_layers"], "pool": hyper["size"],
               "length": hyper["length"], "e_blocks": hyper["e_layers"], "top": hyper["top_k"],
               "choose": "image" if single else "batch"}  # fmt: skip
    card = card_of(case, context, {"use": "l2p.Pull", "weight": hyper["pull_constraint_coeff"]})
    return Pool(case, cases, card, parameter, Pool.shown_to).play()


def codaprompt(case: dict, cases: dict) -> dict:
    hyper = case["hyper"]
    assert hyper["tasks"] == len(case["experiences"])
    context = {"use": "codaprompt.CODA", "pool": hyper["pool"], "length": int(hyper["length"]), "blocks": hyper["layers"]}
    loss = {"use": "codaprompt.Orthogonal", "weight": hyper["ortho"]} if hyper["ortho"] else None
    played = Pool(case, cases, card_of(case, context, loss), parameter, Pool.shown_to)

    def draw(e, name: str, block: int, m: int, n: int) -> Tensor:
        return fill(f"gs.t{e.number}.e_{name.lower()}_{block}.{m}", (n,), 1.0, 0.0, cases["salt"])

    played.model.context.draw = draw
    return played.play()


READERS = {"L2P": l2p, "DualPrompt": dualprompt, "CODA-Prompt": codaprompt}
