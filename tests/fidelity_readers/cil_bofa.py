"""BOFA: tests/fidelity_cil/README.md."""

import torch
from torch import Tensor

from fidelity_readers.cil import Tower, World, learner_of, percent, steps
from fidelity_readers.heads_inputs import Shown
from lamm_cl.config.schema import Card, Training


def through(shown: Shown, projection: Tensor) -> Shown:
    """Generated features are those before the projection."""
    return Shown(shown.raw @ projection, shown.y, trunk=shown.raw)


def bofa(case: dict, cases: dict) -> dict:
    world, hyper, found, accuracy = World(case, cases["salt"]), case["hyper"], {}, []
    assert hyper["optimizer"] == "sgd"
    epochs, own = hyper["tuned_epoch"], {"lr": 1e-3, "weight_decay": 1e-3}
    card = Card(key="case", name="case", paper="-", label_space="seen", trainable="", provenance={},
                head={"use": "bofa.C3Box", "stat": hyper["stat"], "Kt": hyper["Kt"], "scale": hyper["logit_scale"],
                      "last": 2})  # fmt: skip
    training = Training(epochs=epochs + 2, batch=world.given["batch"], optimizer="sgd", momentum=0.9, lr=hyper["init_lr"],
                        weight_decay=hyper["weight_decay"], augmentation="none", own={"head.B": own, "head.classifier": own},
                        schedule={"use": "annealing", "floor": float(hyper["min_lr"]), "period": epochs})  # fmt: skip
    w, E = world.D, world.given.get("text_dim", world.D)
    tower = Tower(world, world.made("visual.proj", (w, E), w**-0.5))
    model = learner_of(world, card, tower, world.raw_texts(hyper["templates"]))
    head = model.head
    for t, mine in enumerate(world.experiences):
        shown, seen = through(world.images("train", t), tower.projection), range(mine.stop)
        before = torch.zeros(w, w) if head.moments is None else head.moments.clone()
        model.begin(t)
        model.observe(t, shown)
        after = {"second_moment": head.moments - before, "image_centre": head.centres, "gda_cov_inv": head.gaussians.P,
                 "gda_W": head.w.T, "gda_b": head.b, "gda_mu": head.gaussians.m, "start_b": head.classifier.bias.detach().clone(),
                 "start_W": head.classifier.weight.detach().T.clone()}  # fmt: skip
        first, second = Traced(), Traced()
        losses: list[dict] = []
        lr = []
        for made, _, terms in steps(world, model, training, t, shown):
            losses.append({"loss": sum(terms.values()).item(), "loss_clip": terms["cross_entropy"].item()}
                          | ({"loss_low": terms["linear"].item()} if "linear" in terms else {}))  # fmt: skip
            rates = [group["lr"] for group in made.param_groups]  # W, then what has its own
            lr.append([rates[0], rates[1], rates[1]])
            if head.constrained:
                second.take({"delta": (head.B @ head.A.T, head.B.grad @ head.A.T)})
                after.setdefault("stage1_end", head.W.detach().clone())
            else:
                first.take(trained(head))
        if t:
            second.take({"delta": (head.B @ head.A.T, None)})
            first.take({"W_task": (head.W, None)} | {k: v for k, v in trained(head).items() if k != "W_task"})
            after |= {"safe_projector": head.A @ head.A.T, "stage2_start": second.values["delta"][0],
                      "stage2_grad": torch.stack(second.gradients["delta"][:5]),
                      "stage2_delta": torch.stack(second.values["delta"][1:6])}  # fmt: skip
        else:
            first.take(trained(head))
        after |= {name: [row[name] for row in losses if name in row] for name in ("loss", "loss_clip", "loss_low")} | {"lr": lr}
        after |= {f"param/{name}": torch.stack(rows[:6]) for name, rows in first.values.items()}
        after |= {f"grad/{name}": torch.stack(rows[:5]) for name, rows in first.gradients.items()}
        after |= {f"final/classifier.{name}": p.detach().clone() for name, p in head.classifier.named_parameters()}
        after |= {"task_matrix": head.matrix().detach().clone(), "lambda": head.lam.clone()}
        model.finish(t)
        test = through(world.tested(t), tower.projection)
        with torch.no_grad():
            out = model.eval().output(test.images(), seen)
            after |= {"fused_matrix": head.fused.clone(), "eval/gda": head.gaussian(out), "eval/logits": out.logits}
        model.train()
        accuracy.append(round(percent(out.logits, test.y), 2))  # as they print it
        found |= {f"t{t}/{name}": value for name, value in after.items()}
    return found | {"accuracy": accuracy}


class Traced:
    """Parameters before each step, and their gradients in it."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}
        self.gradients: dict[str, list[Tensor]] = {}

    def take(self, named: dict[str, tuple[Tensor, Tensor | None]]) -> None:
        for name, (value, gradient) in named.items():
            self.values.setdefault(name, []).append(value.detach().clone())
            if gradient is not None:
                self.gradients.setdefault(name, []).append(gradient.clone())


def trained(head) -> dict[str, tuple[Tensor, Tensor | None]]:
    return {"W_task": (head.W, head.W.grad)} | {f"classifier.{n}": (p, p.grad) for n, p in head.classifier.named_parameters()}


READERS = {"BOFA": bofa}
