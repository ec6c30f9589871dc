"""CLIP's pre-norm transformer blocks, run on open_clip's weights with what prompt learning can save.

Text is causal: a position never sees what follows it.  Two things follow, and both are exact:
- positions after the end-of-text token (EOT) cannot matter, so prompts are cut behind the longest one;
- the prefix that all prompts share, [SOS][context], is the same for every class, so it runs once (`Prefix`), and the
  positions of a class attend to its keys and values.  In the last block only the EOT position is asked for.

Letters: N sequences, P prefix length, S suffix length, L = P + S, d width, h heads, m fresh vectors, p keys in front.

What enters on the way, everywhere below:
- deep: at the input of block i fresh vectors stand at the positions start .. start+m-1, (m, d) for all sequences or (N, m, d);
  a list is for the blocks 1, 2, ..., a mapping names its blocks;
- keys_values: block -> keys and values (1 or N, p, d) in front of its own, as they are: neither normed nor projected, with no
  position (prefix tuning).  Every position sees them;
- added: what is added inside each block (towers/additions.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from lamm_cl.towers.additions import ABSENT, AtBlock
from lamm_cl.towers.linears import Block

Deep = Sequence[Tensor] | Mapping[int, Tensor]
KeysValues = Mapping[int, tuple[Tensor, Tensor]]
NONE: KeysValues = {}


@dataclass
class Prefix:
    """What the positions behind a shared prefix look at, one entry a block: its keys and values (N or 1, h, K, d/h).

    Fresh vectors that differ between the sequences behind it end the shared part at their block: from there on what stands
    at `start` and behind it belongs to every sequence.  rest: that block -> what they share at its input (N, P - start, d).
    """

    length: int  # P
    keys: list[Tensor]
    values: list[Tensor]
    first: list[Tensor | None]  # position 0 behind each block's attention (N, d), where something is added
    rest: dict[int, Tensor]
    deep: Deep
    start: int


def split_heads(block: Block, x: Tensor, n: int) -> tuple[Tensor, ...]:
    """(N, L, n d) -> n x (N, h, L, d/h)."""
    return x.unflatten(-1, (n, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def plus(x: Tensor, more: Tensor | None) -> Tensor:
    return x if more is None else x + more


def project(block: Block, x: Tensor, add: AtBlock = ABSENT) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a block for its raw input: (N, L, d) -> 3 x (N, h, L, d/h)."""
    h = block.ln_1(x)
    q, k, v = split_heads(block, plus(block.linears.qkv(h), add.qkv(h)), 3)
    return q, k, v


def project_one(block: Block, x: Tensor, at: tuple, add: AtBlock = ABSENT) -> tuple[Tensor, Tensor, Tensor]:
    """As `project`, with the query of one position a sequence: `at` picks (N, d) from (N, L, d)."""
    h = block.ln_1(x)
    q, kv, d = block.linears.query(h[at].unsqueeze(1)), block.linears.keys_values(h), h.shape[-1]
    if (more := add.qkv(h)) is not None:
        q, kv = q + more[at].unsqueeze(1)[..., :d], kv + more[..., d:]
    (q,), (k, v) = split_heads(block, q, 1), split_heads(block, kv, 2)
    return q, k, v


