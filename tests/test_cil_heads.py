"""BOFA, ENGINE and PROOF on a stream: cut off anywhere, in batches of any size and order, and what they choose on."""

import json

import pytest
import torch
import toy
from generated import tiny_clip

from lamm_cl.errors import UserError
from lamm_cl.learner.shown import Images
from lamm_cl.methods import proof
from lamm_cl.training.run import complete

DEFAULT = ("bofa", "engine", "proof")
VARIANTS = ("bofa-c3box", "engine-without-texts", "engine-released", "proof-released")
SMALL = {"epochs": 3, "batch": 8, "lr": 0.01}


def written(tmp_path, **changes):
    """A file of what sets each of the toy's classes apart from each other one."""
    told = {a: {b: [f"{a} is no {b.upper()}", f"{b} is no {a}", "rare"] for b in toy.CLASSES if b != a} for a in toy.CLASSES}
    (tmp_path / "texts.json").write_text(json.dumps(told | changes))
    return str(tmp_path / "texts.json")


def overrides(tmp_path, key: str, head: dict | None = None) -> dict:
    mine = {"texts": written(tmp_path)} if key in ("engine", "engine-released") else toy.NARROW.get(key, {})
    return {key: {"training": SMALL, "head": mine | (head or {})}}


def run(tmp_path, key: str, head: dict | None = None, **changes):
    return toy.run(tmp_path, key, overrides=overrides(tmp_path, key, head), experiences=3, **changes)


def begun(tmp_path, key: str, experience: int = 0, head: dict | None = None, **changes):
    """A prepared run that has taken up an experience, those before it learned without a step."""
    mine = overrides(tmp_path, key, head)
    one = toy.prepared(toy.planned(tmp_path / "run", key, overrides=mine, experiences=3, **changes), tmp_path)
    for i in range(experience + 1):
        one.model.take_up(i, one.sources.observed)
        if i < experience:
            one.model.finish(i)
    return one


def step(one, i: int) -> dict[str, torch.Tensor]:
    """The loss terms of a first batch of an experience."""
    ids = one.parts.train[i][:4]
    return one.model.loss(next(one.sources.train.batches([ids], 0)), one.parts.train_targets[ids])[1]


MOMENTS = [(key, moment) for key in DEFAULT for moment in (2, 4, 6)] + [(key, 6) for key in VARIANTS]  # epochs and experiences


@pytest.mark.parametrize(("key", "moment"), MOMENTS)
def test_cut_off_in_the_middle_it_goes_on_to_the_same_bytes(tmp_path, key, moment):
    whole, tensors = run(tmp_path, key, folder="whole")
    with toy.killed(moment):
        run(tmp_path, key, folder="cut", save_every=0)
    resumed, again = run(tmp_path, key, folder="cut")

    assert resumed.facts() == whole.facts()
    assert tensors.keys() == again.keys() and all(torch.equal(tensors[name], again[name]) for name in tensors)


def learned(tmp_path, key: str):
    """A trained model and the test images of the whole stream."""
    one = toy.prepared(toy.planned(tmp_path / "run", key, overrides=overrides(tmp_path, key), experiences=3), tmp_path)
    complete(one, lambda at: None)
    return one.model.eval(), next(one.sources.test.batches([torch.arange(len(one.dataset.test))], 0))


def turned(x: Images, order: torch.Tensor) -> Images:
    return Images(**{name: tensor[order] for name, tensor in x.parts().items()})


