"""SimpleCIL, RanPAC, ACIL, FeCAM and the linear probe: tests/fidelity_heads/README.md."""

from fidelity_readers.heads_inputs import head_of, inputs_of, learn, logits


def simplecil(case: dict, cases: dict) -> dict:
    inputs, found = inputs_of(case, cases), {}
    head, test = head_of(inputs, "simplecil.SimpleCIL"), inputs.whole("test")
    for t, classes in enumerate(inputs.experiences):
        learn(head, t, classes, inputs.train(t))
        found[f"logits/{t}"] = logits(head, test.raw, range(classes.stop))
    return found | {"prototypes": head.p}


READERS = {"simplecil": simplecil}
