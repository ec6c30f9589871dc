"""CoCoOp (Zhou et al., CVPR 2022): v_i(x) = v_i + pi, with pi = h(x) from a bottleneck network on the unit image feature x.

One bias pi is added to all n context vectors, so every image has its own text features (B, c, D).
"""

from torch import Tensor, nn

from lamm_cl.learner.pieces import ContextLearner, Few
from lamm_cl.learner.prompts import start
from lamm_cl.towers.clip import FrozenCLIP, Prompts


class CoCoOp(ContextLearner):
    """squeeze: the hidden width of h is D // squeeze."""

    reads_images = True

    def __init__(self, clip: FrozenCLIP, *, n: Few, init: str | None, squeeze: Few = 16):
        super().__init__()
        template, self.v = start(clip, n, init)
        self.n, self.templates = n, (template,)
        self.h = nn.Sequential(nn.Linear(clip.D, clip.D // squeeze), nn.ReLU(), nn.Linear(clip.D // squeeze, clip.d))

    def text(self, x: Tensor, classes: range) -> Prompts:
        pi = self.h(x)  # (B, d)
        return Prompts((self.v + pi.unsqueeze(1)).unsqueeze(1))  # (B, 1, n, d)
