"""Heads in closed form, without text: what they know of a stream, and that cutting it up or off changes nothing."""

import pytest
import torch
import toy

from lamm_cl.config.cards import card_names, load_card
from lamm_cl.errors import UserError
from lamm_cl.learner import ridge
from lamm_cl.learner.build import find
from lamm_cl.learner.closed import held_out
from lamm_cl.learner.gaussian import Symmetric, distances, pseudo_inverse, stacked


def in_closed_form(key: str) -> bool:
    """Without text, and without a step of training."""
    card = load_card(key)
    return card.training is None and card.head is not None and not find(card.head.use, key).reads_text


HEADS = [key for key in card_names() if in_closed_form(key)]
JOINT = {  # card -> how near T experiences come to one, relative to the largest entry; what must be fixed for that
    "simplecil": (1e-6, {}),
    "ranpac": (1e-4, {"ridges": [10.0]}),
    "acil": (1e-11, {}),
    "linear-probe": (0.0, {}),
    "fecam": (0.0, {}),
    "fecam-class": (0.0, {}),
}


def run(tmp_path, key: str, head: dict | None = None, **changes):
    overrides = {"head": toy.NARROW.get(key, {}) | (head or {})}
    return toy.run(tmp_path, key, overrides={key: overrides}, **changes)


@pytest.mark.parametrize("key", HEADS)
def test_a_head_without_text_has_no_accuracy_on_classes_that_it_has_not_learned(tmp_path, key):
    record, _ = run(tmp_path, key, experiences=3)

    assert len(record.counts) == 4 * 3 * 2
    for count in record.counts:
        assert (count.correct is None) == (count.tested > count.trained)


@pytest.mark.parametrize("key", HEADS)
def test_a_head_learns_colours(tmp_path, key):
    """Blobs of noise about a colour: chance is 1/7."""
    record, _ = run(tmp_path, key, experiences=3)

    last = [count for count in record.counts if count.trained == 3 and count.label_space == "joint"]
    assert sum(count.correct for count in last) > 0.5 * sum(count.total for count in last)


@pytest.mark.parametrize("key", HEADS)
def test_kept_bytes_are_those_of_learned_tensors_and_sums(tmp_path, key):
    record, learned = run(tmp_path, key)

    saved = sum(tensor.numel() * tensor.element_size() for tensor in learned.values())
    assert record.model.kept_bytes >= saved > 0


@pytest.mark.parametrize("key", JOINT)
def test_the_experiences_of_a_stream_give_what_one_with_all_classes_gives(tmp_path, key):
    near, fixed = JOINT[key]
    one = run(tmp_path, key, fixed, folder="one", experiences=1, shots="full")[1]

    for T in (2, 7):
        many = run(tmp_path, key, fixed, folder=f"in {T}", experiences=T, shots="full")[1]
        assert one.keys() == many.keys()
        for name, joint in one.items():
            assert (many[name] - joint).abs().max() <= near * joint.abs().max(), name


def test_ranpac_chooses_the_same_ridge_whatever_the_experiences(tmp_path):
    """What is held out of a class depends on the class alone."""
    chosen = [run(tmp_path, "ranpac", folder=f"in {T}", experiences=T, shots="full")[1]["head.ridge"] for T in (1, 2, 7)]

    assert chosen[0] == chosen[1] == chosen[2]


def test_ranpacs_ridge_is_the_best_of_all_candidates_on_the_images_held_out(tmp_path):
    """The error from sums is the squared error on those images; downhill finds what looking at all would."""
    overrides = {"ranpac": {"head": toy.NARROW["ranpac"]}}
    prepared = toy.prepared(toy.planned(tmp_path / "run", "ranpac", overrides=overrides), tmp_path)
    head, model = prepared.model.head, prepared.model
    for i in range(2):
        model.begin(i)
        model.observe(i, prepared.sources.observed(i))
    shown = [prepared.sources.observed(i) for i in range(2)]
    x, y, ids = (torch.cat([getattr(one, name) for one in shown]) for name in ("raw", "y", "ids"))
    held = torch.cat([held_out(one.y, one.ids, head.share, head.seed) for one in shown])

    for candidate in (10.0, 1000.0):
        W = head.seen.solve(candidate)
        Y = torch.nn.functional.one_hot(y, 7).float()
        error = (head.widen(x[held]) @ W.T - Y[held]).square().mean().item()
        assert head.error(candidate) == pytest.approx(error, rel=1e-4)
    assert sorted(ids[held].tolist()) == sorted(set(ids[held].tolist())) and len(ids[held]) == 7
    assert head.choose() == min(head.ridges, key=head.error)


