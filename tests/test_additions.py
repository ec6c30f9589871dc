"""What enters the towers on the way: each against all positions of all sequences, block after block, by softmax written out."""

import copy
import math
from functools import lru_cache

import pytest
import torch
import torch.nn.functional as F
from generated import TINY, frozen_clip, images, tiny_clip
from torch import nn

from lamm_cl.errors import UserError
from lamm_cl.towers.additions import Additions, Where
from lamm_cl.towers.clip import NOTHING, FrozenCLIP, Prompts

OTHER = TINY | {"text_layers": 5, "text_width": 48, "text_heads": 3, "vision_layers": 2, "vision_width": 36, "vision_heads": 3}
NAMES = ["cat", "golden retriever", "forget-me-not", "a"]
WORDS = 5  # start of text, "a photo of a": what the prompts of all names share


@lru_cache
def other_clip() -> FrozenCLIP:
    return frozen_clip(OTHER)


TOWERS = {"tiny": tiny_clip, "other": other_clip}


@pytest.fixture(params=TOWERS)
def clip(request):
    return TOWERS[request.param]()


@pytest.fixture
def checkpointed(clip):
    clip.checkpoint = True
    yield clip
    clip.checkpoint = False


def normal(*shape: int, seed: int = 0, std: float = 0.5) -> torch.Tensor:
    return (std * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).requires_grad_()


# --- additions as the papers have them ---------------------------


class LowRank(nn.Module, Additions):
    """LoRA on q, k, v of all blocks, and on the output projections where `o`."""

    def __init__(self, clip: FrozenCLIP, o: bool = False):
        super().__init__()
        self.A, self.B, self.A_o, self.B_o = (nn.ParameterDict() for _ in range(4))
        for tower in ("image", "text"):
            blocks, d = clip.shape(tower)
            for i in range(blocks):
                at = f"{tower}{i}"
                self.A[at], self.B[at] = normal(d, 2, seed=i, std=0.15), normal(2, 3 * d, seed=10 + i, std=0.15)
                if o:
                    self.A_o[at], self.B_o[at] = normal(d, 2, seed=20 + i, std=0.15), normal(2, d, seed=30 + i, std=0.15)

    def qkv(self, where, h):
        return h @ self.A[f"{where.tower}{where.block}"] @ self.B[f"{where.tower}{where.block}"]

    def out(self, where, a):
        at = f"{where.tower}{where.block}"
        return a @ self.A_o[at] @ self.B_o[at] if at in self.A_o else None


class Experts(nn.Module, Additions):
    """Two experts beside the MLP of the blocks from 1 on; position 0 decides how they are mixed."""

    def __init__(self, clip: FrozenCLIP):
        super().__init__()
        self.gate, self.down, self.up = (nn.ParameterDict() for _ in range(3))
        for tower in ("image", "text"):
            blocks, d = clip.shape(tower)
            for i in range(1, blocks):
                at = f"{tower}{i}"
                self.gate[at] = normal(d, 2, seed=i, std=0.15)
                self.down[at], self.up[at] = normal(2, d, 3, seed=10 + i, std=0.15), normal(2, 3, d, seed=20 + i, std=0.15)

    def beside(self, where, x, first):
        if where.block == 0:
            return None
        at = f"{where.tower}{where.block}"
        gates = torch.softmax(first @ self.gate[at], dim=-1)  # (N, 2)
        found = torch.einsum("eNLm,emd->eNLd", torch.relu(torch.einsum("NLd,edm->eNLm", x, self.down[at])), self.up[at])
        return torch.einsum("Ne,eNLd->NLd", gates, found)


class Everything(LowRank, Experts):
    def __init__(self, clip: FrozenCLIP):
        nn.Module.__init__(self)
        self.parts = nn.ModuleList([LowRank(clip, o=True), Experts(clip)])

    def qkv(self, where, h):
        return self.parts[0].qkv(where, h)

    def out(self, where, a):
        return self.parts[0].out(where, a)

    def beside(self, where, x, first):
        return self.parts[1].beside(where, x, first)


MADE = {
    "nothing": lambda clip: None,
    "low rank": LowRank,
    "low rank, o too": lambda clip: LowRank(clip, o=True),
    "experts": Experts,
    "everything": Everything,
}


def parameters(tower: nn.Module | None, name: str) -> list[nn.Parameter]:
    return [] if tower is None else [p for key, p in tower.named_parameters() if name in key]


# --- the plain tower ---------------------------


