"""GDA and Tip-Adapter(-F): tests/fidelity_heads/README.md.

The heads stand in ordinary learners, whose towers are a table of the generated text features.
"""

import numpy as np
import torch
from torch import Tensor

from fidelity_readers.heads_inputs import Inputs, Shown, inputs_of, subsample
from lamm_cl.config.schema import Backbone, Card, Training
from lamm_cl.learner.build import build
from lamm_cl.learner.model import Learner
from lamm_cl.learner.shown import Images
from lamm_cl.methods.gda import linear
from lamm_cl.methods.tipadapter import ReleasedF
from lamm_cl.towers.features import FeaturesOnly
from lamm_cl.training.optimizing import learning_rate, optimizer, set_rate


def learner_of(texts: Tensor, experiences: list[range], use: str, options: dict, training: Training | None = None) -> Learner:
    tower = FeaturesOnly(Backbone(architecture="features", weights="generated")).of("case", "case", texts.shape[1], texts)
    card = Card(key="case", name="case", paper="-", head={"use": use, **options}, training=training, trainable="",
                provenance={})  # fmt: skip
    return build(card, tower, [f"class {c}" for c in range(len(texts))], experiences)


def shown_of(inputs: Inputs, t: int, views: int, stream: bool) -> Shown:
    """An experience: `views` augmented views, and the validation images of its classes.  What is not augmented is not asked."""
    y = inputs.by_class(t)
    named = f".exp{t}" if stream else ""
    found = {k: inputs.features(f"view{k}{named}", y) for k in range(views)}
    shown = Shown(torch.zeros_like(found[0]), torch.from_numpy(y), found)
    whole, mine = inputs.whole("val"), inputs.experiences[t]
    at = (whole.y >= mine.start) & (whole.y < mine.stop)
    shown.val = Shown(whole.raw[at], whole.y[at])
    return shown


def learn(model: Learner, i: int, shown: Shown) -> None:
    model.begin(i)
    model.observe(i, shown)
    model.finish(i)


@torch.no_grad()
def logits(model: Learner, shown: Shown, classes: range) -> Tensor:
    model.eval()
    found = model.output(Images(frozen=shown.unit, raw=shown.raw), classes).logits
    model.train()
    return found


def percent(logits: Tensor, y: Tensor) -> float:
    return 100 * (logits.argmax(dim=1) == y).double().mean().item()


def part_of(name: str, x: Tensor, case: dict) -> dict:
    """X, or X_sub of as many elements as the case has."""
    part = case["arrays"].get(f"{name}_sub")
    return {f"{name}_sub": subsample(x, part["shape"][0])} if part else {name: x}


# --- GDA ------------------------------------------------------------------------------------------------------------------


def gda(case: dict, cases: dict) -> dict:
    inputs, hyper, stream = inputs_of(case, cases), case["hyper"], case.get("stream", False)
    assert hyper["scale"] == 100
    options = {"alphas": hyper["alphas"], "alpha": hyper["alpha_default"], "views": hyper["augment_epoch"], "scale": [0.5, 1.0]}
    if "new" in case:
        return base_to_new(case, cases, inputs, options)
    model, found, test = learner_of(inputs.texts(), inputs.experiences, "gda.Released", options), {}, inputs.whole("test")
    head = model.head
    for t, classes in enumerate(inputs.experiences):
        learn(model, t, shown_of(inputs, t, hyper["augment_epoch"], stream))
        mine = logits(model, test, range(classes.stop))
        P = head.precision(head.seen)
        after = {
            "val_acc": head.accuracies,
            "alpha": head.alpha.clone(),
            "W": head.W.T,
            "b": head.b,
            "gaussian_logits": test.unit @ head.W.T + head.b,
            "logits": mine,
        }
        if stream:
            found |= {f"{name}/{t}": value for name, value in after.items()}
        else:
            found = after | {"mus": head.seen.m, "test_acc": percent(mine, test.y)} | part_of("cov_inv", P, case)
            found |= {f"{name}/test": found[name] for name in ("gaussian_logits", "logits")}
    return found


def base_to_new(case: dict, cases: dict, base: Inputs, options: dict) -> dict:
    new, hyper = Inputs(case["new"], cases["salt"]), case["hyper"]
    options |= {"nearest": hyper["k"], "copies": hyper["text_repeats"], "factor": float(hyper["dim_constant"])}
    experiences = [range(base.C), range(base.C, base.C + new.C)]
    model = learner_of(torch.cat([base.texts(), new.texts()]), experiences, "gda.BaseToNew", options)
    head, test, unseen = model.head, base.whole("test"), new.whole("test")
    learn(model, 0, shown_of(base, 0, hyper["augment_epoch"], False))
    m, P = head.unseen(new.texts())
    W, b = linear(m, P)
    mine = {"base": logits(model, test, experiences[0]), "new": logits(model, unseen, experiences[1])}
    found = {
        "val_acc": head.accuracies,
        "alpha": head.alpha,
        "b": head.b,
        "new_b": head.new_b,
        "logits/base": mine["base"],
        "logits/new": mine["new"],
        "base_acc": percent(mine["base"], test.y),
        "new_acc": percent(mine["new"], unseen.y),
    }
    assert torch.equal(head.new_b, b.float())
    values = {"mus": head.seen.m, "base_W": head.W.T, "new_mu": m, "new_cov_inv": P, "new_W": W.T}
    for name, value in values.items():
        found |= part_of(name, value, case)
    return found


# --- Tip-Adapter ----------------------------------------------------------------------------------------------------------


