"""KgCoOp, ProGrad, PromptSRC, IVLP, VPT, TCP, CLIP-Adapter and TaskRes on a stream; their releases are in test_fidelity.py."""

import pytest
import torch
import toy
from generated import tiny_clip

from lamm_cl.config.cards import load_card, resolve
from lamm_cl.errors import UserError
from lamm_cl.learner.build import build
from lamm_cl.learner.text import FixedTexts, Frame
from lamm_cl.methods.prograd import Projected
from lamm_cl.methods.promptsrc import Consistency
from lamm_cl.towers.clip import FrozenCLIP
from lamm_cl.training.loop import Loop
from lamm_cl.training.stream import benchmark

METHODS = ["kgcoop", "prograd", "promptsrc", "ivlp", "vpt", "tcp", "kgcoop+lamm", "promptsrc+lamm", "clip-adapter", "taskres"]


def longer(method: str, epochs: int = 3, **training) -> dict:
    return {"overrides": {method: toy.OVERRIDES[method] | {"training": toy.SMALL | {"epochs": epochs} | training}}}


def strategy_of(method: str, tmp_path, **changes):
    one = toy.prepared(toy.planned(tmp_path, method, **changes), tmp_path / "cache")
    strategy = Loop(model=one.model, training=one.training, sources=one.sources, seed=7)
    return strategy, benchmark(one.parts).train_stream


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("moment", [2, 3, 5])
def test_a_run_killed_within_and_at_the_end_of_an_experience_continues_to_the_same_bytes(tmp_path, method, moment):
    """Adam's moments and PromptSRC's sum over epochs are in the state."""
    whole, tensors = toy.run(tmp_path, method, folder="whole", **longer(method))
    with toy.killed(moment):
        toy.run(tmp_path, method, folder="cut", save_every=0, **longer(method))
    resumed, again = toy.run(tmp_path, method, folder="cut", **longer(method))

    assert resumed.facts() == whole.facts()
    assert tensors.keys() == again.keys() and all(torch.equal(tensors[name], again[name]) for name in tensors)


def texts_encoded(monkeypatch, tmp_path, method: str, epochs: int, **context) -> int:
    """Passes of class texts through the text tower in one run, those of references not counted."""
    passes = []
    for name in ("text", "text_raw"):
        plain = getattr(FrozenCLIP, name)
        monkeypatch.setattr(FrozenCLIP, name, lambda *a, plain=plain, **k: passes.append(1) or plain(*a, **k))
    changes = longer(method, epochs)
    if context:
        changes["overrides"][method] |= {"context": context}
    toy.run(tmp_path, method, folder=f"{epochs}", **changes)
    monkeypatch.undo()
    return len(passes)


FIXED = [("vpt", {}), ("ivlp", {"depth": 0, "depth_image": 3}), ("clip-adapter", {}), ("taskres", {})]


@pytest.mark.parametrize(("method", "context"), FIXED, ids=[method for method, _ in FIXED])
def test_where_the_text_side_is_frozen_more_steps_run_no_more_text(tmp_path, monkeypatch, method, context):
    few, many = (texts_encoded(monkeypatch, tmp_path, method, epochs, **context) for epochs in (1, 4))

    assert 0 < few == many


@pytest.mark.parametrize(("method", "references"), [("kgcoop", 1), ("promptsrc", 60), ("tcp", 2), ("prograd", 1)])
def test_references_of_all_classes_are_computed_once(tmp_path, monkeypatch, method, references):
    """By the frozen tower, one pass a template, whatever the epochs and experiences."""
    classes = []
    encode = Frame.encode_raw
    monkeypatch.setattr(Frame, "encode_raw", lambda self, *a: classes.append(a[-1]) or encode(self, *a))
    toy.run(tmp_path, method, **longer(method))

    assert classes == [range(7)] * references


def test_tcps_prefix_is_shared_up_to_the_block_of_its_class_prompts(tmp_path, monkeypatch):
    made = []
    prefix = FrozenCLIP.prefix
    monkeypatch.setattr(FrozenCLIP, "prefix", lambda *a, **k: made.append(prefix(*a, **k)) or made[-1])
    model = build(resolve(load_card("tcp"), toy.shallow("tcp")), tiny_clip(), list(toy.CLASSES), [range(0, 4), range(4, 7)])
    model.train()
    model.begin(0)
    model.text_features(model.context.text(None, range(4)), range(4))

    assert [(keys.shape[0], keys.shape[2]) for keys in made[-1].keys] == [(1, 5), (1, 5), (1, 1)]  # start of text, 4 vectors