def plain(blocks, x, name, deep=(), start=1, keys_values=(), tower=None, causal=False):
    """x (N, L, d) through all blocks, every position of every sequence, nothing shared: (N, L, d)."""
    by_block = deep if isinstance(deep, dict) else {i + 1: fresh for i, fresh in enumerate(deep)}
    for i, block in enumerate(blocks):
        if i in by_block:
            m = by_block[i].shape[-2]
            x = torch.cat([x[:, :start], by_block[i] + torch.zeros_like(x[:, :m]), x[:, start + m :]], dim=1)
        where, h, add = Where(name, i), block.ln_1(x), tower or Additions()
        qkv = h @ block.attn.in_proj_weight.T + block.attn.in_proj_bias + none_is_zero(add.qkv(where, h))
        q, k, v = qkv.chunk(3, dim=-1)
        if i in keys_values:
            k, v = (torch.cat([f.expand(len(x), -1, -1), y], dim=1) for f, y in zip(keys_values[i], (k, v), strict=True))
        found = []
        for q_h, k_h, v_h in zip(*(y.chunk(block.attn.num_heads, dim=-1) for y in (q, k, v)), strict=True):
            scores = q_h @ k_h.mT / math.sqrt(q_h.shape[-1])
            if causal:
                front = k.shape[1] - x.shape[1]
                later = torch.arange(k.shape[1]) - front > torch.arange(x.shape[1])[:, None]
                scores = scores.masked_fill(later, -torch.inf)
            found.append(torch.softmax(scores, dim=-1) @ v_h)
        a = torch.cat(found, dim=-1)
        x = x + block.attn.out_proj(a) + none_is_zero(add.out(where, a))
        x = x + block.mlp(block.ln_2(x)) + none_is_zero(add.beside(where, x, x[:, 0]))
    return x


def none_is_zero(x):
    return 0 if x is None else x


def plain_image(clip, x, prompts=NOTHING, tower=None):
    """-> the class token's or the prompts' (B, w), normed, and its projection (B, D)."""
    v = clip.model.visual
    x = v.conv1(x).flatten(2).transpose(1, 2)
    x = torch.cat([v.class_embedding.expand(len(x), 1, -1), x], dim=1) + v.positional_embedding
    start = x.shape[1] if prompts.at is None else prompts.at
    if prompts.first is not None:
        x = torch.cat([x[:, :start], prompts.first.expand(len(x), -1, -1), x[:, start:]], dim=1)
    x = plain(v.transformer.resblocks, v.ln_pre(x), "image", prompts.deep, start, prompts.keys_values, tower)
    x = v.ln_post(x)
    x = x[:, 0] if prompts.read is None else x[:, [start + i for i in prompts.read]].mean(dim=1)
    return x, x @ v.proj


def plain_text(clip, prompts, eot, deep=(), keys_values=(), tower=None):
    """All positions (N, 77, d) -> the last block's output (N, 77, d), and raw features (N, D)."""
    model = clip.model
    x = prompts + model.positional_embedding
    x = plain(model.transformer.resblocks, x, "text", deep, 1, keys_values, tower, causal=True)
    return x, model.ln_final(x)[torch.arange(len(x)), eot] @ model.text_projection


def same(mine: torch.Tensor, reference: torch.Tensor, learned: list[torch.Tensor]) -> None:
    """Outputs and gradients agree to 1e-5 of the largest value, and of a tenth of the largest gradient of all."""
    assert (mine - reference).abs().max() <= 1e-5 * max(1, reference.abs().max())
    if not learned:
        return
    weights, gradients = normal(*reference.shape, seed=99).detach(), []
    for x in (mine, reference):
        found = torch.autograd.grad((x * weights).sum(), learned, retain_graph=True, allow_unused=True)
        gradients.append([torch.zeros_like(p) if g is None else g for p, g in zip(learned, found, strict=True)])
    largest = max(g.abs().max() for g in gradients[1])
    assert largest > 1e-4
    for a, b in zip(*gradients, strict=True):
        assert (a - b).abs().max() <= 1e-5 * max(b.abs().max(), largest / 10)


# --- the reference is open_clip's ---------------------------


def test_the_reference_of_this_file_is_open_clips_encoder(clip):
    x, tokens = images(1, 3, 16), clip.tokenize(NAMES)
    same(plain_image(clip, x)[1], clip.model.encode_image(x), [])
    same(plain_text(clip, clip.embed(tokens), tokens.argmax(dim=-1))[1], clip.model.encode_text(tokens), [])


