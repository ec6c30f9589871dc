"""The frozen CLIP: two towers that accept prompts.  This file and backbones.py, which finds the weights, import open_clip.

Letters used everywhere: B images, C classes, c classes in play, n context tokens, k label tokens, L text length (77),
d text width, w image width, D joint width.
"""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import hashlib
from dataclasses import dataclass, field
from functools import wraps

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from lamm_cl.errors import UserError
from lamm_cl.towers import transformer

LOWER = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Prompts:
    """What a context learner hands to a tower: vectors for its input, and fresh ones for its blocks 1, 2, ..."""

    first: Tensor | None = None  # text: (1, n, d), (C, n, d) per class, (B, 1, n, d) per image;  image: (n, w)
    deep: list[Tensor] = field(default_factory=list)  # each (n, d) or (n, w)
    classes: range | None = None  # of contexts that belong to classes: whose they are

    def of(self, classes: range) -> "Prompts":
        """The part for some of the classes."""
        if self.classes is None:
            return self
        at = slice(classes.start - self.classes.start, classes.stop - self.classes.start)
        return Prompts(self.first[at], self.deep, classes)


NOTHING = Prompts()


def in_precision(step):
    """A step of a tower, computed in the tower's precision."""

    @wraps(step)
    def computed(self: "FrozenCLIP", *arguments, **options):
        with torch.autocast(self.device.type, LOWER.get(self.precision), enabled=self.precision in LOWER):
            return step(self, *arguments, **options)

    return computed


class FrozenCLIP:
    """A CLIP whose weights never change.  Not a module: it is neither trained, nor counted, nor saved with a method."""

    def __init__(self, model: open_clip.CLIP, tokenizer, preprocess=None, weights_hash: str = ""):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.preprocess = preprocess  # a Pillow image -> (3, H, W)
        self.preprocess_facts = getattr(model.visual, "preprocess_cfg", {})
        self.weights_hash = weights_hash  # sha256 over the names and bytes of all weights
        self.d = model.token_embedding.embedding_dim
        self.D = model.text_projection.shape[1]
        self.length = model.positional_embedding.shape[0]
        self.depth = len(model.transformer.resblocks)
        self.is_vit = hasattr(model.visual, "transformer")
        self.activation = ""  # QuickGELU or GELU: weights alone do not tell
        self.precision = "fp32"  # in which the towers compute; features leave them as float32
        self.stored = "fp32"  # in which the feature bank keeps them
        self.checkpoint = False  # blocks keep no activations for the backward pass: less memory, the same values

    @property
    def w(self) -> int:
        """Width of the image tower; only a vision transformer can be prompted."""
        if not self.is_vit:
            raise UserError("this method prompts the image tower: it needs a vision transformer (ViT), not a ResNet")
        return self.model.visual.class_embedding.shape[0]

    @property
    def image_size(self) -> int:
        size = self.model.visual.image_size
        return size if isinstance(size, int) else size[0]

    @property
    def device(self) -> torch.device:
        return self.model.positional_embedding.device

    def to(self, device: str) -> "FrozenCLIP":
        self.model.to(device)
        return self

    @property
    def scale(self) -> Tensor:
        return self.model.logit_scale.exp()

    # --- text ---------------------------------------------------------------------------------------------------------

    def tokenize(self, texts: list[str]) -> Tensor:
        """-> token ids (N, L).  Raises UserError for a text that does not fit, instead of cutting it in silence."""
        for text in texts:
            if (count := len(self.words(text)) + 2) > self.length:
                raise UserError(f"{text[:60]!r}...: {count} tokens, but the text tower takes {self.length}")
        return self.tokenizer(texts).to(self.device)

    def words(self, text: str) -> list[int]:
        """The token ids of a text, without start and end of text."""
        return self.tokenizer.encode(text)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (N, L) -> input vectors of the text tower (N, L, d), without positions."""
        return self.model.token_embedding(tokens)

    @in_precision
    def prefix(self, vectors: Tensor, deep: list[Tensor] = ()) -> transformer.Prefix:
        """The part all prompts share, (N, P, d) -> its keys and values.  `deep[i]` (n, d) takes positions 1..n of block i+1."""
        x = vectors + self.model.positional_embedding[: vectors.shape[1]]
        return transformer.run_prefix(self.model.transformer.resblocks, x, list(deep), start=1)

    @in_precision
    def text(self, prefix: transformer.Prefix, suffix: Tensor, eot: Tensor) -> Tensor:
        """Behind the prefix: suffix (N, S, d), EOT at position `eot` (N,) of the whole prompt -> unit features (N, D)."""
        P = prefix.length
        x = suffix + self.model.positional_embedding[P : P + suffix.shape[1]]
        return self.read(transformer.run_suffix(self.model.transformer.resblocks, x, prefix, eot - P))

    @in_precision
    def tokens(self, prompts: Tensor, deep: list[Tensor] = ()) -> Tensor:
        """The plain tower: prompts (N, L, d) -> the last block's output at every position (N, L, d)."""
        x = prompts + self.model.positional_embedding[: prompts.shape[1]]
        return transformer.run(self.model.transformer.resblocks, x, list(deep), start=1, causal=True, checkpoint=self.checkpoint)

    @in_precision
    def read(self, x: Tensor) -> Tensor:
        """The last block's output at EOT (..., d) -> unit features (..., D)."""
        return F.normalize((self.model.ln_final(x) @ self.model.text_projection).float(), dim=-1)

    # --- images -------------------------------------------------------------------------------------------------------

    @in_precision
    def image(self, images: Tensor, prompts: Prompts = NOTHING) -> Tensor:
        """Images (B, 3, H, W) -> unit features (B, D).

        The first prompts are appended behind the patches, after their positions and before `ln_pre`; deep ones replace
        those last n positions at the input of block i+1 (MaPLe's release, clip/model.py).
        """
        v = self.model.visual
        if not self.is_vit:
            assert prompts.first is None
            return F.normalize(v(images).float(), dim=-1)
        x, end = self.patches(images, prompts.first)
        x = transformer.run_to_first(v.transformer.resblocks, x, prompts.deep, start=end, checkpoint=self.checkpoint)
        return F.normalize((v.ln_post(x) @ v.proj).float(), dim=-1)

    def patches(self, images: Tensor, prompts: Tensor | None) -> tuple[Tensor, int]:
        """Images and the prompts (n, w) behind them -> the first block's input (B, L, w), and where its prompts begin."""
        v = self.model.visual
        x = v.conv1(images).flatten(2).transpose(1, 2)  # (B, patches, w)
        x = torch.cat([v.class_embedding.expand(len(x), 1, -1), x], dim=1) + v.positional_embedding
        end = x.shape[1]
        if prompts is not None:
            x = torch.cat([x, prompts.expand(len(x), -1, -1)], dim=1)
        return v.ln_pre(x), end


def hash_of(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def imagenet_templates() -> list[str]:
    """CLIP's 80 prompt templates for ImageNet (Radford et al. 2021, as shipped with open_clip)."""
    return [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
