"""DualPrompt (Wang et al., ECCV 2022): prompts in front of a block's keys and values: G for all images, E for an experience each.

block i in g_blocks:  [G_i^k, keys], [G_i^v, values]          block i in e_blocks:  [E_i,t^k, keys], [E_i,t^v, values]
t in training: the experience;  t at the test: argmax cos(q(x), K_t)          L = CE - c mean_b cos(q(x), K_t)

G (blocks, 2, g_length, w);  E (blocks, 2, pool, length, w);  K (pool, D);  q(x): the feature of the frozen tower.  An experience
starts with the E of the one before; keys do not.  Prompts enter as they are: neither normed nor projected.  Behind the last of
the pool, training too goes by the keys.  A linear head (linear.py) reads the class token.

Released variants: the images of a batch vote for one t at the test (JH-LEE-KR/dualprompt-pytorch, LAMDA-PILOT, C3Box), and the
chosen prompts (blocks, 2, B, ...) are reshaped, not permuted, to (blocks, B, 2, ...), so that the first half of a batch gets the
key prompt as key and as value, the second half the value prompt; in C3Box G never trains.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from lamm_cl.errors import UserError
from lamm_cl.learner.pieces import ContextLearner, Few
from lamm_cl.learner.pool import CHOICES, notes, of_experience, similarity, uniform
from lamm_cl.learner.shown import Experience, Images
from lamm_cl.towers.clip import FrozenCLIP, Prompts

Blocks = Annotated[list[Annotated[int, Field(ge=0, le=1000)]], Field(max_length=1000)]


class DualPrompt(ContextLearner):
    """top: prompts that serve an image;  choose: by every image, or by the batch."""

    prompts_images = True
    needs = frozenset({"pixels", "raw"})
    experience = 0

    def __init__(self, clip: FrozenCLIP, *, g_length: Few, g_blocks: Blocks, length: Few, e_blocks: Blocks, pool: Few,
                 top: Few = 1, choose: Literal["image", "batch"] = "image"):  # fmt: skip
        super().__init__()
        self.check(clip, g_blocks=g_blocks, e_blocks=e_blocks)
        if top > pool:
            raise UserError(f"context: top: {top} prompts, but pool: {pool}")
        self.g_blocks, self.e_blocks, self.top, self.choose = g_blocks, e_blocks, top, CHOICES[choose]
        self.G = uniform(len(g_blocks), 2, g_length, clip.w)
        self.E = uniform(len(e_blocks), 2, pool, length, clip.w)
        self.K = uniform(pool, clip.D)

    def check(self, clip: FrozenCLIP, **blocks: list[int]) -> None:
        inside(clip, **blocks)

    @torch.no_grad()
    def begin(self, e: Experience) -> None:
        self.experience = e.number
        before, mine, end = ((e.number + i) * self.top for i in (-1, 0, 1))
        if e.number and end <= len(self.K):
            self.E[:, :, mine:end] = self.E[:, :, before:mine]

    def image(self, x: Images) -> Prompts:
        s = similarity(x.raw, self.K)
        chosen = of_experience(self.experience, self.top, s) if self.training else None
        if chosen is None:
            chosen = self.choose(s, self.top)
        e = self.pairs(self.E[:, :, chosen].flatten(3, 4))
        general = {i: (G[:1], G[1:]) for i, G in zip(self.g_blocks, self.G)}
        own = {i: pair.unbind(1) for i, pair in zip(self.e_blocks, e)}
        return Prompts(keys_values=general | own, notes=notes(s, chosen))

    def pairs(self, chosen: Tensor) -> Tensor:
        """(blocks, 2, B, p, w) -> (blocks, B, 2, p, w): for every image a key and a value."""
        return chosen.transpose(1, 2)


class Reshaped(DualPrompt):
    """The releases' way: in a batch of more than one image keys and values are mixed up."""

    def pairs(self, chosen: Tensor) -> Tensor:
        return chosen.reshape(len(chosen), -1, 2, *chosen.shape[3:])


class C3Box(Reshaped):
    """G stays as it was drawn, and prompts for blocks that a tower does not have are kept and never used."""

    def __init__(self, clip: FrozenCLIP, *, g_length: Few, g_blocks: Blocks, length: Few, e_blocks: Blocks, pool: Few,
                 top: Few = 1, choose: Literal["image", "batch"] = "batch"):  # fmt: skip
        super().__init__(clip, g_length=g_length, g_blocks=g_blocks, length=length, e_blocks=e_blocks, pool=pool, top=top,
                         choose=choose)  # fmt: skip
        self.G.requires_grad_(False)

    def check(self, clip: FrozenCLIP, **blocks: list[int]) -> None:
        """Blocks 0-4 are written in the release, whatever the tower."""


def inside(clip: FrozenCLIP, **blocks: list[int]) -> None:
    """Every block exists, and is named once."""
    there = clip.shape("image")[0]
    for option, named in blocks.items():
        for i in named:
            if i >= there:
                raise UserError(f"context: {option}: block {i}, but the image tower has {there}, counted from 0")
    every = [i for named in blocks.values() for i in named]
    if twice := [i for i in every if every.count(i) > 1]:
        raise UserError(f"context: {' and '.join(blocks)}: block {twice[0]} stands there twice")