def in_front(block: Block, front: tuple[Tensor, Tensor] | None, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (1 or N, p, d) in front of a block's own (N, h, L, d/h) -> both (N, h, p+L, d/h)."""
    if front is None:
        return k, v
    k0, v0 = (split_heads(block, x, 1)[0].to(k.dtype).expand(len(k), -1, -1, -1) for x in front)
    return torch.cat([k0, k], dim=2), torch.cat([v0, v], dim=2)


def residual(block: Block, x: Tensor, attended: Tensor, add: AtBlock = ABSENT) -> Tensor:
    """The residual stream behind a block's attention: (N, L, d), (N, h, L, d/h) -> (N, L, d)."""
    a = attended.transpose(1, 2).flatten(-2)
    return x + plus(block.linears.out(a), add.out(a))


def feed(block: Block, x: Tensor, add: AtBlock = ABSENT, first: Tensor | None = None) -> Tensor:
    """The rest of a block behind its residual: (N, L, d) -> (N, L, d).  first (N, d): position 0, if x does not begin there."""
    y = x + block.linears.mlp(block.ln_2(x))
    return plus(y, add.beside(x, x[:, 0] if first is None else first))


def visible(S: int, K: int, device: torch.device) -> Tensor:
    """Of S positions, which see what: all of the K in front of them, themselves, and what stands before them (S, K+S)."""
    return torch.ones(S, K + S, dtype=torch.bool, device=device).tril(K)


def spread(x: Tensor, n: int) -> Tensor:
    """(m, ...) -> (n, ...): each of the m sequences serves n/m neighbours."""
    assert n % len(x) == 0
    return x.unsqueeze(1).expand(-1, n // len(x), *x.shape[1:]).flatten(0, 1)


def fresh_at(i: int, deep: Deep) -> Tensor | None:
    """The vectors (m, d) or (N, m, d) that enter at block i."""
    if isinstance(deep, Mapping):
        return deep.get(i)
    return deep[i - 1] if 1 <= i <= len(deep) else None


def enter(i: int, x: Tensor, deep: Deep, start: int, before: int = 0) -> Tensor:
    """The input x (N, L, d) of block i, where it holds the positions from `before` on, with its fresh vectors in place."""
    fresh = fresh_at(i, deep)
    if fresh is None:
        return x
    low, high = max(start, before), min(start + fresh.shape[-2], before + x.shape[1])
    if low >= high:
        return x
    fresh = fresh[..., low - start : high - start, :]
    fresh = spread(fresh, len(x)) if fresh.ndim == 3 else fresh.expand(len(x), -1, -1)
    return torch.cat([x[:, : low - before], fresh, x[:, high - before :]], dim=1)


def run(blocks: Sequence[Block], x: Tensor, deep: Deep, start: int, causal: bool, checkpoint: bool = False,
        keys_values: KeysValues = NONE, added: Sequence[AtBlock] = ()) -> Tensor:  # fmt: skip
    """x (N, L, d) through all blocks -> (N, L, d).

    checkpoint: keep a block's input alone for the backward pass and run the block again there (activation checkpointing).
    """
    for i, block in enumerate(blocks):
        x = enter(i, x, deep, start)
        rest = causal, keys_values.get(i), added[i] if added else ABSENT
        x = recomputed(whole, block, x, *rest, use_reentrant=False) if checkpoint else whole(block, x, *rest)
    return x


def whole(block: Block, x: Tensor, causal: bool, front: tuple[Tensor, Tensor] | None, add: AtBlock) -> Tensor:
    q, k, v = project(block, x, add)
    return feed(block, residual(block, x, attention(block, q, k, v, causal, front), add), add)


def attention(block: Block, q: Tensor, k: Tensor, v: Tensor, causal: bool,
              front: tuple[Tensor, Tensor] | None) -> Tensor:  # fmt: skip
    """All positions of a sequence (N, h, L, d/h) look at those before them (causal) or at all, and at what stands in front."""
    if front is None or not causal:
        return attend(q, *in_front(block, front, k, v), causal=causal)
    return attend(q, *in_front(block, front, k, v), visible(q.shape[2], front[0].shape[1], q.device))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d/h)) v.  On a processor in fp32 whatever the precision: in bf16 its backward pass takes longer than
    all matrix products of a text's step."""
    if q.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask, is_causal=causal)


