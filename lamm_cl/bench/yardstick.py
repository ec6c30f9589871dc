"""The yardstick of the benchmark: the same mathematics with the amount of work of the authors' released code.

Every image goes through the frozen tower in every step, all 77 text positions of every class through open_clip's own blocks,
LAMM's reference features again in every step, CoCoOp's images one by one, and nothing is kept between steps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamm_cl.learner.model import Learner
from lamm_cl.learner.shown import Images
from lamm_cl.learner.text import Frame, TextFeatures, mean_direction
from lamm_cl.towers import transformer
from lamm_cl.towers.clip import FrozenCLIP, Prompts, in_precision


def as_released(model: Learner) -> "AsReleased":
    """A model with the same parameters and the same outputs (to rounding) that works as the released code does.

    To be made before the model learns or is tested: what `model` keeps is not taken over.
    """
    texts, reference = (made and Plain(list(made.frames), made.labels, made.experiences)
                        for made in (model.texts, model.reference))  # fmt: skip
    return AsReleased(model.clip, model.experiences, context=model.context, labels=model.labels, head=model.head, texts=texts,
                      reference=reference, extra_loss=model.extra_loss, train_label_space=model.train_label_space)  # fmt: skip


class AsReleased(Learner):
    """Input: pixels only."""

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"pixels"}

    def image_features(self, x: Images, prompts: Prompts) -> tuple[Tensor, None, None]:
        return plain_image(self.clip, x.pixels, prompts), None, None

    @torch.no_grad()
    def frozen(self, x: Images) -> Tensor:
        return plain_image(self.clip, x.pixels, Prompts())


class Plain(TextFeatures):
    def encode(self, prompts: Prompts, classes: range) -> Tensor:
        prompts, labels = prompts.of(classes), self.labels(classes)
        if prompts.first is None or prompts.first.ndim == 3:
            return mean_direction([plain_text(frame, prompts, labels, classes) for frame in self.frames])
        (frame,) = self.frames
        return torch.stack([plain_text(frame, Prompts(first), labels, classes) for first in prompts.first])

    def keep(self, prompts: Prompts, classes: list[range]) -> None:
        """Nothing is kept."""


def plain_text(frame: Frame, prompts: Prompts, labels: Tensor | None, classes: range) -> Tensor:
    """Unit text features (c, D)."""
    return frame.read(plain_tokens(frame.clip, frame.whole(prompts.first, labels, classes), prompts.deep), classes)


@in_precision
def plain_tokens(frozen: FrozenCLIP, prompts: Tensor, deep: list[Tensor]) -> Tensor:
    """Prompts (c, 77, d) -> the last block's output at all positions (c, 77, d)."""
    model = frozen.model
    return plain_blocks(model.transformer.resblocks, prompts + model.positional_embedding, deep, 1, model.attn_mask)


@in_precision
def plain_image(frozen: FrozenCLIP, images: Tensor, prompts: Prompts) -> Tensor:
    """Unit image features (B, D)."""
    if not frozen.is_vit:
        return frozen.image(images, prompts)
    v = frozen.model.visual
    assert not prompts.keys_values and prompts.read is None  # of no released code in here
    x, start = frozen.patches(images, prompts.first, prompts.at)
    x = plain_blocks(v.transformer.resblocks, x, prompts.deep, start, None)
    return F.normalize((v.ln_post(x[:, 0]) @ v.proj).float(), dim=-1)


def plain_blocks(blocks: nn.ModuleList, x: Tensor, deep: list[Tensor], start: int, mask: Tensor | None) -> Tensor:
    """open_clip's own blocks, one after another."""
    for i, block in enumerate(blocks):
        x = block(transformer.enter(i, x, deep, start), attn_mask=mask)
    return x
