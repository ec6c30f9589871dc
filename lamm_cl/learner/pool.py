"""Pools of prompts: which of P an image is served by, decided by its feature under the frozen tower (L2P, DualPrompt)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def uniform(*shape: int) -> nn.Parameter:
    """Between -1 and 1: where prompts and keys start."""
    return nn.Parameter(torch.empty(shape).uniform_(-1, 1))


def similarity(query: Tensor, keys: Tensor) -> Tensor:
    """Cosines of (B, D) and (P, D) -> (B, P)."""
    return F.normalize(query, dim=-1) @ F.normalize(keys, dim=-1).T


def of_each(s: Tensor, k: int) -> Tensor:
    """Every image takes its own k nearest: (B, P) -> (B, k)."""
    return s.topk(k, dim=1).indices


def of_the_batch(s: Tensor, k: int) -> Tensor:
    """Every image votes with its own, and the k with most votes serve all: what an image gets depends on its batch.

    Where votes are equal the smaller id serves; the releases leave that to torch.topk, which promises no order.
    """
    votes = of_each(s, k).flatten().bincount(minlength=s.shape[1])
    return votes.argsort(descending=True, stable=True)[:k].expand(len(s), -1)


def of_experience(i: int, k: int, s: Tensor) -> Tensor | None:
    """The k that belong to experience i (from 0), for all images (B, k); None where the pool has no more."""
    if (i + 1) * k > s.shape[1]:
        return None
    return torch.arange(i * k, (i + 1) * k, device=s.device).expand(len(s), -1)


CHOICES = {"image": of_each, "batch": of_the_batch}


def notes(s: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """similarity (B, P), chosen (B, k), and the sum of an image's cosines with the keys chosen (B,), which a loss may pull up."""
    return {"similarity": s, "chosen": chosen, "matched": s.gather(1, chosen).sum(dim=1)}
