"""SimpleCIL, RanPAC and ACIL: tests/fidelity_heads/README.md."""

import torch
from torch import Tensor

from fidelity_readers.heads_inputs import fill, head_of, inputs_of, learn, logits, subsample


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
        G, Q = head.seen
        found |= {
            f"split/{t}": torch.tensor([head.fitted(n), n], dtype=torch.int32),
            f"ridge/{t}": head.ridge.clone(),
            f"Q/{t}": torch.cat([Q, Q.new_zeros(inputs.C - len(Q), len(G))]).T,
            f"W/{t}": head.W,
            f"logits/{t}": logits(head, test.raw, range(classes.stop)),
        } | whole_or_part("G", t, G.clone(), case)
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
        R = torch.linalg.inv(head.seen.G + gamma * torch.eye(M))
        found |= {
            f"columns/{t}": torch.tensor([len(head.W)], dtype=torch.int32),
            f"W/{t}": head.W.T,
            f"logits/{t}": logits(head, test.raw, range(classes.stop)),
        } | whole_or_part("R", t, R, case)
    return found


def whole_or_part(name: str, t: int, x: Tensor, case: dict) -> dict:
    """X/t, or X_sub/t of as many elements as the case has."""
    part = case["arrays"].get(f"{name}_sub/{t}")
    return {f"{name}_sub/{t}": subsample(x, part["shape"][0])} if part else {f"{name}/{t}": x}


READERS = {"simplecil": simplecil, "ranpac": ranpac, "acil": acil}
