"""The frozen linear layers: packed and kept ones give what plain ones do, and a run says which it used and keeps to it."""

from copy import deepcopy

import pytest
import torch
import toy
from generated import TINY, frozen_clip, images
from torch import nn

from lamm_cl.errors import UserError
from lamm_cl.towers import clip as towers
from lamm_cl.towers import linears, selfcheck
from lamm_cl.towers.clip import FrozenCLIP, Prompts
from lamm_cl.training import run as training
from lamm_cl.training.features import Features, Pixels
from lamm_cl.training.run import facts_of_features

WIDE = TINY | {"text_width": 256, "text_heads": 4, "vision_width": 256, "vision_heads": 4, "text_layers": 2, "vision_layers": 2}


def clip_of(activation: str = "QuickGELU", arch: dict = TINY) -> FrozenCLIP:
    return frozen_clip(arch | {"activation": activation})


def passed(clip: FrozenCLIP) -> list[torch.Tensor]:
    """Features of both towers, and the gradients of prompts in each."""
    prompts = torch.full((2, clip.w), 0.1, requires_grad=True)
    image = clip.image(images(1, 3, 16), Prompts(first=prompts))
    start = clip.embed(clip.tokenize(["a photo of a"]))[:, :3]
    suffix = torch.randn(4, 5, clip.d, generator=torch.Generator().manual_seed(2)).requires_grad_()
    text = clip.text(clip.prefix(start), suffix, torch.tensor([7, 5, 6, 7]))
    (image[:, 0].sum() + text[:, 0].sum()).backward()
    return [image.detach(), text.detach(), prompts.grad, suffix.grad]


@pytest.mark.parametrize("activation", ["QuickGELU", "GELU"])
@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-5), ("bf16", 5e-2)])
def test_packed_layers_give_the_features_and_gradients_of_plain_ones(activation, precision, tolerance):
    clip = clip_of(activation)
    expected = passed(clip.compute(precision))
    found = passed(clip.compute(precision, "packed"))

    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - theirs).abs().max() <= tolerance * theirs.abs().max()
    assert all(type(block.linears) is linears.Packed for block in clip.blocks)
    assert all(torch.equal(one, again) for one, again in zip(found, passed(clip), strict=True))


def test_weights_kept_in_half_precision_give_the_bits_of_those_that_autocast_casts():
    clip = clip_of().compute("bf16")
    kept = passed(clip)
    for block in clip.blocks:
        assert type(block.linears) is linears.Kept
        block.linears = linears.Plain(block)

    assert all(torch.equal(mine, theirs) for mine, theirs in zip(kept, passed(clip), strict=True))


@pytest.mark.parametrize("precision, how", [("fp32", "packed"), ("bf16", "packed"), ("bf16", "plain")])
def test_a_copy_that_learns_computes_with_the_weights_that_it_learns(precision, how):
    mine = clip_of().compute(precision, how).unfrozen()
    for block in mine.blocks:
        assert type(block.linears) is linears.Plain and block.linears.block is block
    before = passed(mine)
    with torch.no_grad():
        for block in mine.blocks:
            block.mlp.c_proj.weight.mul_(1.5)

    assert (mine.linears, mine.precision) == ("plain", precision)
    assert not torch.equal(before[0], passed(mine)[0])
    assert all(p.grad is not None for name, p in mine.model.visual.transformer.named_parameters() if "ls" not in name)


def test_a_copied_block_has_layers_of_its_own():
    block = deepcopy(nn.ModuleList(clip_of().compute(linears="packed").blocks))[0]

    assert block.linears.block is block


# --- the self-check ------------------------------------------------------------------------------------------------------


def test_the_self_check_measures_layers_that_agree():
    found = selfcheck.measured(clip_of(arch=WIDE))

    assert found.gain > 0 and found.apart < 1e-5


def test_narrow_towers_stay_plain_unless_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(selfcheck, "measured", lambda clip: pytest.fail("nothing was to be measured"))

    assert selfcheck.settled(clip_of(), "auto", tmp_path) == "plain"
    assert selfcheck.settled(clip_of(), "packed", tmp_path) == "packed"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("gain", "apart", "word"), [(1.2, 1e-6, "packed"), (1.2, 1e-3, "plain"), (1.01, 1e-6, "plain"), (1.2, float("nan"), "plain")]
)
def test_packed_is_what_is_faster_and_the_same(gain, apart, word, tmp_path, monkeypatch):
    monkeypatch.setattr(selfcheck, "measured", lambda clip: selfcheck.Found(gain, apart))

    assert selfcheck.settled(clip_of(arch=WIDE), "auto", tmp_path) == word


