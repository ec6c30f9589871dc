"""SimpleCIL, RanPAC, ACIL and FeCAM: tests/fidelity_heads/README.md."""

import torch
from torch import Tensor

from fidelity_readers.heads_inputs import fill, head_of, inputs_of, learn, logits, subsample
from lamm_cl.learner.gaussian import Symmetric


def simplecil(case: dict, cases: dict) -> dict:
    inputs, found = inputs_of(case, cases), {}
    head, test = head_of(inputs, "simplecil.SimpleCIL"), inputs.whole("test")
    for t, classes in enumerate(inputs.experiences):
        learn(head, t, classes, inputs.train(t))
        found[f"logits/{t}"] = logits(head, test.raw, range(classes.stop))
    return found | {"prototypes": head.p}


def ranpac(case: dict, cases: dict) -> dict:
    inputs, hyper, found = inputs_of(case, cases), case["hyper"], {}
    M, ridges = hyper["M"], hyper["ridge_candidates"]
    head = head_of(inputs, "ranpac.Released", M=M, ridges=ridges, split=hyper["split"])
    if M:
        head.W_rand = fill(f"{inputs.given['key']}.W_rand", (inputs.D, M), 1.0, 0.0, cases["salt"])
    head.order = torch.arange  # the order in which the loader shuffles is an input
    test = inputs.whole("test")
    for t, classes in enumerate(inputs.experiences):
        shown = inputs.train(t)
        learn(head, t, classes, shown)
        n = len(shown.y)
        G, Q = head.seen.whole(), head.seen.Q
        found |= {
            f"split/{t}": torch.tensor([head.fitted(n), n], dtype=torch.int32),
            f"ridge/{t}": head.ridge.clone(),
            f"Q/{t}": torch.cat([Q, Q.new_zeros(inputs.C - len(Q), len(G))]).T,
            f"W/{t}": head.W,
            f"logits/{t}": logits(head, test.raw, range(classes.stop)),
        } | whole_or_part("G", t, G, case)
        for i, ridge in enumerate(ridges):
            power = round(torch.log10(torch.tensor(ridge)).item())
            found[f"ridge_losses_from_1e{power:+d}/{t}"] = head.losses[i:]
    return found


def acil(case: dict, cases: dict) -> dict:
    inputs, hyper, found = inputs_of(case, cases), case["hyper"], {}
    M, gamma, D = hyper["buffer_size"], hyper["gamma"], inputs.D
    assert hyper["dtype"] == "float64" and not hyper["bias"]
    head = head_of(inputs, "acil.ACIL", buffer=M, gamma=gamma)
    head.B = fill(f"{inputs.given['key']}.buffer", (M, D), (3 * D) ** -0.5, 0.0, cases["salt"]).double()
    test = inputs.whole("test")
    for t, classes in enumerate(inputs.experiences):
        learn(head, t, classes, inputs.train(t))
        R = torch.linalg.inv(head.seen.whole() + gamma * torch.eye(M))
        found |= {
            f"columns/{t}": torch.tensor([len(head.W)], dtype=torch.int32),
            f"W/{t}": head.W.T,
            f"logits/{t}": logits(head, test.raw, range(classes.stop)),
        } | whole_or_part("R", t, R, case)
    return found


def fecam(case: dict, cases: dict) -> dict:
    inputs, hyper, found = inputs_of(case, cases), case["hyper"], {}
    assert hyper["shrink"]
    vit = case["runner"].startswith("vit")
    form = "FeCAM" if vit else "Diagonal" if hyper["diagonal"] else "ClassVersion" if hyper["per_class"] else "Common"
    assert form == "Diagonal" or hyper["norm_cov"] == (form != "Common")
    options = {"alpha1": hyper["alpha1"], "alpha2": hyper["alpha2"]}
    if not vit:
        options |= {"power": hyper["beta"] if hyper["tukey"] else None, "euclidean": 1}
    head, test, shrunk, metric = head_of(inputs, f"fecam.{form}", **options), inputs.whole("test"), [], []
    for t, classes in enumerate(inputs.experiences):
        shown = inputs.train(t)
        shown.views[0] = inputs.features(f"aug{t}", shown.y.numpy())
        learn(head, t, classes, shown)
        mine = test.raw[test.y < classes.stop] if case["runner"] == "vit" else test.raw
        distances = -logits(head, mine, range(classes.stop))
        found[f"dist/{t}"] = distances
        if form == "Common":
            metric = head.S.clone()
        else:
            x = head.spread(shown)
            shrunk += [Symmetric.covariance(x[shown.y == c]).shrunk(*head.alphas) for c in classes]
            metric = torch.stack([head.metric(S).dense() for S in shrunk])
        found[f"metric_cov/{t}"] = metric
    if vit:
        right = [
            (found[f"dist/{t}"].argmin(dim=1) == test.y[test.y < classes.stop]).double().mean()
            for t, classes in enumerate(inputs.experiences)
            if case["runner"] == "vit"
        ]
        return found | {
            "means": head.m,
            "accuracy": torch.tensor(right),
            "metric_cov_sub": subsample(metric, case["arrays"]["metric_cov_sub"]["shape"][0]),
            "shrunk_cov_sub": subsample(torch.stack([S.dense() for S in shrunk]), case["arrays"]["shrunk_cov_sub"]["shape"][0]),
        }
    uniform = head_of(inputs, f"fecam.{form}", **options | {"euclidean": 0})
    shown = inputs.train(0)
    shown.views[0] = inputs.features("aug0", shown.y.numpy())
    learn(uniform, 0, inputs.experiences[0], shown)
    found["dist_metric_from_the_start/0"] = -logits(uniform, test.raw, inputs.experiences[0])
    return found | {"protos": head.m}


def whole_or_part(name: str, t: int, x: Tensor, case: dict) -> dict:
    """X/t, or X_sub/t of as many elements as the case has."""
    part = case["arrays"].get(f"{name}_sub/{t}")
    return {f"{name}_sub/{t}": subsample(x, part["shape"][0])} if part else {f"{name}/{t}": x}


READERS = {"simplecil": simplecil, "ranpac": ranpac, "acil": acil, "fecam": fecam}
