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


@dataclass
class Prefix:
    """Keys and values (N or 1, h, P, d/h) of the shared prefix, one pair a block."""

    keys: list[Tensor]
    values: list[Tensor]

    @property
    def length(self) -> int:
        return self.keys[0].shape[-2]


def project(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a block for its raw input: (N, L, d) -> 3 x (N, h, L, d/h)."""
    qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    heads = qkv.unflatten(-1, (3, block.attn.num_heads, -1))
    q, k, v = heads.permute(2, 0, 3, 1, 4)
    return q, k, v


def finish(block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of a block behind its attention: (N, L, d), (N, h, L, d/h) -> (N, L, d)."""
    x = x + block.attn.out_proj(attended.transpose(1, 2).flatten(-2))
    return x + block.mlp(block.ln_2(x))


def replace(x: Tensor, fresh: Tensor, start: int) -> Tensor:
    """x (N, L, d) with `fresh` (m, d) put at positions start .. start+m-1 of every sequence."""
    stop = start + len(fresh)
    return torch.cat([x[:, :start], fresh.expand(len(x), -1, -1), x[:, stop:]], dim=1)


def run(blocks: nn.ModuleList, x: Tensor, deep: list[Tensor], start: int, causal: bool) -> Tensor:
    """x (N, L, d) through all blocks -> (N, L, d).  `deep[i]` replaces positions `start`.. at the input of block i+1."""
    for i, block in enumerate(blocks):
        if 1 <= i <= len(deep):
            x = replace(x, deep[i - 1], start)
        q, k, v = project(block, x)
        x = finish(block, x, F.scaled_dot_product_attention(q, k, v, is_causal=causal))
    return x


def run_prefix(blocks: nn.ModuleList, x: Tensor, deep: list[Tensor], start: int) -> Prefix:
    """The shared prefix x (N, P, d) through all blocks, keeping what later positions look at."""
    keys, values = [], []
    for i, block in enumerate(blocks):
        if 1 <= i <= len(deep):
            x = replace(x, deep[i - 1], start)
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
    rows = torch.arange(len(x), device=x.device)
    for i, (block, k0, v0) in enumerate(zip(blocks, prefix.keys, prefix.values)):
        q, k, v = project(block, x)
        k, v = torch.cat([spread(k0, len(x)), k], dim=2), torch.cat([spread(v0, len(x)), v], dim=2)
        if i + 1 == len(blocks):
            q, x, mask = q[rows, :, eot].unsqueeze(2), x[rows, eot].unsqueeze(1), mask[eot][:, None, None]
        x = finish(block, x, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    return x.squeeze(1)


def spread(x: Tensor, n: int) -> Tensor:
    """(m, h, P, e) -> (n, h, P, e): each of the m sequences serves n/m neighbours."""
    return x.unsqueeze(1).expand(-1, n // len(x), *x.shape[1:]).flatten(0, 1)
