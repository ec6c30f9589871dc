"""MaPLe (Khattak et al., CVPR 2023): text prompts P_0 .. P_{J-1} in the first J blocks, image prompts F_i(P_i).

P_0 starts as the first n tokens of the phrase, whose other words stay ("of a"); the deep P_i are random.  As in the release
(trainers/maple.py), the deep F_i start as clones of one initialisation.
"""

from copy import deepcopy

from torch import nn

from lamm_cl.learner.pieces import DeepContext, Few
from lamm_cl.learner.shown import Images
from lamm_cl.towers.clip import FrozenCLIP, Prompts


class MaPLe(DeepContext):
    """depth J: the input and the blocks 1 .. J-1."""

    def __init__(self, clip: FrozenCLIP, *, n: Few, init: str | None, depth: Few):
        super().__init__(clip, n=n, init=init, depth=depth)
        deep = nn.Linear(clip.d, clip.w)
        self.F = nn.ModuleList([nn.Linear(clip.d, clip.w), *(deepcopy(deep) for _ in range(depth - 1))])

    def image(self, x: Images) -> Prompts:
        first, *deep = [F(P) for F, P in zip(self.F, self.P)]
        return Prompts(first, deep)
