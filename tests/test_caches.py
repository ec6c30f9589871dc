"""Heads beside the cosine with the text: Gaussians and caches.  What they are on a stream, and what they choose on."""

import pytest
import torch
import toy

from lamm_cl.learner.shown import Images
from lamm_cl.training.features import Pixels

GAUSSIANS = ("gda", "gda-released", "gda-base2new")
TRAINED = ("tip-adapter-f", "tip-adapter-f-released")
HEADS = (*GAUSSIANS, "tip-adapter", "tip-adapter-released", *TRAINED)
SMALL = {key: {"views": 3} for key in HEADS} | {"gda-base2new": {"views": 3, "nearest": 8}}
STRONG = {"views": 3, "beta": 50.0, "alpha": 200.0}  # the texts of a random tower say nothing
SMALL |= {key: STRONG | {"tops": [100.0, 400.0], "steps": [7, 5]} for key in HEADS if key.startswith("tip")}
SMALL["tip-adapter-f"] = STRONG


def overrides(key: str, head: dict | None = None) -> dict:
    training = {"training": {"epochs": 3, "batch": 8, "augmentation": "none"}} if key in TRAINED else {}
    return {key: {"head": SMALL[key] | (head or {})} | training}


def run(tmp_path, key: str, head: dict | None = None, **changes):
    return toy.run(tmp_path, key, overrides=overrides(key, head), **changes)


def prepared(tmp_path, key: str, head: dict | None = None, **changes):
    return toy.prepared(toy.planned(tmp_path / "run", key, overrides=overrides(key, head), **changes), tmp_path)


def learned(one, i: int = 0):
    """The model of a prepared run that needs no training, after experience i."""
    for each in range(i + 1):
        one.model.begin(each)
        one.model.observe(each, one.sources.observed(each))
        one.model.finish(each)
    return one.model.eval()


def test_experiences(one, i: int) -> tuple[Images, torch.Tensor]:
    ids = one.parts.test[i]
    return next(one.sources.test.batches([ids], 0)), one.parts.test_targets[ids]


test_experiences.__test__ = False


MOMENTS = [(key, moment) for key in HEADS for moment in ((2, 3, 4, 6) if key in TRAINED else (1, 2))]  # epochs and experiences


@pytest.mark.parametrize(("key", "moment"), MOMENTS)
def test_cut_off_in_the_middle_it_goes_on_to_the_same_bytes(tmp_path, key, moment):
    whole, tensors = run(tmp_path, key, folder="whole", experiences=3)
    with toy.killed(moment):
        run(tmp_path, key, folder="cut", experiences=3, save_every=0)
    resumed, again = run(tmp_path, key, folder="cut", experiences=3)

    assert resumed.facts() == whole.facts()
    assert tensors.keys() == again.keys() and all(torch.equal(tensors[name], again[name]) for name in tensors)


@pytest.mark.parametrize("key", HEADS)
def test_it_learns_colours_and_says_what_it_keeps(tmp_path, key):
    """Blobs of noise about a colour: chance is 1/7."""
    record, tensors = run(tmp_path, key, experiences=3)

    last = [count for count in record.counts if count.trained == 3 and count.label_space == "joint"]
    assert sum(count.correct for count in last) > 0.5 * sum(count.total for count in last)
    assert record.model.kept_bytes >= sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > 0


def test_gda_of_a_stream_is_gda_of_all_classes_at_once(tmp_path):
    """To 1e-5 of the largest entry of W and b, at a given alpha; the counts are the same."""
    fixed = {"alphas": [10.0]}
    one = run(tmp_path, "gda", fixed, folder="one", experiences=1, shots="full")

    for T in (2, 7):
        many = run(tmp_path, "gda", fixed, folder=f"in {T}", experiences=T, shots="full")
        for name, joint in one[1].items():
            assert (many[1][name] - joint).abs().max() <= 1e-5 * joint.abs().max(), name
        right = [sum(c.correct for c in r.counts if c.trained == n and c.label_space == "joint")
                 for r, n in ((one[0], 1), (many[0], T))]  # fmt: skip
        assert right[0] == right[1]


def test_gda_scores_a_class_that_is_not_learned_by_its_text(tmp_path):
    one = prepared(tmp_path, "gda", experiences=2)
    model = learned(one)
    x, _ = test_experiences(one, 1)

    with torch.no_grad():
        unseen, all_classes = model.output(x, model.experiences[1]).logits, model.output(x, model.classes).logits

        assert torch.equal(unseen, model.zero_shot(x, model.experiences[1]))
        assert torch.allclose(all_classes[:, model.experiences[1].start :], unseen, atol=1e-4)
        assert not torch.allclose(all_classes, model.zero_shot(x, model.classes))


def test_gda_chooses_on_images_that_its_gaussians_were_not_fitted_on_and_then_takes_them_too(tmp_path):
    one = prepared(tmp_path, "gda", experiences=2)
    head, shown = learned(one).head, one.sources.observed(0)

    assert head.fitted.n.tolist() == [9.0] * 4 and head.seen.n.tolist() == [12.0] * 4  # 3 and 4 images in 3 views
    kept = {tuple(row) for row in torch.cat(head.x).tolist()}
    assert len(kept) == 4 and kept < {tuple(row) for row in shown.unit.tolist()}
    assert head.alpha.item() == head.alphas[head.accuracies.index(max(head.accuracies))]


def test_gda_released_chooses_on_the_validation_images_of_classes_seen(tmp_path):
    one = prepared(tmp_path, "gda-released", experiences=2)
    head, val = learned(one).head, one.sources.observed(0).val

    assert torch.equal(torch.cat(head.x), val.unit) and torch.equal(torch.cat(head.y), val.y)
    assert head.fitted.n.tolist() == [12.0] * 4


