"""COMMA (Hu et al., AAAI 2024): image prompts of a block are correlated with both branches of the block before, and the
last token features of the text tower are kept near those of a hand-written prompt.

V_0 = project(P_0);  V_{i+1} = mlp(ln(softmax(V_i T_i^t / sqrt(w)) T_i)),  T_i = fc(P_i);  loss: CE + weight * score
score = mean_{c,l} (1 - cos(h_cl, h*_cl)): h of the learned prompt, h* of the data set's template.

`COMMA` is the paper: the correlation network is trained.  `Released` is what the release runs: the deep image
prompts are written through `.data` (trainers/comma.py 251, 253), so the network stays as initialised and no gradient flows
back through them.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamm_cl.learner.pieces import DeepContext, Few, Loss, Weight
from lamm_cl.learner.prompts import filled
from lamm_cl.learner.shown import Images
from lamm_cl.towers.clip import FrozenCLIP, Prompts


class Correlate(nn.Module):
    """(V (n, w), P (n, d)) -> (n, w): the image prompts of the next block."""

    def __init__(self, d: int, w: int, squeeze: int = 4):
        super().__init__()
        self.fc, self.ln = nn.Linear(d, w), nn.LayerNorm(w)
        self.mlp = nn.Sequential(nn.Linear(w, w // squeeze), nn.ReLU(), nn.Linear(w // squeeze, w))

    def forward(self, V: Tensor, P: Tensor) -> Tensor:
        T = self.fc(P)
        return self.mlp(self.ln(F.softmax(V @ T.T / T.shape[-1] ** 0.5, dim=-1) @ T))


class COMMA(DeepContext):
    """depth: the input and the blocks 1 .. depth-1."""

    def __init__(self, clip: FrozenCLIP, *, n: Few, init: str | None, depth: Few):
        super().__init__(clip, n=n, init=init, depth=depth)
        self.project = nn.Linear(clip.d, clip.w)
        self.correlate = nn.ModuleList(Correlate(clip.d, clip.w) for _ in range(depth - 1))

    def image(self, x: Images) -> Prompts:
        first = self.project(self.P[0])
        return Prompts(first, self.deep(first))

    def deep(self, V: Tensor) -> list[Tensor]:
        rows = []
        for correlate, P in zip(self.correlate, self.P):
            V = correlate(V, P)
            rows.append(V)
        return rows


class Released(COMMA):
    def __init__(self, clip: FrozenCLIP, *, n: Few, init: str | None, depth: Few):
        super().__init__(clip, n=n, init=init, depth=depth)
        self.correlate.requires_grad_(False)

    @torch.no_grad()
    def deep(self, V: Tensor) -> list[Tensor]:
        return super().deep(V)


class Score(Loss):
    """The two texts are compared position by position, even where their lengths differ (release, trainers/comma.py 279-290).

    positions: "all" 77, start of text and padding too, as released; "text": those up to the end of both texts (the paper names
    the prompts' features, not padding).
    instead: the templates of data sets for which the release's list differs from CoOp's.
    """

    needs = frozenset({"tokens"})

    def __init__(self, clip: FrozenCLIP, *, names: list[str], template: str, dataset: str, weight: Weight,
                 positions: Literal["all", "text"] = "all", instead: dict[str, str] | None = None):  # fmt: skip
        super().__init__()
        self.positions = positions
        if positions == "text":
            self.needs = frozenset({"text_tokens"})
        self.clip, self.weights = clip, {"score": weight}
        template = (instead or {}).get(dataset, template)
        self.prompts = clip.tokenize(filled(template, names))
        self.kept: dict[range, Tensor] = {}

    def forward(self, model, out, targets: Tensor) -> dict[str, Tensor]:
        if out.classes not in self.kept:
            ids = self.prompts[out.classes.start : out.classes.stop]
            with torch.no_grad():
                self.kept = {out.classes: self.clip.tokens(self.clip.embed(ids))}  # (c, L, d)
        theirs = self.kept[out.classes][:, : out.tokens.shape[1]]
        distance = 1 - F.cosine_similarity(out.tokens, theirs, dim=-1)  # (c, L)
        if self.positions == "all":
            return {"score": distance.mean()}
        (frame,) = model.texts.frames
        ours = frame.end[out.classes.start : out.classes.stop]
        end = torch.minimum(ours, self.prompts[out.classes.start : out.classes.stop].argmax(dim=-1))
        counted = torch.arange(distance.shape[1], device=distance.device) <= end.unsqueeze(1)
        return {"score": distance[counted].mean()}
