"""Method cards: what they say is what the models are."""

import re
from functools import lru_cache

import pytest

from lamm_cl.config.cards import card_names, load_card, load_scenario, resolve, scenario_names
from lamm_cl.errors import UserError
from lamm_cl.learner.build import build, find, piece
from lamm_cl.towers.backbones import with_random_weights

PIECES = ("context", "labels", "loss", "head", "tower", "memory")
NAMES = ["cat", "golden retriever", "forget-me-not"]


@lru_cache
def vit_b_16():
    return with_random_weights("ViT-B-16-quickgelu")


@pytest.mark.parametrize("key", card_names())
def test_a_card_states_the_trainable_parameters_of_its_model_at_vit_b_16(key):
    """trainable: "2,048 + 512 per class and label token (...)"."""
    card = load_card(key)
    model = build(card, vit_b_16(), NAMES, [range(3)], shots=16)
    model.train()
    model.begin(0)
    mine = sum(p.numel() for p in model.parameters() if p.requires_grad)

    said = card.trainable.partition("(")[0]
    per_class = re.search(r"([\d,]+) per class( and label token)?", said)
    fixed = re.match(r"([\d,]+)(?! per class)(?![\d,])", said)
    stated = (
        int(fixed.group(1).replace(",", "")) if fixed and not said.startswith(per_class.group(0) if per_class else "-") else 0
    )
    if per_class:
        tokens = model.labels.k if per_class.group(2) else 1
        stated += int(per_class.group(1).replace(",", "")) * len(NAMES) * tokens
    assert mine == stated


@pytest.mark.parametrize("key", card_names())
def test_every_number_of_a_card_has_a_source(key):
    card = load_card(key)
    told = " ".join(card.provenance)
    for field in PIECES:
        entry = getattr(card, field)
        if entry is not None and entry.options:
            assert field in told, f"{key}: no source for {field}"
    if card.training:
        numbers = ("epochs", "steps", "steps_per_shot", "batch", "lr", "momentum", "weight_decay", "schedule", "warmup",
                   "augmentation", "clip_gradient")  # fmt: skip
        for field in numbers:
            if getattr(card.training, field) is not None:
                assert re.search(rf"training[^;]*\b{field}\b", told), f"{key}: no source for training.{field}"


@pytest.mark.parametrize("key", card_names())
def test_the_pieces_of_a_card_exist_and_take_its_options(key):
    card = load_card(key)
    for field in PIECES:
        entry = getattr(card, field)
        if entry is not None:
            assert find(entry.use, key).__name__ == entry.use.partition(".")[2]


@pytest.mark.parametrize("key", ["coop", "cocoop", "maple", "comma", "coop-16-csc"])
def test_a_thousand_million_vectors_are_refused_before_they_are_built(key):
    for n in (0, 1001, 10**9, 10**40):
        card = resolve(load_card(key), {"context": {"n": n, "init": None}})
        with pytest.raises(UserError, match=rf"^{re.escape(key)}: context: n: expected (1 or more|1000 or less), got \d+$"):
            piece(card, "context", {"clip": None, "names": NAMES})


def test_a_page_says_how_large_its_own_options_may_be(tmp_path):
    """And may postpone its annotations."""
    text = """
from __future__ import annotations
from typing import Annotated, Literal
from pydantic import Field
from lamm_cl.learner.pieces import Labels
class Projected(Labels):
    def __init__(self, *, M: Annotated[int, Field(ge=1, le=20_000)], by: Literal["rows", "columns"] = "rows"):
        super().__init__()
        self.M = M
"""
    (tmp_path / "wide.py").write_text(text)

    def made(**options):
        return piece(resolve(load_card("coop"), {"labels": {"use": f"{tmp_path}/wide.py:Projected"} | options}), "labels", {})

    assert made(M=10_000).M == 10_000
    with pytest.raises(UserError, match="^coop: labels: M: expected 20000 or less, got 20001$"):
        made(M=20_001)
    with pytest.raises(UserError, match="^coop: labels: by: expected 'rows' or 'columns', got 'row'; did you mean 'rows'.$"):
        made(M=1, by="row")


@pytest.mark.parametrize("name", scenario_names())
def test_every_shipped_scenario_is_valid_with_all_its_cards(name):
    scenario = load_scenario(name)
    assert scenario.name == name and scenario.description
