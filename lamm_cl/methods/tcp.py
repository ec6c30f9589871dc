"""TCP (Yao et al., CVPR 2024): textual class-aware prompts, drawn from what the frozen CLIP knows of a class.

T_c = h(t*_c), (m, d)        text: [SOS][v_1 .. v_n][name_c][tail.], T_c in place of positions 1 .. m at the input of one block

v: learned, shared, random at first;  t*: unit text features under the data set's template, by the frozen tower, computed once;
h: D -> D / squeeze -> m d with QuickGELU.  Loss: CE and KgCoOp's score.  v acts through the blocks before T_c alone.  Their
mixing weight is 1 in the release, whatever its script says (trainers/clip_text/model.py 268-278).
"""

import torch
from torch import Tensor, nn

from lamm_cl.errors import UserError
from lamm_cl.learner.pieces import ContextLearner, Few
from lamm_cl.learner.prompts import in_template, noise
from lamm_cl.learner.text import FixedTexts
from lamm_cl.towers.clip import FrozenCLIP, Prompts


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class TCP(ContextLearner):
    """block: from 0.  The learned prompt keeps what stands behind the name in the data set's template.

    texts: the learned prompts of data sets for which the release's are others;  instead: the same of the frozen templates.
    """

    def __init__(self, clip: FrozenCLIP, *, names: list[str], template: str, dataset: str, n: Few, m: Few, block: Few,
                 squeeze: Few = 4, texts: dict[str, str] | None = None, instead: dict[str, str] | None = None):  # fmt: skip
        super().__init__()
        if block >= clip.depth:
            raise UserError(f"context: block: {block}, but the text tower's last is {clip.depth - 1}")
        self.reference = FixedTexts(clip, names, [(instead or {}).get(dataset, template)])
        text = (texts or {}).get(dataset, " ".join(["X"] * n) + " {}" + template.partition("{}")[2])
        in_template(text, "")
        if n > (before := len(clip.words(text.partition("{}")[0]))):
            raise UserError(f"context: n: {n} vectors, but {before} tokens stand in front of the name in {text!r}")
        self.n, self.m, self.block, self.templates = n, m, block, (text,)
        self.v = noise(n, clip.d)
        hidden = clip.D // squeeze
        self.h = nn.Sequential(nn.Linear(clip.D, hidden), QuickGELU(), nn.Linear(hidden, m * clip.d))

    def class_prompts(self, classes: range) -> Tensor:
        """(c, m, d)"""
        return self.h(self.reference.unit(classes)).view(len(classes), self.m, -1)

    def text(self, x: Tensor | None, classes: range) -> Prompts:
        return Prompts(self.v.unsqueeze(0), {self.block: self.class_prompts(classes)}, classes=classes)