def test_where_the_check_cannot_be_done_layers_stay_plain(tmp_path, monkeypatch):
    def measured(clip):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(selfcheck, "measured", measured)

    assert selfcheck.settled(clip_of(arch=WIDE), "auto", tmp_path) == "plain"


def test_the_first_word_of_a_cache_is_everybodys(tmp_path, monkeypatch):
    clip, found = clip_of(arch=WIDE), iter([1.2, 0.9, 0.9])

    def measured(_: FrozenCLIP) -> selfcheck.Found:
        if (gain := next(found)) == 1.2:  # another process is as far as we are, and slower in the end
            assert selfcheck.settled(clip, "auto", tmp_path) == "plain"
        return selfcheck.Found(gain, 0.0)

    monkeypatch.setattr(selfcheck, "measured", measured)

    assert selfcheck.settled(clip, "auto", tmp_path) == "plain" == selfcheck.settled(clip, "auto", tmp_path)
    (kept,) = (tmp_path / "linears").iterdir()
    kept.write_text("{}")
    assert selfcheck.settled(clip, "auto", tmp_path) == "plain"  # measured a third time
    assert '"linears": "plain"' in kept.read_text()


@pytest.mark.parametrize(
    ("wanted", "precision", "said"),
    [("packed", "fp16", "--linears packed: there is none for fp16; expected auto or plain"), ("pack", "fp32", "got 'pack'")],
)
def test_what_cannot_be_packed_is_told_in_one_line(wanted, precision, said, tmp_path):
    with pytest.raises(UserError, match=said):
        selfcheck.settled(clip_of().compute(precision), wanted, tmp_path)


# --- a run ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def packed_toy(monkeypatch):
    """The toy's CLIP, packed wherever that is asked for."""
    clips = {}

    def of(backbone, device, how="plain", cache=None):
        return clips.setdefault(how, frozen_clip(TINY).compute(linears="packed" if how == "auto" else how))

    monkeypatch.setattr(training, "backbone_on", of)
    monkeypatch.setattr(training, "dataset_in", lambda *_: toy.dataset())


def done(folder, how: str, **more):
    return training.do(toy.planned(folder, "coop"), data_root=None, cache=folder / "cache", device="cpu",
                       progress=lambda at: None, linears=how, **more)  # fmt: skip


def test_a_record_says_which_and_an_unfinished_run_goes_on_with_what_it_began(tmp_path, packed_toy):
    for folder, begun, other in (("a", "packed", "plain"), ("b", "plain", "packed")):
        folder = tmp_path / folder
        with toy.killed(1):
            done(folder, begun, save_every=0)
        with pytest.raises(UserError, match=f"linears: the unfinished run has '{begun}', this one '{other}'"):
            done(folder, other)
        assert done(folder, "auto").backbone.linears == begun
    assert done(tmp_path / "c", "auto").backbone.linears == "packed"


def test_features_of_packed_towers_are_other_entries_of_the_bank(tmp_path):
    entries = []
    for clip in (clip_of().compute(), clip_of().compute(linears="packed")):
        one = Features(Pixels(toy.dataset().train, clip), torch.arange(9), facts_of_features(clip), tmp_path)
        entries.append((one.key(0, "unit"), one.batch(torch.arange(9), 0)))
    (plain, expected), (packed, found) = entries

    assert "linears" not in plain and plain["batch"] == 64  # as it always was
    assert (packed["linears"], packed["batch"]) == ("packed", 4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


# --- images at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["plain", "packed"])
@pytest.mark.parametrize(
    "prompts",
    [
        lambda B, w: Prompts(),
        lambda B, w: Prompts(first=torch.randn(2, w), deep=[torch.randn(2, w)]),
        lambda B, w: Prompts(first=torch.randn(B, 2, w), deep={1: torch.randn(B, 2, w)}, read=range(2)),
        lambda B, w: Prompts(keys_values={0: (torch.randn(B, 2, w),) * 2, 2: (torch.randn(1, 2, w),) * 2}),
    ],
)
def test_images_that_nothing_learns_from_go_through_a_few_at_once_and_give_the_same(how, prompts, monkeypatch):
    clip, x = clip_of().compute(linears=how), images(1, 7, 16)
    asked = prompts(7, clip.w)
    with torch.no_grad():
        monkeypatch.setitem(towers.AT_ONCE, how, 7)
        whole = clip.image_all(x, asked)
        monkeypatch.setitem(towers.AT_ONCE, how, 3)
        parts = clip.image_all(x, asked)

    for name in ("unit", "raw", "trunk"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=2e-6, rtol=1e-6)