def test_low_rank_additions_are_open_clips_blocks_with_the_deltas_in_their_weights(clip):
    low_rank, model = LowRank(clip, o=True), copy.deepcopy(clip.model)
    for name, blocks in (("image", model.visual.transformer.resblocks), ("text", model.transformer.resblocks)):
        for i, block in enumerate(blocks):
            block.attn.in_proj_weight.data += (low_rank.A[f"{name}{i}"] @ low_rank.B[f"{name}{i}"]).T
            block.attn.out_proj.weight.data += (low_rank.A_o[f"{name}{i}"] @ low_rank.B_o[f"{name}{i}"]).T
    x, tokens = images(1, 3, 16), clip.tokenize(NAMES)

    same(clip.image_all(x, tower=low_rank).raw, model.encode_image(x), [])
    prefix = clip.prefix(clip.embed(tokens[:1, :1]), tower=low_rank)
    mine = clip.text_raw(prefix, clip.embed(tokens[:, 1:12]), tokens.argmax(dim=-1), tower=low_rank)
    same(mine, model.encode_text(tokens), [])


# --- the image tower ---------------------------

B = 3
IMAGE = {  # what a page could ask for, of width w
    "behind the patches": lambda w: Prompts(normal(2, w)),
    "behind the class token": lambda w: Prompts(normal(2, w), at=1),
    "among the patches": lambda w: Prompts(normal(2, w), [normal(2, w, seed=1)], at=3),
    "per image": lambda w: Prompts(normal(B, 2, w)),
    "per image, read at the prompts": lambda w: Prompts(normal(B, 4, w), at=1, read=range(4)),
    "read at some, behind the patches": lambda w: Prompts(normal(4, w), [normal(4, w, seed=1)], read=range(1, 3)),
    "deep": lambda w: Prompts(normal(2, w), [normal(2, w, seed=1)]),
    "deep per image": lambda w: Prompts(normal(B, 2, w), [normal(B, 2, w, seed=1)], at=1),
    "deep at the input of block 1, by name": lambda w: Prompts(normal(3, w), {1: normal(B, 3, w, seed=1)}),
    "keys and values": lambda w: Prompts(keys_values={i: (normal(1, 2, w, seed=i), normal(1, 2, w, seed=9 + i)) for i in (0, 1)}),
    "keys and values per image": lambda w: Prompts(keys_values={1: (normal(B, 3, w), normal(B, 3, w, seed=9))}),
    "all of it": lambda w: Prompts(
        normal(B, 4, w), {1: normal(4, w, seed=1)}, at=1, read=range(4),
        keys_values={0: (normal(1, 2, w, seed=2), normal(1, 2, w, seed=3)), 1: (normal(B, 1, w, seed=4), normal(B, 1, w, seed=5))}
    ),
}  # fmt: skip


def vectors(prompts: Prompts) -> list[torch.Tensor]:
    deep = prompts.deep.values() if isinstance(prompts.deep, dict) else prompts.deep
    given = [prompts.first] if prompts.first is not None else []
    return [*given, *deep, *(x for pair in prompts.keys_values.values() for x in pair)]


def check_image(clip, prompts, tower):
    x, learned = images(2, B, 16), vectors(prompts) + parameters(tower, "image")
    found = clip.image_all(x, prompts, tower)
    trunk, raw = plain_image(clip, x, prompts, tower)
    same(found.raw, raw, learned)
    same(found.trunk, trunk, learned if prompts is not NOTHING or tower else [])
    same(found.unit, F.normalize(raw, dim=-1), learned)
    assert torch.equal(clip.image(x, prompts, tower), found.unit)


@pytest.mark.parametrize("prompts", IMAGE)
def test_prompts_of_the_image_tower_give_the_features_and_gradients_of_the_plain_tower(clip, prompts):
    check_image(clip, IMAGE[prompts](clip.w), None)


@pytest.mark.parametrize("made", MADE)
def test_additions_in_the_image_tower_give_those_of_the_plain_tower(clip, made):
    check_image(clip, NOTHING, MADE[made](clip))


@pytest.mark.parametrize("prompts", ["deep per image", "keys and values per image", "all of it"])
def test_prompts_and_additions_agree_where_blocks_are_computed_again_for_the_backward_pass(checkpointed, prompts):
    check_image(checkpointed, IMAGE[prompts](checkpointed.w), Everything(checkpointed))


def test_where_prompts_stand_does_not_move_the_class_tokens_feature():
    """Neither a mask nor positions tell them apart: what CoOp's heirs and L2P do differently cannot be seen from there."""
    clip, first = tiny_clip(), normal(2, tiny_clip().w)
    for at in (1, 2):
        x, start = clip.patches(images(3, 2, 16), first, at)
        assert start == at and torch.equal(x[0, at : at + 2], clip.model.visual.ln_pre(first))
    found = [clip.image(images(3, 2, 16), Prompts(first, at=at)) for at in (None, 1, 2)]
    torch.testing.assert_close(found[0], found[1], atol=2e-6, rtol=0)
    torch.testing.assert_close(found[0], found[2], atol=2e-6, rtol=0)