def test_validation_images_that_training_leaves_over_are_the_ones_that_are_looked_at(tmp_path):
    one = prepared(tmp_path, "gda-released", experiences=2)
    val = one.sources.observed(1).val

    images = Pixels(toy.dataset().train, one.model.clip)
    with torch.no_grad():
        x = one.model.clip.image_all(next(images.batches([val.ids], 0))).unit
    assert not set(val.ids.tolist()) & set(torch.cat(one.sources.parts.train).tolist())
    assert torch.allclose(val.unit, x, atol=1e-5)


def test_gda_with_one_image_a_class_has_nothing_to_choose_on(tmp_path):
    head = learned(prepared(tmp_path, "gda", shots=1, experiences=2)).head

    assert head.alpha.item() == head.otherwise and not head.accuracies


def test_base_to_new_has_gaussians_for_unseen_classes_of_what_is_near_their_texts(tmp_path):
    one = prepared(tmp_path, "gda-base2new", experiences=3)
    model = learned(one)
    head, x = model.head, test_experiences(one, 2)[0]

    assert head.new_W.shape == (len(model.classes) - len(model.experiences[0]), head.W.shape[1])
    with torch.no_grad():
        mine = model.output(x, model.experiences[2])
        far = head.new_W[-len(model.experiences[2]) :], head.new_b[-len(model.experiences[2]) :]
        assert torch.allclose(mine.logits - model.zero_shot(x, mine.classes),
                              head.alpha.float() * (mine.image @ far[0].T + far[1]), atol=1e-3)  # fmt: skip


def test_views_of_what_nothing_augments_are_no_further_images():
    from types import SimpleNamespace

    from lamm_cl.learner.closed import views

    frozen = SimpleNamespace(unit=torch.eye(3), view=lambda k, scale: frozen)

    assert len(views(frozen, 10, (0.5, 1.0), "unit")) == 1


@pytest.mark.parametrize("key", HEADS)
def test_before_anything_is_learned_it_is_zero_shot(tmp_path, key):
    one = prepared(tmp_path, key, experiences=2)
    model, (x, _) = one.model.eval(), test_experiences(one, 0)

    with torch.no_grad():
        assert torch.equal(model(x), model.zero_shot(x, model.classes))


def test_the_cache_of_a_stream_is_the_cache_of_all_classes_at_once(tmp_path):
    """The same keys, in the order of the classes; exactly, but for the order of sums in the counts at a given beta and alpha."""
    fixed = {"steps": [1, 1]}
    one = run(tmp_path, "tip-adapter", fixed, folder="one", experiences=1, shots="full")

    for T in (2, 7):
        many = run(tmp_path, "tip-adapter", fixed, folder=f"in {T}", experiences=T, shots="full")
        order = [tensors["head.values"].argsort(stable=True) for tensors in (one[1], many[1])]
        for name in ("head.values", "head.k"):
            assert torch.equal(one[1][name][order[0]], many[1][name][order[1]])
        right = [sum(c.correct for c in r.counts if c.trained == n and c.label_space == "joint")
                 for r, n in ((one[0], 1), (many[0], T))]  # fmt: skip
        assert right[0] == right[1]


def test_the_cache_is_searched_without_the_keys_of_the_images_it_is_searched_on(tmp_path):
    """The counts of the grid are those of caches made without them, one by one; the first of the best is taken."""
    one = prepared(tmp_path, "tip-adapter", experiences=2)
    model = learned(one, 1)
    head, (x, y) = model.head, model.head.shown
    free = ~torch.cat(head.held)
    zero_shot = model.zero_shot(Images(frozen=x), model.classes)

    assert len(y) == 7 and free.sum() == 21
    for i, beta in enumerate(head.betas):
        near = (beta * (x @ head.k[free].T) - beta).exp() @ torch.nn.functional.one_hot(head.values[free], 7).float()
        for j, alpha in enumerate(head.alphas):
            right = ((zero_shot + alpha * near).argmax(dim=1) == y).float().mean()
            assert head.accuracies[i, j].item() == pytest.approx(100 * right.item())
    i, j = divmod(int(head.accuracies.flatten().numpy().argmax()), len(head.alphas))
    assert (head.beta.item(), head.alpha.item()) == (head.betas[i], head.alphas[j])


def test_the_keys_of_earlier_experiences_stay_as_they_were_learned(tmp_path):
    _, first = run(tmp_path, "tip-adapter-f", folder="one", experiences=[4, 3], label_spaces=["joint"])
    one = prepared(tmp_path, "tip-adapter-f", experiences=2)
    start = learned(one, 1).head

    assert not start.k[0].requires_grad and start.k[1].requires_grad
    assert first["head.k.0"].shape == start.k[0].shape
    moved = [(first[f"head.k.{i}"] - start.k[i]).abs().max().item() for i in (0, 1)]
    assert min(moved) > 1e-4


def test_the_released_epoch_is_the_best_on_validation_images_and_no_later_one_as_good(tmp_path):
    one = prepared(tmp_path, "tip-adapter-f-released", experiences=2)
    model, head = one.model, one.model.head
    model.begin(0)
    model.observe(0, one.sources.observed(0))
    keys = [head.k[0].detach().clone() * factor for factor in (0.0, 1.0, 1.0)]
    wrong = head.right

    with torch.no_grad():
        for epoch, values in enumerate(keys):
            head.k[0].copy_(values)
            head.right = lambda *_, epoch=epoch: (3, 5, 5)[epoch]
            model.after_epoch(epoch, 3)
        head.k[0].zero_()
        head.right = wrong
        model.finish(0)

    assert head.best_epoch.item() == 1 and torch.equal(head.k[0], keys[1])
    assert torch.equal(torch.cat(head.x), one.sources.observed(0).val.unit)