def test_half_of_a_gram_matrix_is_enough(monkeypatch):
    """Whole, its quadratic form and what it solves, in panels as in one piece."""
    h, y = torch.randn(40, 23, generator=torch.Generator().manual_seed(0)).double(), torch.arange(40) % 3
    monkeypatch.setattr(ridge, "PANEL", 5)
    sums = ridge.Sums(torch.zeros(23, 23).double(), torch.zeros(3, 23).double())
    for at in (slice(0, 30), slice(30, 40)):
        sums.add(h[at], y[at], range(3))

    W, G = sums.solve(0.5), h.T @ h
    assert torch.allclose(sums.whole(), G, atol=1e-12)
    assert torch.allclose(W, torch.linalg.solve(G + 0.5 * torch.eye(23), sums.Q, left=False), atol=1e-12)
    assert sums.quadratic(W) == pytest.approx(((W @ G) * W).sum().item(), rel=1e-12)
    assert torch.allclose(sums.whole(), G, atol=1e-12)


def test_with_one_image_a_class_ranpacs_ridge_is_next_to_the_mean_diagonal(tmp_path):
    prepared = toy.prepared(
        toy.planned(tmp_path / "run", "ranpac", overrides={"ranpac": {"head": toy.NARROW["ranpac"]}}, shots=1), tmp_path
    )
    head, model = prepared.model.head, prepared.model
    model.begin(0)
    model.observe(0, prepared.sources.observed(0))
    model.finish(0)

    assert 10**-0.5 < head.ridge.item() / head.seen.G.diagonal().mean().item() < 10**0.5


def test_a_ridge_too_small_for_the_precision_is_told_with_the_number(tmp_path):
    with pytest.raises(UserError, match="a ridge of 1e-30 is too small for these features in torch.float32"):
        run(tmp_path, "ranpac", {"ridges": [1e-30]})


@pytest.mark.parametrize("n", (2, 5, 40))
@pytest.mark.parametrize("alphas", ((1.0, 0.0), (10.0, 10.0), (1.0, -0.02), (0.0, 0.0)))
def test_a_covariance_of_few_directions_is_the_dense_one_and_so_is_its_inverse(n, alphas):
    D, alpha1, alpha2 = 24, *alphas
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    S = torch.cov(x.T)
    off = (S - torch.diag(S.diagonal())).sum() / (D * (D - 1))
    dense = S + alpha1 * S.diagonal().mean() * torch.eye(D) + alpha2 * off * (1 - torch.eye(D))
    dense = dense / dense.diagonal().sqrt().outer(dense.diagonal().sqrt())

    metric = Symmetric.covariance(x).shrunk(alpha1, alpha2).correlation()

    assert torch.allclose(metric.dense(), dense, atol=1e-12)
    assert metric.U.shape[1] <= min(n, D) + 1
    query, mean = torch.randn(3, D, dtype=torch.float64), x.mean(dim=0, keepdim=True)
    inverse = torch.linalg.pinv(dense, hermitian=True, rtol=1e-13)
    found = metric.inverse() if alpha1 else pseudo_inverse(dense, 1e-13)
    expected = ((query - mean) @ inverse * (query - mean)).sum(dim=1, keepdim=True)
    mine = distances(query, mean, *(part.double() for part in stacked([found], D)))
    assert torch.allclose(mine, expected, rtol=1e-4)


def test_fecam_tells_the_class_that_has_one_image(tmp_path):
    with pytest.raises(UserError, match="FeCAM: a covariance needs two images or more; 'red' has 1"):
        run(tmp_path, "fecam", shots=1)


@pytest.mark.parametrize("moment", (1, 2))
@pytest.mark.parametrize("key", HEADS)
def test_a_head_cut_off_between_experiences_goes_on_to_the_same_bytes(tmp_path, key, moment):
    whole, learned = run(tmp_path, key, folder="whole", experiences=3)
    with toy.killed(moment):
        run(tmp_path, key, folder="cut", experiences=3, save_every=0)
    resumed, again = run(tmp_path, key, folder="cut", experiences=3)

    assert resumed.facts() == whole.facts()
    assert learned.keys() == again.keys() and all(torch.equal(learned[name], again[name]) for name in learned)
