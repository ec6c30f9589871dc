"""Hand-made records for the tests of tables and figures."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lamm_cl.results.file import write_record
from lamm_cl.results.record import BackboneFacts, Count, DatasetFacts, Measured, ModelFacts, Record, RunFacts

CARD_NAMES = {"zero-shot": "Zero-shot CLIP", "coop": "CoOp", "maple": "MaPLe", "lamm": "LAMM"}


def record(own, joint=None, *, dataset="species", method="coop", shots=16, seed=1, total=100, **scenario) -> Record:
    """A record with these correct counts: own (T+1, T), joint (T+1, T) (default: half of own); `total` images per set.

    The keyword arguments that are left are the scenario's (name, seeds, datasets, methods).
    """
    own = np.asarray(own)
    T = own.shape[1]
    totals = (total,) * T if isinstance(total, int) else tuple(total)
    spaces = {"own": own, "joint": own // 2 if joint is None else np.asarray(joint)}
    counts = tuple(
        Count(i, j, space, None if space == "joint" and j > i else int(R[i, j - 1]), totals[j - 1], None)
        for space, R in spaces.items()
        for i in range(T + 1)
        for j in range(1, T + 1)
    )
    name = scenario.pop("name", "demo")
    card = {"name": CARD_NAMES.get(method, method), "hash": f"card of {method}"}
    return Record(
        run=RunFacts(name, 1, dataset, method, shots, seed),
        scenario={"name": name, "seeds": [1, 2, 3], "hash": "0", **scenario},
        card=card,
        backbone=BackboneFacts("lamm-cl-mini", "embedded", "b", "fp32"),
        dataset=DatasetFacts(
            *(f"fingerprint of {dataset}", tuple(f"class {i}" for i in range(T)), tuple(range(T)), (1,) * T),
            *((16,) * T, totals, totals, tuple((i,) for i in range(T)), ()),
        ),
        counts=counts,
        model=ModelFacts((2048,) * T, None),
        measured=Measured(
            {"training": 1.5, "testing": 0.5}, 300.0, 2**20, "cpu", "host", {}, None, "2025-01-01T00:00:00"
        ),
        files={},
    )


def with_card(one: Record, **facts) -> Record:
    """The record with these facts added to its method's card."""
    return replace(one, card={**one.card, **facts})


def write(results: Path, records: list[Record]) -> Path:
    """The results folder that a run would have left."""
    for i, one in enumerate(records):
        run = one.run
        write_record(one, results / "runs" / f"dataset{i}" / "method" / f"shots{run.shots}-seed{run.seed}")
    return results
