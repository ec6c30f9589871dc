"""The towers: equal to open_clip's encoders, and the shared prefix equal to the plain tower."""

import pytest
import torch
from generated import TINY, images, open_clip_model, tiny_clip

from lamm_cl.config.cards import load_card
from lamm_cl.config.schema import Card
from lamm_cl.errors import UserError
from lamm_cl.learner.build import build
from lamm_cl.learner.shown import Images
from lamm_cl.towers.clip import Prompts

NAMES = ["cat", "golden retriever", "forget-me-not", "Boeing 737-300", "a"]


def card(context: dict, labels: dict | None = None, loss: dict | None = None) -> Card:
    return Card(
        key="test",
        name="test",
        paper="-",
        context=context,
        labels=labels or {"use": "lamm.Names"},
        loss=loss,
        training=loss and load_card("coop").training,
        trainable="",
        provenance={},
    )


def model_of(context: dict, labels=None, loss=None, names=NAMES, experiences=None, clip=None, **options):
    experiences = experiences or [range(len(names))]
    return build(card(context, labels, loss), clip or tiny_clip(), list(names), experiences, **options)


def test_the_image_tower_without_prompts_is_open_clips_encoder():
    reference, x = open_clip_model(TINY).eval(), images(1, 3, 16)
    torch.testing.assert_close(tiny_clip().image(x), reference.encode_image(x, normalize=True), atol=2e-6, rtol=0)


def test_the_plain_text_tower_is_open_clips_encoder():
    clip, reference = tiny_clip(), open_clip_model(TINY).eval()
    tokens = clip.tokenize([f"a photo of a {name}." for name in NAMES])
    last = clip.tokens(clip.embed(tokens))
    mine = clip.read(last[torch.arange(len(NAMES)), tokens.argmax(dim=-1)])
    torch.testing.assert_close(mine, reference.encode_text(tokens, normalize=True), atol=2e-6, rtol=0)


def test_zero_shot_logits_are_open_clips():
    reference, x = open_clip_model(TINY).eval(), images(2, 4, 16)
    model = model_of({"use": "zeroshot.Template"}).eval()
    tokens = tiny_clip().tokenize([f"a photo of a {name}." for name in NAMES])
    torch.testing.assert_close(model(Images(pixels=x)), reference.get_logits(x, tokens)[0], atol=2e-4, rtol=0)


def plain(model, x=None):
    """Text features by the plain tower: all 77 positions, every class for itself."""
    (frame,) = model.texts.frames
    prompts = model.context.text(x, model.classes)
    if prompts.first is not None and model.context.reads_images:
        rows = [Prompts(first, prompts.deep) for first in prompts.first]
    else:
        rows = [prompts]
    out = [frame.read(frame.last_tokens(p, model.labels(model.classes), model.classes), model.classes) for p in rows]
    return torch.stack(out) if model.context.reads_images else out[0]


