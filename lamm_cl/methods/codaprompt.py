"""CODA-Prompt (Smith et al., CVPR 2023): prompts that are sums of components, weighted by attention to the image.

p(x) = sum_m alpha_m P_m,  alpha_m = cos(q(x) * A_m, K_m)       first half of p(x) before a block's keys, second before its values

q(x): the feature of the frozen tower;  for every block P (pool, length, w), K and A (pool, D): pool / experiences components for
each experience, which alone are learned in it; alpha is no softmax.  At the start of an experience its components are drawn by
Gram and Schmidt: a normal draw v less (v.u / u.u) u for every u before it, in the end divided by its norm; the u of earlier
experiences as they were trained, P over length and width together.  Components of the future are zero and unused.  A linear head
(linear.py) reads the class token.

The penalty on components that are not orthogonal has weight 0 in every released script since they start by Gram and Schmidt.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamm_cl.errors import UserError
from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import ContextLearner, Few, Loss, Weight
from lamm_cl.learner.shown import Experience, Images
from lamm_cl.methods.dualprompt import Blocks, inside
from lamm_cl.towers.clip import FrozenCLIP, Prompts


class CODA(ContextLearner):
    prompts_images = True
    needs = frozenset({"pixels", "raw"})

    def __init__(self, clip: FrozenCLIP, *, experiences: list[range], pool: Few, length: Few, blocks: Blocks):
        super().__init__()
        inside(clip, blocks=blocks)
        if length % 2:
            raise UserError(f"context: length: {length}, but half of it goes to keys and half to values")
        self.each = pool // len(experiences)
        if not self.each:
            raise UserError(f"context: pool: {pool} components for {len(experiences)} experiences: expected one for each")
        self.blocks = blocks
        shapes = {"P": (pool, length, clip.w), "K": (pool, clip.D), "A": (pool, clip.D)}
        for name, shape in shapes.items():
            setattr(self, name, nn.ParameterList(nn.Parameter(torch.zeros(shape)) for _ in blocks))
        self.past = self.drawn = 0  # components of experiences before, and of those so far

    @torch.no_grad()
    def begin(self, e: Experience) -> None:
        self.past, self.drawn = e.number * self.each, (e.number + 1) * self.each
        for name in "PKA":
            for i, components in zip(self.blocks, getattr(self, name)):
                u = components.flatten(1)
                for m in range(self.past, self.drawn):
                    v = self.draw(e, name, i, m, u.shape[1]).to(u)
                    u[m] = v - ((u[:m] @ v) / u[:m].square().sum(dim=1)) @ u[:m]
                mine = u[self.past : self.drawn]
                mine /= mine.norm(dim=1, keepdim=True)

    def draw(self, e: Experience, name: str, block: int, m: int, n: int) -> Tensor:
        """The normal draw (n,) that component m starts from."""
        return torch.randn(n)

    def components(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of every block P, K, A of all experiences so far; no gradient reaches those of earlier ones."""
        for parts in zip(self.P, self.K, self.A):
            yield tuple(torch.cat([each[: self.past].detach(), each[self.past : self.drawn]]) for each in parts)

    def image(self, x: Images) -> Prompts:
        found = {}
        for i, (P, K, A) in zip(self.blocks, self.components()):
            alpha = (F.normalize(x.raw.unsqueeze(1) * A, dim=-1) * F.normalize(K, dim=-1)).sum(dim=-1)  # (B, m)
            found[i] = torch.einsum("bm,mlw->blw", alpha, P).chunk(2, dim=1)
        return Prompts(keys_values=found)


class Orthogonal(Loss):
    """The sum over blocks and P, K, A of the mean of (X X^T - I)^2."""

    def __init__(self, *, weight: Weight):
        super().__init__()
        self.weights = {"orthogonal": weight}

    def forward(self, model, out: Output, targets: Tensor) -> dict[str, Tensor]:
        every = [part.flatten(1) for parts in model.context.components() for part in parts]
        return {"orthogonal": sum((X @ X.T - torch.eye(len(X)).to(X)).square().mean() for X in every)}
