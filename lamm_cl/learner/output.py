"""What comes out of a step."""

from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from lamm_cl.learner.shown import Images
from lamm_cl.towers.clip import Prompts


@dataclass
class Output:
    """Everything a head or a loss may look at.  classes: the c classes in play."""

    x: Images  # what the step brought
    image: Tensor | None  # (B, D) unit features, prompted where the method prompts the tower
    text: Tensor | None  # (c, D), or (B, c, D) if the context depends on the image; None where the head reads no text
    prompts: Prompts  # of the text tower
    classes: range
    scale: Tensor  # by which CLIP multiplies cosines
    tokens: Tensor | None = None  # (c, L, d), the last tokens of the text tower, for losses that read them
    image_prompts: Prompts = field(default_factory=Prompts)
    raw: Tensor | None = None  # (B, D) image features before they were normalised
    trunk: Tensor | None = None  # (B, w) before the projection
    logits: Tensor = field(init=False)  # (B, c), from the head
    text_raw: Tensor | None = None  # (c, D) text features before they were normalised, for heads that need them
    text_each: Tensor | None = None  # (K, c, D) the same under each of K templates

    def of(self, rows: Tensor) -> "Output":
        """The same for some of its images, rows (B,) true or false; prompts stay those of all."""
        x = replace(self.x, **{name: tensor[rows] for name, tensor in self.x.parts().items()})
        image, raw, trunk = (None if each is None else each[rows] for each in (self.image, self.raw, self.trunk))
        text = self.text if self.text is None or self.text.ndim == 2 else self.text[rows]
        found = replace(self, x=x, image=image, raw=raw, trunk=trunk, text=text)
        found.logits = self.logits[rows]
        return found

    @cached_property
    def similarity(self) -> Tensor:
        """Cosines (B, c)."""
        assert self.image is not None and self.text is not None
        return self.image @ self.text.mT if self.text.ndim == 2 else (self.text @ self.image.unsqueeze(-1)).squeeze(-1)
