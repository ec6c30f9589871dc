"""MaPLe (Khattak et al., CVPR 2023): text prompts P_0 .. P_{J-1} in the first J blocks, image prompts F_i(P_i).

P_0 starts as the first n tokens of the phrase, whose other words stay ("of a"); the deep P_i are random.  As in the release
(trainers/maple.py), the deep F_i start as clones of one initialisation.
"""

from copy import deepcopy

from torch import Tensor, nn

from ..clip import FrozenCLIP, Prompts
from ..errors import UserError
from ..prompts import ContextLearner, noise, start


class MaPLe(ContextLearner):
    """depth J: the input and the blocks 1 .. J-1."""

    prompts_images = True

    def __init__(self, clip: FrozenCLIP, *, n: int, init: str | None, depth: int):
        super().__init__()
        if not 1 <= depth <= clip.depth:
            raise UserError(f"context: depth: {depth}, but the towers have {clip.depth} blocks")
        template, first = start(clip, n, init)
        self.n, self.templates = n, (template,)
        self.P = nn.ParameterList([first, *(noise(n, clip.d) for _ in range(depth - 1))])
        deep = nn.Linear(clip.d, clip.w)
        self.F = nn.ModuleList([nn.Linear(clip.d, clip.w), *(deepcopy(deep) for _ in range(depth - 1))])

    def image(self) -> Prompts:
        first, *deep = [F(P) for F, P in zip(self.F, self.P)]
        return Prompts(first, deep)

    def text(self, x: Tensor, classes: range) -> Prompts:
        first, *deep = self.P
        return Prompts(first.unsqueeze(0), deep)