# --- the text tower ---------------------------


def sentences(clip) -> tuple[torch.Tensor, torch.Tensor]:
    """-> input vectors (C, 77, d), EOT (C,)."""
    tokens = clip.tokenize([f"a photo of a {name}." for name in NAMES])
    return clip.embed(tokens), tokens.argmax(dim=-1)


C = len(NAMES)
TEXT = {  # deep prompts of width d
    "none": lambda d: (),
    "a list": lambda d: [normal(2, d), normal(2, d, seed=1)],
    "block 0": lambda d: {0: normal(2, d)},
    "the last block of three": lambda d: {2: normal(4, d)},
    "per class": lambda d: {1: normal(C, 4, d)},
    "per class, fewer than the context": lambda d: {1: normal(C, 2, d)},
    "per class at the input": lambda d: {0: normal(C, 2, d)},
    "per class in the last block of three": lambda d: {2: normal(C, 3, d)},
    "per class twice, shared before and between": lambda d: {
        0: normal(3, d),
        1: normal(C, 2, d, seed=1),
        2: normal(4, d, seed=2),
    },
    "longer than the shared prefix": lambda d: {1: normal(6, d)},
    "per class, longer than the shared prefix": lambda d: {1: normal(C, 6, d), 2: normal(6, d)},
}


def check_text(clip, deep=(), keys_values=(), tower=None, P=WORDS):
    whole, eot = sentences(clip)
    context = normal(P, clip.d, seed=50)
    prompts = torch.cat([context.expand(C, -1, -1), whole[:, P:]], dim=1)
    learned = [context, *vectors(Prompts(None, deep, keys_values=dict(keys_values))), *parameters(tower, "text")]
    last, raw = plain_text(clip, prompts, eot, deep, keys_values, tower)

    kv = dict(keys_values)
    prefix = clip.prefix(prompts[:1, :P], deep, kv, tower)
    suffix = prompts[:, P : eot.max() + 1]
    same(clip.text_raw(prefix, suffix, eot, tower), raw, learned)
    same(clip.text(prefix, suffix, eot, tower), F.normalize(raw, dim=-1), learned)
    same(clip.tokens(prompts, deep, kv, tower), last, learned)
    rows = torch.arange(C)
    same(clip.read_raw(clip.tokens(prompts, deep, kv, tower)[rows, eot]), raw, learned)


@pytest.mark.parametrize("P", [1, 3, WORDS])
@pytest.mark.parametrize("deep", TEXT)
def test_deep_text_prompts_behind_a_shared_prefix_give_those_of_the_plain_tower(clip, deep, P):
    check_text(clip, TEXT[deep](clip.d), P=P)


def test_one_class_has_the_deep_prompts_of_its_own(clip):
    whole, eot = sentences(clip)
    deep = {1: normal(1, 4, clip.d)}
    found = clip.text_raw(clip.prefix(whole[:1, :WORDS], deep), whole[:1, WORDS : eot[0] + 1], eot[:1])
    same(found, plain_text(clip, whole[:1], eot[:1], deep)[1], list(deep.values()))


def test_the_prefix_is_shared_up_to_the_block_where_classes_part():
    clip = other_clip()
    whole, _ = sentences(clip)
    prefix = clip.prefix(whole[:1, :WORDS], {3: normal(C, 2, clip.d)})
    assert [keys.shape[2] for keys in prefix.keys] == [WORDS] * 3 + [1] * 2
    assert [len(keys) for keys in prefix.keys] == [1] * 5


def test_keys_and_values_in_front_of_the_texts_own_give_those_of_the_plain_tower(clip):
    d = clip.d
    keys_values = {0: (normal(1, 2, d), normal(1, 2, d, seed=1)), 2: (normal(1, 3, d, seed=2), normal(1, 3, d, seed=3))}
    check_text(clip, keys_values=keys_values)
    check_text(clip, {1: normal(C, 4, d)}, keys_values)


@pytest.mark.parametrize("made", MADE)
def test_additions_in_the_text_tower_give_those_of_the_plain_tower(clip, made):
    check_text(clip, tower=MADE[made](clip))


