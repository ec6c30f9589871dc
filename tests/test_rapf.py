"""RAPF: one adapter that a stream of classes shares, replayed Gaussians and fused weights."""

import pytest
import torch
import toy

from lamm_cl.errors import UserError
from lamm_cl.methods.rapf import fused

CARDS = ("rapf", "rapf-imagenet-r", "rapf-cub", "rapf-c3box")
SMALL = {"rapf": {"training": {"epochs": 3, "batch": 8}, "head": {"threshold": 2.0, "beta": 0.3}}}


@pytest.mark.parametrize("moment", (2, 5, 6, 11))  # epochs and ends of experiences
def test_cut_off_in_the_middle_it_goes_on_to_the_same_bytes(tmp_path, moment):
    whole, tensors = toy.run(tmp_path, "rapf", folder="whole", experiences=3, overrides=SMALL)
    with toy.killed(moment):
        toy.run(tmp_path, "rapf", folder="cut", experiences=3, save_every=0, overrides=SMALL)
    resumed, again = toy.run(tmp_path, "rapf", folder="cut", experiences=3, overrides=SMALL)

    assert resumed.facts() == whole.facts()
    assert tensors.keys() == again.keys() and all(torch.equal(tensors[name], again[name]) for name in tensors)


def started(tmp_path, experience: int, **head):
    overrides = {"rapf": SMALL["rapf"] | {"head": SMALL["rapf"]["head"] | head}}
    one = toy.prepared(toy.planned(tmp_path / "run", "rapf", experiences=3, overrides=overrides), tmp_path)
    for i in range(experience + 1):
        one.model.begin(i)
        one.model.observe(i, one.sources.observed(i))
    return one


def a_step(one, i: int) -> dict[str, torch.Tensor]:
    ids = one.parts.train[i][:4]
    return one.model.loss(next(one.sources.train.batches([ids], 0)), one.parts.train_targets[ids])[1]


def test_the_first_experience_is_cross_entropy_alone_and_later_ones_push_hard_pairs_apart(tmp_path):
    first = a_step(started(tmp_path, 0), 0)
    second = a_step(started(tmp_path, 1), 1)
    easy = a_step(started(tmp_path, 1, threshold=1e-6), 1)

    assert first.keys() == easy.keys() == {"cross_entropy"} and second.keys() == {"cross_entropy", "hinge"}


def test_old_classes_are_replayed_in_turn_and_each_epoch_has_an_order_of_its_own(tmp_path):
    one, seen = started(tmp_path, 2), []
    head = one.model.head
    replayed = head.replayed
    head.replayed = lambda classes, noise: (seen.append(classes), replayed(classes, noise))[1]
    head.threshold = 1e-6

    for _ in range(5):
        a_step(one, 2)
    head.after_epoch(one.model, 0, 3)
    a_step(one, 2)

    order = [c for pair in seen[:5] for c in pair]
    assert order[:5] == order[5:] and sorted(order[:5]) == list(range(5))
    assert seen[5] == head.order(5).tolist()[:2]


def test_replayed_samples_have_the_mean_and_covariance_of_their_class(tmp_path):
    one = started(tmp_path, 0)
    head, shown = one.model.head, one.sources.observed(0)
    z = torch.randn(1, 200_000, len(head.W), generator=torch.Generator().manual_seed(1))

    x = head.replayed([1], z)

    mine = shown.raw[shown.y == 1]
    assert torch.allclose(x.mean(dim=0), mine.mean(dim=0), atol=0.02 * mine.abs().max())
    S = torch.cov(mine.T) + 1e-4 * torch.eye(len(head.W))
    assert torch.allclose(torch.cov(x.T), S, atol=0.02 * S.abs().max())


def test_what_moved_most_is_kept_and_what_moved_least_is_mixed():
    draw = torch.Generator().manual_seed(1)
    old = torch.randn(6, 6, generator=draw)
    new = old + 0.1 * torch.randn(6, 6, generator=draw)

    assert torch.allclose(fused(new, old, 1.0)[0], new, atol=1e-6)
    assert torch.equal(fused(old, old, 0.0)[1], torch.zeros(6, 6, dtype=torch.float64))
    weight, mask = fused(new, old, 0.3)
    assert mask.min() >= 0.3 and mask.max() == 1
    U = torch.linalg.svd(old.double()).U
    assert torch.allclose(U.T @ weight.double(), U.T @ old.double() + mask * (U.T @ (new - old).double()), atol=1e-6)


def test_a_class_with_one_image_is_told_by_name(tmp_path):
    with pytest.raises(UserError, match="RAPF: a covariance needs two images or more; 'red' has 1"):
        toy.run(tmp_path, "rapf", shots=1, overrides=SMALL)


@pytest.mark.parametrize("key", CARDS[1:])
def test_a_variant_runs(tmp_path, key):
    record, tensors = toy.run(tmp_path, key, experiences=3, overrides={key: {"training": {"epochs": 1}}})

    assert record.model.kept_bytes > 7 * tensors["head.W"].numel() * 4  # the factors of seven classes