CONTEXTS = {
    "fixed words": {"use": "coop.Words"},
    "learned, n = 4": {"use": "coop.CoOp", "n": 4, "init": "a photo of a"},
    "learned, n = 1 of 4 words": {"use": "coop.CoOp", "n": 1, "init": "a photo of a"},
    "n = 5 in the middle": {"use": "coop.CoOp", "n": 5, "init": None, "position": "middle"},
    "n = 3 in front": {"use": "coop.CoOp", "n": 3, "init": None, "position": "front"},
    "class-specific": {"use": "coop.ClassContext", "n": 3, "init": None},
    "one per image": {"use": "cocoop.CoCoOp", "n": 4, "init": "a photo of a", "squeeze": 4},
    "deep prompts": {"use": "maple.MaPLe", "n": 2, "init": "a photo of a", "depth": 3},
    "deep prompts, depth 1": {"use": "maple.MaPLe", "n": 2, "init": "a photo of a", "depth": 1},
}
LABELS = {
    "names": {"use": "lamm.Names"},
    "shortest": {"use": "lamm.Learned", "tokens": "shortest"},
    "all tokens": {"use": "lamm.Learned", "tokens": "all"},
    "the mean token": {"use": "lamm.Learned", "tokens": "mean"},
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("context", CONTEXTS)
def test_the_shared_prefix_gives_the_features_and_gradients_of_the_plain_tower(context, labels):
    model = model_of(CONTEXTS[context], LABELS[labels])
    model.begin(0)
    for p in model.parameters():
        p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(5))
    x = torch.nn.functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(6)), dim=-1)
    weights = torch.randn(16, generator=torch.Generator().manual_seed(7))

    fast = model.texts.features(model.context.text(x, model.classes), model.classes)
    slow = plain(model, x)

    torch.testing.assert_close(fast, slow, atol=2e-6, rtol=0)
    learned = [p for p in model.parameters() if p.requires_grad]
    if learned:
        one = torch.autograd.grad((fast @ weights).sum(), learned, allow_unused=True)
        two = torch.autograd.grad((slow @ weights).sum(), learned, allow_unused=True)
        for a, b in zip(one, two, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert (a - b).abs().max() <= 1e-5 * b.abs().max() + 1e-7


@pytest.mark.parametrize(
    "names", [["cat"], ["cat", "cats and dogs"], ["x " * 69 + "x", "cat"]], ids=["one class", "two", "context limit"]
)
def test_the_shared_prefix_holds_for_one_class_and_at_the_context_limit(names):
    model = model_of({"use": "coop.CoOp", "n": 4, "init": "a photo of a"}, names=names)
    fast = model.texts.features(model.context.text(None, model.classes), model.classes)
    torch.testing.assert_close(fast, plain(model), atol=2e-6, rtol=0)


def test_a_name_longer_than_the_text_tower_is_refused_with_its_token_count():
    with pytest.raises(UserError, match="78 tokens, but the text tower takes 77"):
        model_of({"use": "coop.Words"}, names=["x " * 70 + "x", "cat"])


def test_the_prefix_shared_by_all_classes_ends_where_the_first_label_begins():
    lengths = {name: model_of(context).texts.frames[0].P for name, context in CONTEXTS.items()}
    assert lengths["fixed words"] == lengths["learned, n = 4"] == lengths["deep prompts"] == 1 + 4
    assert lengths["n = 3 in front"] == lengths["class-specific"] == 1
    assert lengths["n = 5 in the middle"] == 1 + 2


def test_the_mean_token_stands_for_the_whole_name():
    model = model_of({"use": "coop.Words"}, {"use": "lamm.Learned", "tokens": "mean"})
    (frame,) = model.texts.frames
    clip = tiny_clip()
    whole = frame.whole(None, model.labels(model.classes), model.classes)
    for c, name in enumerate(NAMES):
        ids = clip.words(name)
        phrase = clip.tokenize(["a photo of a"])[0, :5].tolist()
        vectors = [clip.embed(torch.tensor([i])) for i in phrase] + [clip.embed(torch.tensor(ids)).mean(0, keepdim=True)]
        vectors += [clip.embed(torch.tensor([i])) for i in clip.tokenize(["."])[0, 1:3].tolist()]
        expected = torch.cat(vectors)
        torch.testing.assert_close(whole[c, : len(expected)], expected)
        assert frame.eot[c] == len(expected) - 1


def test_deep_prompts_reach_the_block_they_are_meant_for():
    """A deep prompt of the last block must not move the features if the class token of that block ignores the replaced rows."""
    clip = tiny_clip()
    x = images(3, 2, 16)
    first = torch.zeros(2, clip.w)
    deep = [torch.ones(2, clip.w), 2 * torch.ones(2, clip.w)]
    blocks = clip.model.visual.transformer.resblocks
    seen = {}
    for i, block in enumerate(blocks):
        block.ln_1.register_forward_pre_hook(lambda module, inputs, i=i: seen.__setitem__(i, inputs[0][:, -2:].clone()))
    clip.image(x, Prompts(first, deep))
    for block in blocks:
        block.ln_1._forward_pre_hooks.clear()
    assert torch.equal(seen[1][0], deep[0]) and torch.equal(seen[2][0], deep[1])
    assert not torch.equal(seen[0][0], deep[0])


def test_commas_score_can_count_the_text_alone_or_all_77_positions():
    context = {"use": "comma.COMMA", "n": 2, "init": "a photo of a", "depth": 3}
    x, targets = images(4, 2, 16), torch.tensor([0, 3])
    found, tokens = {}, {}
    for positions in ("all", "text"):
        loss = {"use": "comma.Score", "weight": 1.0, "positions": positions}
        one = model_of(context, loss=loss, template="a photo of a {}, a pet.")
        one.train()
        out = one.output(Images(pixels=x), one.classes)
        found[positions], tokens[positions] = one.extra_loss(one, out, targets)["score"], out.tokens
    distance = 1 - torch.nn.functional.cosine_similarity(tokens["all"], one.extra_loss.kept[one.classes], dim=-1)
    frozen_eot = tiny_clip().tokenize([f"a photo of a {name}, a pet." for name in NAMES]).argmax(dim=-1).tolist()
    ends = [min(ends) for ends in zip(one.texts.frames[0].eot, frozen_eot, strict=True)]
    rows = torch.cat([row[: end + 1] for row, end in zip(distance, ends, strict=True)])
    assert tokens["text"].shape[1] == 1 + max(one.texts.frames[0].eot) < tokens["all"].shape[1] == 77
    torch.testing.assert_close(found["all"], distance.mean())
    torch.testing.assert_close(found["text"], rows.mean())
    assert abs(found["all"] - found["text"]) > 1e-3