@pytest.mark.parametrize("key", DEFAULT)
def test_the_score_of_an_image_depends_neither_on_its_batch_nor_on_its_place_in_it(tmp_path, key):
    model, x = learned(tmp_path, key)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(x)
        for size in (1, 16):
            torch.testing.assert_close(torch.cat([model(part) for part in x.split(size)]), whole, atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(model(turned(x, order)), whole[order], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("key", DEFAULT)
def test_it_learns_colours_and_says_what_it_keeps(tmp_path, key):
    """Blobs of noise about a colour: chance is 1/7."""
    record, tensors = run(tmp_path, key)

    last = [count for count in record.counts if count.trained == 3 and count.label_space == "joint"]
    assert sum(count.correct for count in last) > 0.5 * sum(count.total for count in last)
    assert record.model.kept_bytes >= sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > 0


@pytest.mark.parametrize("key", DEFAULT)
def test_before_anything_is_learned_images_are_ranked_as_zero_shot_clip_ranks_them(tmp_path, key):
    record, _ = run(tmp_path, key)
    plain, _ = toy.run(tmp_path, "zero-shot", folder="plain", experiences=3)

    def first(record):
        return [(count.tested, count.label_space, count.correct) for count in record.counts if count.trained == 0]

    assert first(record) == first(plain)


PASSES = {"bofa": 91, "proof": 91, "engine": 91 + 28 * 3}  # 28 training images and 63 of the test; with noise in each of 3 epochs


@pytest.mark.parametrize("key", DEFAULT)
def test_no_view_of_an_image_goes_through_the_tower_twice(tmp_path, key, monkeypatch):
    encode, passes = tiny_clip().image_all, []
    monkeypatch.setattr(tiny_clip(), "image_all", lambda x, *rest, **more: passes.append(len(x)) or encode(x, *rest, **more))

    record, _ = run(tmp_path, key)

    assert sum(passes) == PASSES[key] == record.measured.work["images encoded"]


@pytest.mark.parametrize("key", DEFAULT)
def test_without_old_classes_in_the_loss_it_is_refused_in_one_line(tmp_path, key):
    one = begun(tmp_path, key, experience=1)
    one.model.train_label_space = "experience"
    with pytest.raises(UserError, match=f"{key.upper()}: old classes stand in its loss: expected label_space: seen"):
        step(one, 1)


# --- BOFA -----------------------------------------------------------------------------------------------------------------


def test_lambda_is_chosen_on_training_images_that_no_centre_is_made_of(tmp_path):
    """Whatever the test images are: they are never asked for before the test."""
    one = begun(tmp_path, "bofa")
    head, shown = one.model.head, one.sources.observed(0)
    asked = []
    head.centres_without = lambda x, y, held: (asked.append(held), type(head).centres_without(head, x, y, held))[1]

    step(one, 0)
    step(one, 0)

    [held] = asked  # once
    assert held.sum() == 3 and (~held).sum() == 9  # one of four images a class
    for c in range(3):
        mine = shown.trunk[(shown.y == c) & ~held]
        expected = mine.mean(dim=0) @ head.W0.T
        assert torch.allclose(type(head).centres_without(head, shown.trunk, shown.y, held)[c], expected, atol=1e-5)


def test_what_is_searched_for_is_what_is_used(tmp_path):
    """Released, the search takes for the share of the text what is used as the share of the images."""
    for key, alike in (("bofa", True), ("bofa-c3box", False)):
        (tmp_path / key).mkdir()
        head = begun(tmp_path / key, key).model.head
        text = torch.nn.functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(1)), dim=-1)
        images = torch.nn.functional.normalize(head.centres, dim=-1)
        head.lam.fill_(0.2)
        assert torch.allclose(head.candidate(0.2, images, text), head.prototypes(text, range(3)), atol=1e-6) == alike


def test_with_one_image_a_class_lambda_is_in_the_middle(tmp_path):
    one = begun(tmp_path, "bofa", shots=1)
    step(one, 0)

    assert one.model.head.lam == 0.5


def test_in_later_experiences_the_matrix_moves_along_free_directions_alone(tmp_path):
    one = begun(tmp_path, "bofa", experience=1)
    model, head = one.model, one.model.head
    with torch.no_grad():
        head.W += torch.randn(head.W.shape, generator=torch.Generator().manual_seed(1))
    model.after_epoch(0, 3)
    step(one, 1)["cross_entropy"].backward()

    assert head.constrained and head.W.grad is None and head.B.grad.any()
    moved = (head.matrix() - head.W0).detach()
    assert torch.allclose(moved @ head.A @ head.A.T, moved, atol=1e-4) and moved.abs().max() > 0.1
    earlier = one.sources.observed(0).trunk
    before = (earlier @ head.W0.T).norm()
    assert (earlier @ moved.T).norm() < 0.1 * before < (earlier @ (head.W - head.W0).detach().T).norm()


def test_as_many_free_directions_as_there_are_is_refused(tmp_path):
    with pytest.raises(UserError, match="head: Kt: 64 directions, but image features before their projection have 24"):
        toy.run(tmp_path, "bofa")


# --- ENGINE ---------------------------------------------------------------------------------------------------------------


def test_without_a_file_of_texts_engine_is_what_it_is_without_texts(tmp_path):
    """And the record says that there was none."""
    record, plain = run(tmp_path, "engine", {"texts": None}, folder="a")
    without, other = run(tmp_path, "engine-without-texts", folder="b")

    assert plain.keys() == other.keys() and all(torch.equal(plain[name], other[name]) for name in plain)
    assert [count.correct for count in record.counts] == [count.correct for count in without.counts]
    assert record.card["head"]["texts"] is None


def test_texts_change_what_is_learned_and_how_it_is_scored(tmp_path):
    told, untold = run(tmp_path, "engine", folder="a")[1], run(tmp_path, "engine-without-texts", folder="b")[1]

    assert not torch.equal(told["head.texts.0.weight"], untold["head.texts.0.weight"])
    assert told["head.pairs"].shape == (7, 7, 1, 16) and told["head.pairs"][0, 1].any() and not told["head.pairs"][1, 1].any()


def test_a_step_of_engine_shows_every_old_class_and_noise_on_its_own_images(tmp_path):
    first, later = step(begun(tmp_path, "engine"), 0), step(begun(tmp_path, "engine", experience=1), 1)

    assert first.keys() == later.keys() == {"cross_entropy", "image", "text"}
    one = begun(tmp_path, "engine", experience=1)
    seen = []
    head = one.model.head
    head.drawn = lambda classes: (seen.append(classes), type(head).drawn(head, classes))[1]
    step(one, 1)
    assert seen[0][4:] == [0, 1, 2]


