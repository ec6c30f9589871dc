"""GDA and Tip-Adapter(-F): tests/fidelity_heads/README.md.

The heads stand in ordinary learners, whose towers are a table of the generated text features.
"""

import torch
from torch import Tensor

from fidelity_readers.heads_inputs import Inputs, Shown, inputs_of, subsample
from lamm_cl.config.schema import Backbone, Card, Training
from lamm_cl.learner.build import build
from lamm_cl.learner.model import Learner
from lamm_cl.learner.shown import Images
from lamm_cl.methods.gda import linear
from lamm_cl.towers.features import FeaturesOnly


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


READERS = {"gda": gda}
