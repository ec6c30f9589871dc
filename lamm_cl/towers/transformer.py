"""CLIP's pre-norm transformer blocks, run on open_clip's weights with what prompt learning can save.

Text is causal: a position never sees what follows it.  Two things follow, and both are exact:
- positions after the end-of-text token (EOT) cannot matter, so prompts are cut behind the longest one;
- the prefix that all prompts share, [SOS][context], is the same for every class, so it runs once (`Prefix`), and the
  positions of a class attend to its keys and values.  In the last block only the EOT position is asked for.

Letters: N sequences, P prefix length, S suffix length, L = P + S, d width, h heads.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed


@dataclass
class Prefix:
    """Keys and values (N or 1, h, P, d/h) of the shared prefix, one pair a block."""

    keys: list[Tensor]
    values: list[Tensor]

    @property
    def length(self) -> int:
        return self.keys[0].shape[-2]


def split_heads(block: nn.Module, x: Tensor, n: int) -> tuple[Tensor, ...]:
    """(N, L, n d) -> n x (N, h, L, d/h)."""
    return x.unflatten(-1, (n, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def project(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a block for its raw input: (N, L, d) -> 3 x (N, h, L, d/h)."""
    return split_heads(block, F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias), 3)


def project_one(block: nn.Module, x: Tensor, at: tuple) -> tuple[Tensor, Tensor, Tensor]:
    """As `project`, with the query of one position a sequence: `at` picks (N, d) from (N, L, d)."""
    x, W, b = block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias
    d = W.shape[1]
    (q,) = split_heads(block, F.linear(x[at].unsqueeze(1), W[:d], b[:d]), 1)
    return q, *split_heads(block, F.linear(x, W[d:], b[d:]), 2)


def finish(block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of a block behind its attention: (N, L, d), (N, h, L, d/h) -> (N, L, d)."""
    x = x + block.attn.out_proj(attended.transpose(1, 2).flatten(-2))
    return x + block.mlp(block.ln_2(x))


def enter(i: int, x: Tensor, deep: list[Tensor], start: int) -> Tensor:
    """The input x (N, L, d) of block i: from block 1 on, deep[i-1] (m, d) stands at positions start .. start+m-1."""
    if not 1 <= i <= len(deep):
        return x
    fresh = deep[i - 1]
    stop = start + len(fresh)
    return torch.cat([x[:, :start], fresh.expand(len(x), -1, -1), x[:, stop:]], dim=1)


def run(blocks: nn.ModuleList, x: Tensor, deep: list[Tensor], start: int, causal: bool, checkpoint: bool = False) -> Tensor:
    """x (N, L, d) through all blocks -> (N, L, d).  `deep[i]` replaces positions `start`.. at the input of block i+1.

    checkpoint: keep a block's input alone for the backward pass and run the block again there (activation checkpointing).
    """
    for i, block in enumerate(blocks):
        x = enter(i, x, deep, start)
        x = recomputed(whole, block, x, causal, use_reentrant=False) if checkpoint else whole(block, x, causal)
    return x


def whole(block: nn.Module, x: Tensor, causal: bool) -> Tensor:
    q, k, v = project(block, x)
    return finish(block, x, F.scaled_dot_product_attention(q, k, v, is_causal=causal))


def run_to_first(blocks: nn.ModuleList, x: Tensor, deep: list[Tensor], start: int, checkpoint: bool = False) -> Tensor:
    """As `run`, without a mask, for who reads position 0 alone: (N, L, d) -> (N, d)."""
    x = run(blocks[:-1], x, deep, start, causal=False, checkpoint=checkpoint)
    x = enter(len(blocks) - 1, x, deep, start)
    q, k, v = project_one(blocks[-1], x, (slice(None), 0))
    return finish(blocks[-1], x[:, :1], F.scaled_dot_product_attention(q, k, v)).squeeze(1)


def run_prefix(blocks: nn.ModuleList, x: Tensor, deep: list[Tensor], start: int) -> Prefix:
    """The shared prefix x (N, P, d) through all blocks, keeping what later positions look at."""
    keys, values = [], []
    for i, block in enumerate(blocks):
        x = enter(i, x, deep, start)
        q, k, v = project(block, x)
        keys.append(k)
        values.append(v)
        if i + 1 < len(blocks):
            x = finish(block, x, F.scaled_dot_product_attention(q, k, v, is_causal=True))
    return Prefix(keys, values)


def run_suffix(blocks: nn.ModuleList, x: Tensor, prefix: Prefix, eot: Tensor) -> Tensor:
    """The positions behind the prefix: x (N, S, d), EOT at `eot` (N,) counted in x -> the last block's output there (N, d).

    N must be a multiple of the prefix's N: its sequences are repeated in blocks (image-major order).
    """
    P, S = prefix.length, x.shape[1]
    mask = torch.ones(S, P + S, dtype=torch.bool, device=x.device).tril(P)
    at = torch.arange(len(x), device=x.device), eot
    for i, (block, k0, v0) in enumerate(zip(blocks, prefix.keys, prefix.values, strict=True)):
        if i + 1 == len(blocks):
            q, k, v = project_one(block, x, at)
            x, mask = x[at].unsqueeze(1), mask[eot][:, None, None]
        else:
            q, k, v = project(block, x)
        k, v = torch.cat([spread(k0, len(q)), k], dim=2), torch.cat([spread(v0, len(q)), v], dim=2)
        x = finish(block, x, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    return x.squeeze(1)


def spread(x: Tensor, n: int) -> Tensor:
    """(m, h, P, e) -> (n, h, P, e): each of the m sequences serves n/m neighbours."""
    return x.unsqueeze(1).expand(-1, n // len(x), *x.shape[1:]).flatten(0, 1)