def run_to_first(blocks: Sequence[Block], x: Tensor, deep: Deep, start: int, checkpoint: bool = False,
                 keys_values: KeysValues = NONE, added: Sequence[AtBlock] = ()) -> Tensor:  # fmt: skip
    """As `run`, without a mask, for who reads position 0 alone: (N, L, d) -> (N, d)."""
    last = len(blocks) - 1
    x = run(blocks[:-1], x, deep, start, causal=False, checkpoint=checkpoint, keys_values=keys_values, added=added)
    x = enter(last, x, deep, start)
    add = added[last] if added else ABSENT
    q, k, v = project_one(blocks[-1], x, (slice(None), 0), add)
    attended = attention(blocks[-1], q, k, v, False, keys_values.get(last))
    return feed(blocks[-1], residual(blocks[-1], x[:, :1], attended, add), add).squeeze(1)


def run_prefix(blocks: Sequence[Block], x: Tensor, deep: Deep, start: int, keys_values: KeysValues = NONE,
               added: Sequence[AtBlock] = ()) -> Prefix:  # fmt: skip
    """The shared prefix x (N, P, d) through all blocks, keeping what later positions look at.

    Fresh vectors (N, m, d) belong to the prefixes, those of another number to the sequences behind them.
    """
    found = Prefix(x.shape[1], [], [], [], {}, deep, start)
    for i, block in enumerate(blocks):
        fresh, add, front = fresh_at(i, deep), added[i] if added else ABSENT, keys_values.get(i)
        if fresh is not None and fresh.ndim == 3 and len(fresh) not in (1, len(x)) and x.shape[1] > start:
            found.rest[i], x = x[:, start:], x[:, :start]
        x = enter(i, x, deep, start)
        q, k, v = project(block, x, add)
        for kept, mine in zip((found.keys, found.values), in_front(block, front, k, v), strict=True):
            kept.append(mine)
        if i + 1 < len(blocks):
            x = residual(block, x, attention(block, q, k, v, True, front), add)
            found.first.append(x[:, 0] if added else None)
            x = feed(block, x, add)
        elif added:
            one = attention(block, q[:, :, :1], k[:, :, :1], v[:, :, :1], True, front)
            found.first.append(residual(block, x[:, :1], one, add).squeeze(1))
        else:
            found.first.append(None)
    return found


def run_suffix(blocks: Sequence[Block], x: Tensor, prefix: Prefix, eot: Tensor, added: Sequence[AtBlock] = ()) -> Tensor:
    """The positions behind the prefix: x (N, S, d), EOT at `eot` (N,) counted in x -> the last block's output there (N, d).

    N must be a multiple of the prefix's N: its sequences are repeated in blocks (image-major order).
    """
    before, rows = prefix.length, torch.arange(len(x), device=x.device)
    mask = visible(x.shape[1], prefix.keys[0].shape[2], x.device)
    for i, block in enumerate(blocks):
        add, k0, v0 = added[i] if added else ABSENT, prefix.keys[i], prefix.values[i]
        if i in prefix.rest:
            rest = spread(prefix.rest[i], len(x))
            x, before, eot = torch.cat([rest, x], dim=1), before - rest.shape[1], eot + rest.shape[1]
        fresh = fresh_at(i, prefix.deep)
        assert fresh is None or fresh.ndim == 2 or len(fresh) in (1, len(k0), len(x))  # in between, whose would they be?
        x = enter(i, x, prefix.deep, prefix.start, before)
        S, K = x.shape[1], k0.shape[2]
        if mask.shape != (S, K + S):
            mask = visible(S, K, x.device)
        if i + 1 == len(blocks):
            q, k, v = project_one(block, x, (rows, eot), add)
            x, mask = x[rows, eot].unsqueeze(1), mask[eot][:, None, None]
        else:
            q, k, v = project(block, x, add)
        k, v = torch.cat([spread(k0, len(q)), k], dim=2), torch.cat([spread(v0, len(q)), v], dim=2)
        x = residual(block, x, attend(q, k, v, mask), add)
        first = prefix.first[i]
        x = feed(block, x, add, None if first is None else spread(first, len(x)))
    return x.squeeze(1)
