"""IVLP, independent vision-language prompting (Rasheed et al., CVPR 2023; in Khattak et al., ICCV 2023): prompts for both towers.

text: P_0 .. P_{J-1} (n, d)          image: V_0 .. V_{K-1} (m, w), coupled by nothing

The first of each stand at the input, the others replace them at the input of blocks 1, 2, ...  P_0 starts as the first n tokens
of the phrase or random, all others are random.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from lamm_cl.errors import UserError
from lamm_cl.learner.pieces import ContextLearner, DeepContext, Few
from lamm_cl.learner.prompts import noise
from lamm_cl.learner.shown import Images
from lamm_cl.towers.clip import FrozenCLIP, Prompts

Some = Annotated[int, Field(ge=0, le=1000)]  # blocks, or none


class IVLP(DeepContext):
    """depth J, depth_image K; 0: that tower has no prompts, and what it gives is computed once."""

    def __init__(self, clip: FrozenCLIP, *, n: Few, init: str | None, depth: Some, n_image: Few, depth_image: Some):
        if depth:
            super().__init__(clip, n=n, init=init, depth=depth)
        else:
            ContextLearner.__init__(self)
            if init is None:
                raise UserError("context: init: expected words, as no vectors of the text are learned (depth: 0)")
            self.templates, self.P = (f"{init} {{}}.",), nn.ParameterList()
        self.V = image_prompts(clip, n_image, depth_image, "depth_image")
        self.prompts_images = bool(depth_image)

    @property
    def learns_text(self) -> bool:
        return any(p.requires_grad for p in self.P)

    def text(self, x: Tensor | None, classes: range) -> Prompts:
        return super().text(x, classes) if len(self.P) else Prompts()

    def image(self, x: Images) -> Prompts:
        return Prompts(self.V[0], [*self.V[1:]]) if len(self.V) else Prompts()


def image_prompts(clip: FrozenCLIP, n: int, depth: int, option: str) -> nn.ParameterList:
    """(n, w) for the input and for the blocks 1 .. depth-1."""
    if not depth:
        return nn.ParameterList()
    width, blocks = clip.w, clip.shape("image")[0]
    if depth > blocks:
        raise UserError(f"context: {option}: {depth}, but the image tower has {blocks} blocks")
    return nn.ParameterList(noise(n, width) for _ in range(depth))
