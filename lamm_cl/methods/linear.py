"""A linear head in place of CLIP's text: y = W f(x) + b, f(x) the image feature before it is normalised.

It has rows for all classes of the stream from the beginning; those out of play get no gradient.  A class that is not learned has
no score: the names are never read.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Head
from lamm_cl.towers.clip import FrozenCLIP


class Linear(Head):
    """Starts as torch's nn.Linear."""

    needs = frozenset({"raw"})
    reads_text = False
    scores_unseen = False

    def __init__(self, clip: FrozenCLIP, *, names: list[str]):
        super().__init__()
        layer = nn.Linear(clip.D, len(names))
        self.W, self.b = layer.weight, layer.bias

    def forward(self, out: Output) -> Tensor:
        rows = slice(out.classes.start, out.classes.stop)
        return F.linear(out.raw, self.W[rows], self.b[rows])
