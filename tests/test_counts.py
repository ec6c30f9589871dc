"""Images through the tower: what a plan says, what a record says, and what went through."""

import pytest
import toy

from lamm_cl.bench import counts
from lamm_cl.bench.counts import asked_by, toolbox
from lamm_cl.config.cards import load_card
from lamm_cl.sweeping.estimate import Asked, Sizes, passes
from lamm_cl.towers.clip import FrozenCLIP

SIZES = Sizes(classes=7, train=42, test=63)
AUGMENTED = {"epochs": 2, "batch": 8, "augmentation": "random_resized_crop+flip"}
KINDS = {  # of each kind of method one -> what the toy needs otherwise
    "zero-shot": {},
    "simplecil": {},
    "gda": {},
    "rapf": {"training": toy.SMALL},
    "engine": {"training": toy.SMALL},
    "proof": {"training": toy.SMALL, "memory": {"total": 6}},
    "bofa": {"training": toy.SMALL, "head": {"Kt": 8}},
    "cliplora": {"training": toy.SMALL | {"steps_per_shot": None}},
    "l2p-c3box": {"training": AUGMENTED, "memory": {"per_class": 2}},
    "codaprompt-c3box": {"training": toy.SMALL, "memory": {"total": 5}} | toy.shallow("codaprompt"),
    "coop+replay": {"training": AUGMENTED, "memory": {"total": 5}},
    "maple+replay": {"training": toy.SMALL, "memory": {"total": 5, "choose": "reservoir"}} | toy.shallow("maple"),
    "coop": {"training": AUGMENTED},
    "promptsrc": {"training": toy.SMALL} | toy.shallow("promptsrc"),
    "l2p": {"training": AUGMENTED},
    "codaprompt": {"training": toy.SMALL} | toy.shallow("codaprompt"),
    "mgclip": {"training": toy.SMALL},
    "finetune": {"training": toy.SMALL | {"steps": None, "warmup": None}},
}


@pytest.mark.parametrize("key", KINDS)
def test_a_plan_and_a_record_count_the_images_that_go_through_the_tower(tmp_path, monkeypatch, key):
    seen, encode = [], FrozenCLIP.image_all
    monkeypatch.setattr(FrozenCLIP, "image_all", lambda clip, x, *rest: seen.append(len(x)) or encode(clip, x, *rest))
    stream = {"experiences": 3, "overrides": {key: KINDS[key]}}
    record, _ = toy.run(tmp_path, key, **stream)

    run = toy.planned(tmp_path, key, **stream)
    found = passes(run, SIZES, asked_by(run.card))
    assert sum(seen) == found.encoded + found.prompted == record.measured.work["images encoded"]


def test_a_toolboxs_loop_by_hand(tmp_path):
    """Counted in C3Box on 200 + 200 images in 5 experiences: 600 passes for zero-shot CLIP, 800 for SimpleCIL."""
    sizes = Sizes(classes=10, train=200, test=200)
    for key, found in {"zero-shot": 600, "simplecil": 800}.items():
        run = toy.planned(tmp_path, key, experiences=5, shots="full")
        assert toolbox(run, sizes, asked_by(run.card)) == found


def test_the_bench_counts_every_method_on_cifar_100():
    found = {measure.name: measure for measure in counts.counts()}

    assert set(found) == {f"{method}_images" for method in counts.METHODS}
    assert (found["simplecil_images"].value, found["simplecil_images"].ratio) == (60_000, 105 / 60)
    assert (found["lamm_images"].value, found["lamm_images"].ratio) == (60_000, 555 / 60)  # ten epochs
    assert (found["engine_images"].value, found["engine_images"].ratio) == (560_000, 1055 / 560)  # and ten noisy views
    replayed = sum(10 * i * (2000 // (10 * i)) for i in range(1, 10))
    assert found["proof_images"].ratio == (5 * (50_000 + replayed) + 55_000) / 60_000


def test_only_what_observes_the_frozen_tower_is_counted_for_it():
    assert asked_by(load_card("gda")).observed == 11  # ten views, and as they are
    assert asked_by(load_card("mgclip")) == Asked(True, False, True, again=True)
