"""The feature bank, and the options that save memory: what they keep and what they change."""

import os
import time
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy
from generated import TINY, frozen_clip, images, tiny_clip
from test_towers import CONTEXTS, model_of, plain

from lamm_cl.learner import model as learner
from lamm_cl.learner.shown import Images
from lamm_cl.towers import clip, transformer
from lamm_cl.training import bank
from lamm_cl.training.features import Features, Pixels


@pytest.fixture
def filled(tmp_path):
    arrays = {i: np.arange(10.0) * i for i in range(3)}
    for i, array in arrays.items():
        bank.get(tmp_path, {"i": i}, lambda array=array: array)
    return tmp_path, arrays


def refuse():
    raise AssertionError("the entry is there already")


def test_an_entry_is_made_once_and_read_as_it_was(filled):
    folder, arrays = filled
    for i, array in arrays.items():
        assert np.array_equal(bank.get(folder, {"i": i}, refuse), array)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""])
def test_verify_finds_a_damaged_entry_and_prune_removes_it(filled, damage):
    folder, arrays = filled
    broken = sorted(folder.glob("*/*.npy"))[1]
    broken.write_bytes(damage(broken.read_bytes()))
    assert [entry.path for entry in bank.entries(folder) if not entry.whole] == [broken]
    assert [entry.path for entry in bank.prune(folder, older_than=1)] == [broken]
    assert len(list(folder.glob("*/*"))) == 4
    for i, array in arrays.items():
        assert np.array_equal(bank.get(folder, {"i": i}, lambda array=array: array), array)


def test_prune_removes_what_is_old(filled):
    folder, _ = filled
    old = sorted(folder.glob("*/*.npy"))[0]
    os.utime(old, (time.time() - 40 * 86400,) * 2)
    assert [entry.path for entry in bank.prune(folder, older_than=30)] == [old]


def test_what_a_killed_writer_left_is_counted_and_pruned_once_nobody_can_be_writing_it(filled):
    folder, _ = filled
    beside = sorted(folder.glob("*/*.npy"))[0]
    young, old = (beside.with_name(f".{beside.name}.{name}") for name in ("young", "old"))
    for path in (young, old):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 3600,) * 2)
    beside.with_name(".gone").symlink_to("nowhere")  # as one whose writer has just finished: listed, and not there any more
    assert [(entry.path, entry.bytes) for entry in bank.leftovers(folder)] == [(old, 4)]
    assert [entry.path for entry in bank.prune(folder, older_than=30)] == [old]
    assert young.exists() and len(list(bank.entries(folder))) == 3


def test_features_stored_as_fp16_differ_by_their_rounding_and_have_an_entry_of_their_own(tmp_path):
    frozen = frozen_clip(TINY)
    ids = torch.arange(20)
    full = Features(Pixels(toy.dataset().train, frozen), ids, {"stored": "fp32"}, tmp_path).batch(ids, 0)
    frozen.stored = "fp16"
    half = Features(Pixels(toy.dataset().train, frozen), ids, {"stored": "fp16"}, tmp_path).batch(ids, 0)
    assert half.dtype == full.dtype == torch.float32
    assert 0 < (half - full).abs().max() <= 2**-12
    sizes = sorted(entry.bytes for entry in bank.entries(tmp_path))
    assert len(sizes) == 2 and sizes[0] < sizes[1]


def test_checkpointed_activations_give_the_same_bits(tmp_path):
    frozen = frozen_clip(TINY)
    learned = {}
    for frozen.checkpoint in (False, True):
        one = model_of({"use": "maple.MaPLe", "n": 2, "init": "a photo of a", "depth": 3}, clip=frozen)
        _, terms = one.loss(Images(pixels=images(1, 3, 16)), torch.tensor([0, 3, 2]))
        terms["cross_entropy"].backward()
        learned[frozen.checkpoint] = [p.grad for p in one.parameters() if p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(*learned.values(), strict=True))


@pytest.mark.parametrize("free, again", [(0, 3), (2**40, 0)])
def test_texts_of_all_positions_keep_no_activations_that_would_not_fit_and_give_the_same_bits(free, again, monkeypatch):
    """COMMA's score keeps all 77 positions of every class; towers of 3 blocks."""
    loss, context = {"use": "comma.Score", "weight": 1.0}, {"use": "comma.COMMA", "n": 2, "init": "a photo of a", "depth": 3}
    learned = []
    for bytes_free in (2**40, free):
        recomputed = Mock(wraps=transformer.recomputed)
        with monkeypatch.context() as patch:
            patch.setattr(transformer, "recomputed", recomputed)
            patch.setattr(clip, "free_memory", Mock(return_value=bytes_free))
            one = model_of(context, loss=loss)
            one.train()
            _, terms = one.loss(Images(pixels=images(1, 3, 16)), torch.tensor([0, 3, 2]))
            sum(terms.values()).backward()
        learned.append([p.grad for p in one.parameters() if p.requires_grad])

    assert recomputed.call_count == again
    assert all(torch.equal(a, b) for a, b in zip(*learned, strict=True))


def test_cocoop_is_evaluated_in_chunks_that_bound_memory(monkeypatch):
    one = model_of(CONTEXTS["one per image"])
    x = Images(frozen=F.normalize(torch.randn(7, 16, generator=torch.Generator().manual_seed(1)), dim=-1))
    with torch.no_grad():
        whole = one.eval()(x)
        asked = []
        output = one.output
        monkeypatch.setattr(one, "output", lambda part, classes: asked.append(len(part)) or output(part, classes))
        monkeypatch.setattr(learner, "PROMPTS", 3 * len(one.classes))
        torch.testing.assert_close(one(x), whole, atol=1e-4, rtol=0)
    assert asked == [3, 3, 1]


@pytest.mark.parametrize("precision, tolerance", [("fp32", 2e-6), ("bf16", 3e-2)])
@pytest.mark.parametrize("context", CONTEXTS)
def test_the_shared_prefix_agrees_with_the_plain_tower_in_every_precision(context, precision, tolerance):
    frozen = frozen_clip(TINY)
    frozen.compute(precision)
    one = model_of(CONTEXTS[context], clip=frozen)
    x = torch.nn.functional.normalize(torch.randn(2, 16, generator=torch.Generator().manual_seed(2)), dim=-1)
    with torch.no_grad():
        fast = one.texts.features(one.context.text(x, one.classes), one.classes)
        assert (fast - plain(one, x)).abs().max() <= tolerance
    assert fast.dtype == torch.float32


def test_the_image_tower_computes_the_class_token_of_the_last_block_alone():
    """Equal to running every position to the end, with deep prompts in the last block too."""
    from lamm_cl.towers import transformer

    blocks = tiny_clip().model.visual.transformer.resblocks
    x = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(3))
    for depth in range(3):
        deep = [torch.full((2, 24), 0.1 * (i + 1)) for i in range(depth)]
        every = transformer.run(blocks, x, deep, 5, causal=False)[:, 0]
        torch.testing.assert_close(transformer.run_to_first(blocks, x, deep, 5), every, atol=2e-6, rtol=0)
