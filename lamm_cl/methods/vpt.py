"""VPT (Jia et al., ECCV 2022), as compared on CLIP by MaPLe: image prompts V_0 .. V_{K-1} (m, w), under a fixed text.

V_0 stands at the input, the others replace it at the input of the blocks 1, 2, ...  The text is "a photo of a NAME." for every
data set (trainers/vpt.py 73-86), so its features are computed once.
"""

from lamm_cl.learner.pieces import Few, Words
from lamm_cl.learner.shown import Images
from lamm_cl.methods.ivlp import image_prompts
from lamm_cl.towers.clip import FrozenCLIP, Prompts


class VPT(Words):
    """n vectors each, for the input and for the blocks 1 .. depth-1."""

    prompts_images = True
    learns_text = False

    def __init__(self, clip: FrozenCLIP, *, n: Few, depth: Few, init: str = "a photo of a"):
        super().__init__(init=init)
        self.V = image_prompts(clip, n, depth, "depth")

    def image(self, x: Images) -> Prompts:
        return Prompts(self.V[0], [*self.V[1:]])
