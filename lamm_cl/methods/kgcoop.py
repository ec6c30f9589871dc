"""KgCoOp (Yao et al., CVPR 2023): CoOp, with text features kept near those of a hand-written prompt.

L = CE(y) + weight mean_c (1 - cos(t_c, t*_c))

t: text features under the learned context, of the classes in play, whether they are in the batch or not;  t*: under the data
set's template, by the frozen tower, computed once.  The paper writes |t_c - t*_c|^2, of unit features twice 1 - cos; this is
the release (trainers/kgcoop.py 239-241, 310).
"""

import torch.nn.functional as F
from torch import Tensor

from lamm_cl.learner.pieces import Loss, Weight
from lamm_cl.learner.text import FixedTexts
from lamm_cl.towers.clip import FrozenCLIP


class Score(Loss):
    """instead: the templates of data sets for which the release's list differs from CoOp's."""

    def __init__(self, clip: FrozenCLIP, *, names: list[str], template: str, dataset: str, weight: Weight,
                 instead: dict[str, str] | None = None):  # fmt: skip
        super().__init__()
        self.weights = {"score": weight}
        self.reference = FixedTexts(clip, names, [(instead or {}).get(dataset, template)])

    def forward(self, model, out, targets: Tensor) -> dict[str, Tensor]:
        return {"score": 1 - F.cosine_similarity(out.text, self.reference.unit(out.classes), dim=-1).mean()}