@pytest.mark.parametrize("deep", ["a list", "per class", "per class twice, shared before and between"])
def test_deep_prompts_keys_and_additions_together_give_those_of_the_plain_tower(checkpointed, deep):
    d = checkpointed.d
    pair = normal(1, 2, d, seed=7), normal(1, 2, d, seed=8)
    keys_values = {1: pair, checkpointed.depth - 1: (pair[1], pair[0])}
    check_text(checkpointed, TEXT[deep](d), keys_values, Everything(checkpointed))


def test_a_prefix_per_image_takes_deep_prompts_and_keys_per_image(clip):
    images, tower = 3, Everything(clip)
    whole, eot = sentences(clip)
    context, deep = normal(images, WORDS, clip.d), {1: normal(images, 2, clip.d, seed=1), 2: normal(6, clip.d, seed=2)}
    keys_values = {1: (normal(images, 2, clip.d, seed=3), normal(images, 2, clip.d, seed=4))}
    suffix = whole[:, WORDS : eot.max() + 1].repeat(images, 1, 1)

    found = clip.text_raw(clip.prefix(context, deep, keys_values, tower), suffix, eot.repeat(images), tower)

    def of(i, vectors):
        return vectors[i] if vectors.ndim == 3 else vectors

    expected = []
    for i in range(images):
        prompts = torch.cat([context[i].expand(C, -1, -1), whole[:, WORDS:]], dim=1)
        mine = {at: (k[i : i + 1], v[i : i + 1]) for at, (k, v) in keys_values.items()}
        expected.append(plain_text(clip, prompts, eot, {at: of(i, x) for at, x in deep.items()}, mine, tower)[1])
    same(found, torch.cat(expected), [context, *deep.values(), *keys_values[1], *parameters(tower, "text")])


# --- what follows from it ---------------------------


@pytest.mark.parametrize("precision", ["bf16"])
def test_what_enters_agrees_with_the_plain_tower_in_lower_precision(precision):
    clip = frozen_clip(TINY)
    tower, prompts, x = Everything(clip), IMAGE["all of it"](clip.w), images(2, B, 16)
    expected = clip.image_all(x, prompts, tower)
    clip.compute(precision)
    found = clip.image_all(x, prompts, tower)
    for mine, reference in ((found.unit, expected.unit), (found.raw, expected.raw), (found.trunk, expected.trunk)):
        assert mine.dtype == torch.float32
        assert (mine - reference).abs().max() <= 0.06 * reference.abs().max()
    found.unit.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in vectors(prompts))


def test_dropout_in_an_addition_draws_the_same_when_a_block_is_computed_again(checkpointed):
    class Dropped(LowRank):
        def qkv(self, where, h):
            return super().qkv(where, F.dropout(h, 0.5))

    tower, found = Dropped(checkpointed), []
    for checkpoint in (False, True):
        checkpointed.checkpoint = checkpoint
        torch.manual_seed(3)
        raw = checkpointed.image_all(images(2, B, 16), tower=tower).raw
        found.append((raw, *torch.autograd.grad(raw.sum(), parameters(tower, "image"), allow_unused=True)))
    for a, b in zip(*found, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_prompts_of_some_classes_take_their_part_of_whatever_belongs_to_classes():
    first, each, shared = normal(1, 2, 8), normal(C, 2, 8), normal(2, 8)
    prompts = Prompts(first, {1: shared, 8: each}, classes=range(C)).of(range(1, 3))
    assert torch.equal(prompts.deep[8], each[1:3]) and prompts.deep[1] is shared and prompts.first is first
    assert prompts.classes == range(1, 3)
    assert torch.equal(prompts.of(range(2, 3)).deep[8], each[2:3])
    assert torch.equal(Prompts(each, [shared], classes=range(C)).of(range(2)).first, each[:2])


def test_a_copied_model_shares_the_frozen_clip():
    clip = tiny_clip()
    assert copy.deepcopy({"clip": clip})["clip"] is clip


def test_a_resnet_has_raw_features_and_says_that_it_has_no_trunk_and_no_blocks():
    class ResNet(nn.Module):
        def forward(self, images):
            return images.mean(dim=(2, 3)) @ torch.ones(3, 16)

    clip = frozen_clip(TINY)
    clip.model.visual, clip.is_vit = ResNet(), False
    x = images(1, 2, 16)
    found = clip.image_all(x)
    assert torch.equal(found.raw, clip.model.encode_image(x)) and torch.equal(found.unit, F.normalize(found.raw, dim=-1))
    with pytest.raises(UserError, match="needs a ViT, not a ResNet"):
        _ = found.trunk
    with pytest.raises(UserError, match="needs a vision transformer"):
        clip.shape("image")
