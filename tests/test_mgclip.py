"""MG-CLIP: low-rank deltas that all experiences share, and rows of images that belong to their classes."""

import pytest
import torch
import torch.nn.functional as F
import toy
from generated import tiny_clip

SMALL = {"training": {"epochs": 2, "batch": 8}, "head": {"batch": 4}}
THREE = {"experiences": 3, "order": {"seed": 5}}


def run(tmp_path, key: str = "mgclip", head: dict | None = None, **changes):
    overrides = {key: SMALL | {"head": SMALL["head"] | (head or {})}}
    return toy.run(tmp_path, key, overrides=overrides, **(THREE | changes))


@pytest.mark.parametrize("moment", (3, 4, 6))  # behind the first experience, in the second and behind it
def test_cut_off_when_some_classes_have_rows_it_goes_on_to_the_same_bytes(tmp_path, moment):
    whole, tensors = run(tmp_path, folder="whole")
    with toy.killed(moment):
        run(tmp_path, folder="cut", save_every=0)
    resumed, again = run(tmp_path, folder="cut")

    assert resumed.facts() == whole.facts()
    assert tensors.keys() == again.keys() and all(torch.equal(tensors[name], again[name]) for name in tensors)


def learned(tmp_path, experiences: int, **head):
    """A run's parts after so many of three experiences, without steps: the deltas are moved by hand."""
    overrides = {"mgclip": SMALL | {"head": SMALL["head"] | head}}
    one = toy.prepared(toy.planned(tmp_path / "run", "mgclip", overrides=overrides, **THREE), tmp_path / "cache")
    for i in range(experiences):
        one.model.take_up(i, one.sources.observed)
        with torch.no_grad():
            for p in one.model.parameters():
                p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
        one.model.finish(i)
    return one


@torch.no_grad()
def test_rows_start_at_the_means_of_the_images_through_the_towers_as_they_were_learned(tmp_path):
    one = learned(tmp_path, 1, lr=1e-9)
    x = next(one.sources.train.batches([one.parts.train[0]], 0))
    mine = one.model.eval().output(x, one.model.begun).image
    frozen = tiny_clip().image(x.pixels)

    y = one.parts.train_targets[one.parts.train[0]]
    for c, w in enumerate(one.model.head.W):
        torch.testing.assert_close(w, mine[y == c].mean(dim=0), atol=1e-5, rtol=0)
        assert (w - frozen[y == c].mean(dim=0)).abs().max() > 1e-3


@torch.no_grad()
def test_rows_learn_and_those_of_earlier_classes_stay_to_the_bit(tmp_path):
    one = learned(tmp_path, 2)
    two = learned(tmp_path, 2, epochs=20, lr=0.01)
    before = one.model.head.W.clone()
    one.model.take_up(2, one.sources.observed)
    one.model.finish(2)

    assert torch.equal(one.model.head.W[: len(before)], before) and len(one.model.head.W) == 7
    x, y = next(one.sources.observed(1).batches())
    start, loss = one.parts.experiences[1].start, []
    for each in (one, two):
        image, W = each.model.eval().output(x, each.model.begun).image, each.model.head.W[start : len(before)]
        loss.append(F.cross_entropy(image @ F.normalize(W, dim=1).T, y - start).item())
    assert loss[1] < loss[0]


@torch.no_grad()
def test_classes_without_rows_stand_behind_all_others_in_the_order_of_their_texts(tmp_path):
    one = learned(tmp_path, 2)
    model, n = one.model.eval(), len(one.model.head.W)
    x = next(one.sources.test.batches([torch.arange(20)], 0))
    out = model.output(x, model.classes)

    assert out.logits[:, n:].amax(dim=1).lt(out.logits[:, :n].amin(dim=1)).all()
    assert torch.equal(out.logits[:, n:].argsort(dim=1), out.similarity[:, n:].argsort(dim=1))
    assert torch.equal(model.output(x, range(n)).logits, out.logits[:, :n])  # they take nothing from the others


def test_one_softmax_differs_from_two_in_the_texts_part_alone(tmp_path):
    two, learned_by_two = run(tmp_path, folder="two")
    one, learned_by_one = run(tmp_path, "mgclip-once", folder="one")

    assert all(torch.equal(learned_by_two[name], learned_by_one[name]) for name in learned_by_two)
    assert [count.correct for count in two.counts] != [count.correct for count in one.counts]


def test_a_record_counts_the_images_that_go_through_the_learned_towers_once_more(tmp_path, monkeypatch):
    passes = []
    encode = tiny_clip().image
    monkeypatch.setattr(tiny_clip(), "image", lambda x, *rest, **more: passes.append(len(x)) or encode(x, *rest, **more))
    record, _ = run(tmp_path)

    assert sum(passes) == record.measured.work["images encoded"] == 7 * 4 * (2 + 1) + 63 * 4