def test_training_draws_among_differences_to_classes_seen_and_released_to_those_to_come_too(tmp_path):
    mine, released = (begun(tmp_path, key, experience=1).model.head for key in ("engine", "engine-released"))

    assert {b for _, b in mine.told} == set(range(5)) and len(mine.drawable[0]) == 4 * 3
    assert {b for _, b in released.told} == set(range(7)) and len(released.drawable[0]) == 6 * 3


def test_classes_to_come_do_not_touch_the_scores_of_those_learned(tmp_path):
    one = begun(tmp_path, "engine", experience=1)
    one.model.finish(1)
    model, x = one.model.eval(), next(one.sources.test.batches([torch.arange(40)], 0))
    with torch.no_grad():
        torch.testing.assert_close(model(x)[:, :5], model.output(x, range(5)).logits)


def test_in_the_releases_way_of_re_ranking_the_batch_decides(tmp_path):
    """What the default card is there to avoid."""
    model, x = learned(tmp_path, "engine-released")
    with torch.no_grad():
        once, again = model(x), model(x)
    assert (once - again).abs().max() > 1e-4


def test_pixel_noise_is_a_function_of_seed_epoch_and_image(tmp_path):
    one = begun(tmp_path, "engine")
    shown = one.sources.observed(0)
    noisy, again = shown.noisy(1, 0.25).unit, toy.prepared(one.run, tmp_path / "other").sources.observed(0).noisy(1, 0.25).unit

    assert torch.equal(noisy, again) and not torch.equal(noisy, shown.unit)
    assert not torch.equal(noisy, shown.noisy(2, 0.25).unit) and not torch.equal(noisy, shown.noisy(1, 0.25, clamp=True).unit)


WRONG = {
    "no such file": (None, "texts: '.*none.json': cannot be read: No such file or directory"),
    "no JSON": ("{", "texts.json: no JSON"),
    "a list": ("[]", r"texts.json: expected {class: {other class: \[text, ..\]}}"),
    "a class is missing": ('{"blu": {}, "green": {}}', "texts.json: nothing of 'red'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_file_of_texts_that_is_none_is_told_in_one_line(tmp_path, what):
    content, said = WRONG[what]
    path = tmp_path / ("texts.json" if content else "none.json")
    if content:
        path.write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        toy.run(tmp_path, "engine", overrides={"engine": {"training": SMALL, "head": {"texts": str(path)}}})
    assert "\n" not in str(caught.value)


def test_a_pair_without_texts_is_told_by_its_names(tmp_path):
    path = written(tmp_path, green={"red": ["x"], "blue": "x"})
    with pytest.raises(UserError, match="texts.json: expected a list of texts of 'green' against 'blue'"):
        toy.run(tmp_path, "engine", overrides={"engine": {"training": SMALL, "head": {"texts": path}}})


# --- PROOF ----------------------------------------------------------------------------------------------------------------


def test_in_the_releases_way_of_fusing_the_batch_decides(tmp_path):
    """What the default card is there to avoid."""
    model, x = learned(tmp_path, "proof-released")
    with torch.no_grad():
        alone = torch.cat([model(part) for part in x.split(1)])
        assert (model(x) - alone).abs().max() > 0.01


def test_old_projections_of_proof_stay_and_released_those_of_texts_go_on_learning(tmp_path):
    for key, old in (("proof", set()), ("proof-released", {"texts.0.weight", "texts.0.bias"})):
        (tmp_path / key).mkdir()
        head = begun(tmp_path / key, key, experience=1).model.head
        learning = {name for name, p in head.named_parameters() if p.requires_grad}
        assert {name for name in learning if name.startswith(("images.0", "texts.0", "contexts.0"))} == old
        assert {"images.1.weight", "texts.1.weight", "contexts.1", "attention.q.weight", "s"} <= learning


def test_images_of_old_classes_join_the_training_of_proof(tmp_path):
    one = begun(tmp_path, "proof", experience=2)
    ids = one.model.memory.samples(one.model.experience(2))

    assert set(one.parts.train_targets[ids].tolist()) == set(range(5)) and len(ids) == 5 * 4


def test_a_row_that_is_fused_in_parts_is_what_it_is_whole(tmp_path, monkeypatch):
    one = begun(tmp_path, "proof", experience=1)
    one.model.finish(1)
    model, x = one.model.eval(), next(one.sources.test.batches([torch.arange(40)], 0))
    with torch.no_grad():
        whole = model(x)
        monkeypatch.setattr(proof, "SCORED", 1)
        torch.testing.assert_close(model(x), whole, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(whole[:, :5], model.output(x, range(5)).logits, atol=1e-5, rtol=1e-5)