@pytest.mark.parametrize("epochs", [1, 3])
def test_promptsrc_ends_an_experience_at_the_weighted_mean_of_its_epochs_and_begins_anew(tmp_path, monkeypatch, epochs):
    strategy, experiences = strategy_of("promptsrc", tmp_path, **longer("promptsrc", epochs))
    after, average = [], Consistency.after_epoch

    def watched(self, model, epoch, number):
        after.append([p.detach().clone() for p in model.parameters()])
        average(self, model, epoch, number)

    monkeypatch.setattr(Consistency, "after_epoch", watched)
    loss = strategy.model.extra_loss
    loss.mean, loss.std = 2.0, 1.0
    for experience in experiences:
        after.clear()
        strategy.train(experience)
        shares = loss.shares(epochs)
        assert shares.sum() == pytest.approx(1) and len(after) == epochs and loss.total.numel() == 0
        for i, p in enumerate(strategy.model.parameters()):
            mean = sum(share * each[i].double() for share, each in zip(shares, after, strict=True))
            torch.testing.assert_close(p.detach().double(), mean, atol=1e-6, rtol=0)


def test_a_mean_far_behind_the_last_epoch_still_gives_weights(tmp_path):
    loss = Consistency(tiny_clip(), names=["a"], text=1.0, image=1.0, logits=1.0, templates=1, mean=1000.0, std=1.0)

    assert loss.shares(3).tolist() == pytest.approx([0, 0, 1])


def test_promptsrcs_frozen_features_are_of_the_same_augmented_view(tmp_path):
    strategy, _ = strategy_of("promptsrc", tmp_path, **longer("promptsrc", augmentation="random_resized_crop+flip"))
    (x,) = strategy.sources.train.batches([strategy.sources.parts.train[0][:5]], 2)

    torch.testing.assert_close(x.frozen, tiny_clip().image(x.pixels), atol=1e-6, rtol=0)


def projecting(strength: float) -> Projected:
    return Projected(tiny_clip(), names=["a"], template="a {}.", dataset="", strength=strength, temperature=1.0)


def test_a_gradient_that_agrees_with_zero_shot_clip_stays_and_one_that_does_not_is_projected():
    g_kl = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    with_it, against = torch.tensor([[1.0, 5.0], [0.0, 0.0]]), torch.tensor([[-5.0, 2.0], [0.0, -5.0]])
    whole, half = projecting(1.0), projecting(0.5)

    assert torch.equal(whole.projected(with_it, g_kl), with_it)
    # (g . u) = -(5 * 3 + 5 * 4) / 5 = -7; u = ((0.6, 0), (0, 0.8))
    assert torch.allclose(whole.projected(against, g_kl), torch.tensor([[-0.8, 2.0], [0.0, 0.6]]))
    assert torch.allclose(half.projected(against, g_kl), torch.tensor([[-2.9, 2.0], [0.0, -2.2]]))


def test_a_zero_gradient_of_the_teacher_projects_nothing():
    g = torch.tensor([-1.0, 2.0])

    assert torch.equal(projecting(1.0).projected(g, torch.zeros(2)), g)


def test_taskres_keeps_the_residuals_of_old_classes_to_the_bit_and_adds_nothing_at_first(tmp_path):
    strategy, (first, second) = strategy_of("taskres", tmp_path, **longer("taskres", weight_decay=0.4))
    x = strategy.model.head.x
    assert not x(range(7)).any()
    strategy.train(first)
    old = x(range(4)).detach().clone()
    strategy.train(second)

    assert old.any() and x(range(4, 7)).any() and torch.equal(x(range(4)), old)


def test_a_combination_of_templates_is_averaged_before_it_is_normalised():
    """Lengths differ, so it is another direction than the mean of unit features."""
    templates = ("a {}.", "a photo of the large {}.")
    found = FixedTexts(tiny_clip(), ["red", "grey cat"], templates)
    raw = [FixedTexts(tiny_clip(), ["red", "grey cat"], [template]).raw for template in templates]

    assert torch.allclose(found.raw, (raw[0] + raw[1]) / 2, atol=1e-7)
    assert torch.allclose(found.unit(range(1, 2)), torch.nn.functional.normalize(found.raw[1:], dim=-1))


@pytest.mark.parametrize(
    ("key", "context", "told"),
    [
        ("tcp", {}, "context: block: 8, but the text tower's last is 2"),
        ("tcp", {"block": 2, "n": 5, "texts": {"toy": "a photo of a {}."}}, "context: n: 5 vectors, but 4 tokens stand in front"),
        ("prograd", {"n": 3}, "context: n: 3 vectors, but 4 words stand in front of the name in 'a photo of a {}.'"),
        ("ivlp", {"depth": 3, "depth_image": 4}, "context: depth_image: 4, but the image tower has 3 blocks"),
        ("ivlp", {"depth": 4}, "context: depth: 4, but the towers have 3 blocks"),
        ("ivlp", {"depth": 0, "init": None}, "context: init: expected words"),
        ("vpt", {}, "context: depth: 12, but the image tower has 3 blocks"),
    ],
)
def test_prompts_that_do_not_fit_the_towers_are_told(key, context, told):
    card = resolve(load_card(key), {"context": context})
    with pytest.raises(UserError) as error:
        build(card, tiny_clip(), list(toy.CLASSES), [range(7)], dataset="toy")

    assert str(error.value).startswith(told)
