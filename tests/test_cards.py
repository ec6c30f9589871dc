"""Method cards: what they say is what the models are."""

import re
from functools import lru_cache

import pytest

from lamm_cl.config.cards import card_names, load_card, load_scenario, scenario_names
from lamm_cl.learner.build import build, find
from lamm_cl.towers.backbones import with_random_weights

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
    for field in ("context", "labels", "loss"):
        entry = getattr(card, field)
        if entry is not None and entry.options:
            assert field in told, f"{key}: no source for {field}"
    if card.training:
        for field in ("epochs", "batch", "lr", "momentum", "weight_decay", "schedule", "warmup", "augmentation"):
            assert re.search(rf"training[^;]*\b{field}\b", told), f"{key}: no source for training.{field}"


@pytest.mark.parametrize("key", card_names())
def test_the_pieces_of_a_card_exist_and_take_its_options(key):
    card = load_card(key)
    for field in ("context", "labels", "loss"):
        entry = getattr(card, field)
        if entry is not None:
            assert find(entry.use, key).__name__ == entry.use.partition(".")[2]


@pytest.mark.parametrize("name", scenario_names())
def test_every_shipped_scenario_is_valid_with_all_its_cards(name):
    scenario = load_scenario(name)
    assert scenario.name == name and scenario.description