def tip(case: dict, cases: dict) -> dict:
    inputs, hyper, stream = inputs_of(case, cases), case["hyper"], case.get("stream", False)
    options = {"beta": float(hyper["init_beta"]), "alpha": float(hyper["init_alpha"]), "tops": hyper["search_scale"],
               "steps": hyper["search_step"], "views": hyper["augment_epoch"], "scale": [0.5, 1.0]}  # fmt: skip
    options["tops"] = [float(top) for top in options["tops"]]
    model, found, test = learner_of(inputs.texts(), inputs.experiences, "tipadapter.Released", options), {}, inputs.whole("test")
    head = model.head
    for t, classes in enumerate(inputs.experiences):
        shown, seen = shown_of(inputs, t, hyper["augment_epoch"], stream), range(classes.stop)
        learn(model, t, shown)
        mine, at_first = logits(model, test, seen), at(model, test, seen, head.initial)
        values = {"best_beta": head.beta.clone(), "best_alpha": head.alpha.clone()}
        if stream:
            values |= {"cache_keys": head.keys.T, "logits": mine, "logits_at_init_hyper": at_first}
            found |= {f"{name}/{t}": value for name, value in values.items()}
    if stream:
        return found
    plain = {part: model.zero_shot(Images(frozen=each.unit), seen) for part, each in (("val", shown.val), ("test", test))}
    found = {
        "cache_keys": head.keys.T,
        "cache_values": torch.nn.functional.one_hot(head.values, inputs.C).int(),
        "zeroshot/logits/test": plain["test"],
        "tip/logits_at_init_hyper/test": at_first,
        "tip/val_acc": [percent(plain["val"], shown.val.y), percent(at(model, shown.val, seen, head.initial), shown.val.y)],
        "tip/test_acc": [percent(plain["test"], test.y), percent(mine, test.y)],
        "tip/val_acc_grid": head.accuracies,
        "tip/cache_logits/test": head.cached(test.unit, seen, head.beta.item()),
        "tip/logits/test": mine,
    } | {f"tip/{name}": value for name, value in values.items()}
    return found | {f"F/{name}": value for name, value in tuned(case, inputs, options, test).items()}


def at(model: Learner, shown: Shown, classes: range, values: tuple[float, float]) -> Tensor:
    """Logits at a beta and an alpha."""
    beta, alpha = values
    return model.zero_shot(Images(frozen=shown.unit), classes) + alpha * model.head.cached(shown.unit, classes, beta)


class JudgedByTest(ReleasedF):
    """As released: the epoch is chosen on the test images, which no run shows to a method."""

    judges = None


def tuned(case: dict, inputs: Inputs, options: dict, test: Shown) -> dict:
    """Tip-Adapter-F: the steps of the case, by the optimizer and the rates of a run."""
    hyper, (seen,) = case["hyper"], inputs.experiences
    adamw = hyper["adamw"]
    training = Training(epochs=hyper["train_epoch"], batch=hyper["train_batch"], lr=hyper["lr"], augmentation="none",
                        weight_decay=adamw["weight_decay"], schedule={"use": "cosine", "per": "step"},
                        optimizer={"use": "adamw", "betas": adamw["betas"], "eps": adamw["eps"]})  # fmt: skip
    model = learner_of(inputs.texts(), inputs.experiences, "tipadapter.ReleasedF", options, training)
    head, per_epoch = model.head, hyper["batches_per_epoch"]
    head.__class__ = JudgedByTest
    head.judges = (test.unit, test.y)
    model.begin(0)
    model.observe(0, shown_of(inputs, 0, hyper["augment_epoch"], False))
    adam, losses, rates, accuracies, found = optimizer(training, model), [], [], [], {}
    keys = [head.k[0].detach().clone()]
    for epoch in range(training.epochs):
        for step in range(per_epoch):
            s = epoch * per_epoch + step
            y = np.random.RandomState(inputs.given["order_seed"] + s).randint(0, inputs.C, training.batch)
            x = torch.nn.functional.normalize(inputs.features(f"step{s}", y), dim=-1)
            adam.zero_grad()
            out, terms = model.loss(Images(frozen=x), torch.from_numpy(y))
            losses.append(sum(terms.values()).item())
            sum(terms.values()).backward()
            if s == 0:
                found = {"batch_logits_first": out.logits.detach(), "grad_first": head.k[0].grad.clone()}
            rates.append(learning_rate(training, epoch, step, per_epoch))
            set_rate(adam, epoch, step, per_epoch)
            adam.step()
            keys.append(head.k[0].detach().clone())
        accuracies.append(percent(at(model, test, seen, head.initial).detach(), test.y))
        model.after_epoch(epoch, training.epochs)
    model.finish(0)
    searched = head.searched
    mine = at(model, test, seen, searched).detach()
    reported = logits(model, test, seen)
    rows = len(keys) if case["arrays"]["F/weight"]["shape"][0] == len(keys) else 0
    return found | {
        "loss": losses,
        "lr": rates,
        "weight": torch.stack(keys if rows else [*keys[:2], keys[-1]]),
        "delta_first": keys[1] - keys[0],
        "delta_last": keys[-1] - keys[0],
        "test_acc_epochs": accuracies,
        "best_epoch": head.best_epoch.reshape(1).int(),
        "best_beta": searched[0],
        "best_alpha": searched[1],
        "logits/test": mine,
        "test_acc_searched": percent(mine, test.y),
        "test_acc_reported": percent(reported, test.y),
    }


READERS = {"gda": gda, "tip-adapter": tip}
