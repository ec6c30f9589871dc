"""BOFA, ENGINE and PROOF on a stream: cut off anywhere, in batches of any size and order, and what they choose on."""

import pytest
import torch
import toy

from lamm_cl.errors import UserError
from lamm_cl.learner.shown import Images
from lamm_cl.training.run import complete

DEFAULT = ("bofa",)
VARIANTS = ("bofa-c3box",)
SMALL = {"epochs": 3, "batch": 8, "lr": 0.01}


def overrides(key: str, head: dict | None = None, **changes) -> dict:
    return {key: {"training": SMALL, "head": toy.NARROW.get(key, {}) | (head or {})} | changes}


def run(tmp_path, key: str, **changes):
    return toy.run(tmp_path, key, overrides=overrides(key), experiences=3, **changes)


def begun(tmp_path, key: str, experience: int = 0, head: dict | None = None, **changes):
    """A prepared run that has taken up an experience, those before it learned without a step."""
    one = toy.prepared(toy.planned(tmp_path / "run", key, overrides=overrides(key, head), experiences=3, **changes), tmp_path)
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
    one = toy.prepared(toy.planned(tmp_path / "run", key, overrides=overrides(key), experiences=3), tmp_path)
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
    record, _ = toy.run(tmp_path, key, overrides=overrides(key), experiences=3)
    plain, _ = toy.run(tmp_path, "zero-shot", folder="plain", experiences=3)

    def first(record):
        return [(count.tested, count.label_space, count.correct) for count in record.counts if count.trained == 0]

    assert first(record) == first(plain)


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
