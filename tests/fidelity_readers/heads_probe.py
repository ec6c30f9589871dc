"""The linear probe: tests/fidelity_heads/README.md.  Which images a few-shot run takes is an input, by its quirk 44."""

import numpy as np
from torch import Tensor

from fidelity_readers.heads_inputs import Shown, head_of, inputs_of, learn
from lamm_cl.methods.linear_probe import LinearProbe, halvings


def probe(case: dict, cases: dict) -> dict:
    inputs, hyper, found = inputs_of(case, cases), case["hyper"], {}
    train, val, test = inputs.train(0), inputs.whole("val"), inputs.whole("test")
    options = {"search": hyper["search"], "steps": hyper["num_step"], "tol": hyper["tol"], "iterations": hyper["max_iter"]}
    for shots in map(int, hyper["val_shots"]):
        for seed in range(1, hyper["num_run"] + 1):
            named = f"shots{shots}_seed{seed}"
            draw = np.random.RandomState(seed)
            mine = {part: chosen(shown.y, n, draw) for part, shown, n in
                    (("train", train, shots), ("val", val, hyper["val_shots"][str(shots)]))}  # fmt: skip
            found |= {f"{named}/{part}_idx": ids.astype(np.int32) for part, ids in mine.items()}
            shown = Shown(train.raw[mine["train"]], train.y[mine["train"]])
            shown.val = Shown(val.raw[mine["val"]], val.y[mine["val"]])
            head = head_of(inputs, "linear_probe.Released", **options)
            learn(head, 0, inputs.experiences[0], shown)
            path = searched(head, shown, test)
            assert abs(np.log10(head.C.item()) - path["log10_C_final"][-1]) < 1e-9
            found |= {f"{named}/{name}": values for name, values in path.items()}
            if shots in hyper["coef_shots"]:
                found |= {f"{named}/{name}": value for name, value in coefficients(inputs, head, shown, options).items()}
    return found


def chosen(y: Tensor, n: int, draw: np.random.RandomState) -> np.ndarray:
    return np.concatenate([draw.choice(np.flatnonzero(y.numpy() == c), n, replace=False) for c in range(int(y.max()) + 1)])


def searched(head: LinearProbe, shown: Shown, test: Shown) -> dict:
    """The path of the search that `finish` took, step by step."""

    def accuracy(C: float, on: Shown = shown.val) -> float:
        W, b = head.fit(shown.raw, shown.y, C)
        return ((on.raw.double() @ W.T + b).argmax(dim=1) == on.y).double().mean().item()

    first = [accuracy(C) for C in head.candidates]
    steps = list(halvings(accuracy, head.candidates[int(np.argmax(first))], head.steps))
    return {
        "val_acc_init": first,
        "log10_C_pairs": [(step.left, step.right) for step in steps],
        "val_acc_pairs": [step.accuracies for step in steps],
        "log10_C_final": [np.log10(step.C) for step in steps],
        "test_acc": [100 * accuracy(step.C, test) for step in steps],
    }


def coefficients(inputs, head: LinearProbe, shown: Shown, options: dict) -> dict:
    found = {}
    for name, C in {"C1": 1.0, "C0.01": 0.01, "C0.0001": 0.0001}.items():
        found[f"{name}/coef"], found[f"{name}/intercept"] = head.fit(shown.raw, shown.y, C)
    exact = head_of(inputs, "linear_probe.Released", **options | {"tol": 1e-10, "iterations": 100_000})
    found["C1/coef_optimum"], b = exact.fit(shown.raw, shown.y, 1.0)
    return found | {"C1/intercept_optimum": b - b.mean()}


READERS = {"linear-probe": probe}
