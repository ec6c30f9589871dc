"""The frozen CLIP: two towers that accept prompts.  This file and backbones.py, which finds the weights, import open_clip.

Letters used everywhere: B images, C classes, c classes in play, n context tokens, k label tokens, L text length (77),
d text width, w image width, D joint width.
"""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from functools import wraps
from itertools import repeat

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from lamm_cl.errors import UserError
from lamm_cl.towers import transformer
from lamm_cl.towers.additions import Additions, AtBlock, of_blocks
from lamm_cl.towers.devices import free_memory
from lamm_cl.towers.linears import Block, made
from lamm_cl.towers.transformer import NONE, Deep, KeysValues

AT_ONCE = {"plain": 64, "packed": 4}  # images a pass of a processor, where nothing learns: more fall out of its cache
KEPT = 22  # times its input, what a block keeps for its backward pass: measured at ViT-B/16, QuickGELU, fp32
LOWER = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Prompts:
    """What a context learner hands to a tower: vectors for its input, fresh ones for its blocks, keys and values for them."""

    # text: (1, n, d), (C, n, d) per class, (B, 1, n, d) per image;  image: (n, w), (B, n, w) per image
    first: Tensor | None = None
    # in place of the first ones at the input of blocks: a list for the blocks 1, 2, ..., a dict for those it names
    deep: Deep = field(default_factory=list)  # each (m, d), (C, m, d) per class;  image: (m, w), (B, m, w) per image
    classes: range | None = None  # of contexts that belong to classes: whose they are
    # in front of a block's own, neither normed nor projected, their width that of all heads side by side
    keys_values: KeysValues = field(default_factory=dict)  # block -> two of (1, p, d);  image: (1, p, w), (B, p, w) per image
    at: int | None = None  # image: where the first stand, 1 between the class token and the patches; None behind the patches
    read: range | None = None  # image: of which first prompts the mean is the feature; None the class token
    notes: Mapping[str, Tensor] = field(default_factory=dict)  # how they came about, for losses: no tower reads them

    def of(self, classes: range) -> "Prompts":
        """The part for some of the classes."""
        if self.classes is None:
            return self
        at, C = slice(classes.start - self.classes.start, classes.stop - self.classes.start), len(self.classes)

        def part(vectors: Tensor) -> Tensor:
            return vectors[at] if vectors.ndim == 3 and len(vectors) == C else vectors

        deep: Deep
        if isinstance(self.deep, Mapping):
            deep = {i: part(vectors) for i, vectors in self.deep.items()}
        else:
            deep = [part(vectors) for vectors in self.deep]
        return replace(self, first=None if self.first is None else part(self.first), deep=deep, classes=classes)

    def of_images(self, n: int) -> Iterator["Prompts"]:
        """Of the image tower: the parts for n images after another."""

        def parts(vectors: Tensor) -> Iterator[Tensor]:
            return iter(vectors.split(n)) if vectors.ndim == 3 and len(vectors) > 1 else repeat(vectors)

        by_name, blocks = isinstance(self.deep, Mapping), self.deep if isinstance(self.deep, Mapping) else enumerate(self.deep)
        first: Iterator[Tensor | None] = repeat(None) if self.first is None else parts(self.first)
        deep = {i: parts(vectors) for i, vectors in dict(blocks).items()}
        pairs = {i: (parts(k), parts(v)) for i, (k, v) in self.keys_values.items()}
        while True:
            fresh = {i: next(each) for i, each in deep.items()}
            kv = {i: (next(k), next(v)) for i, (k, v) in pairs.items()}
            yield replace(self, first=next(first), deep=fresh if by_name else list(fresh.values()), keys_values=kv)


NOTHING = Prompts()


@dataclass(frozen=True)
class ImageFeatures:
    """What one pass through the image tower gives, all of it float32."""

    unit: Tensor  # (B, D)
    raw: Tensor  # (B, D), not normalised
    before: Tensor | None  # (B, w) before the projection, where the tower has one

    @staticmethod
    def joined(parts: Sequence["ImageFeatures"]) -> "ImageFeatures":
        before = [part.before for part in parts if part.before is not None]
        unit, raw = torch.cat([part.unit for part in parts]), torch.cat([part.raw for part in parts])
        return ImageFeatures(unit, raw, torch.cat(before) if before else None)

    @property
    def trunk(self) -> Tensor:
        """(B, w): normed by the tower's last layer, before its projection to D."""
        if self.before is None:
            raise UserError("this method reads image features before their projection: it needs a ViT, not a ResNet")
        return self.before


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
        self.linears = "plain"  # or "packed": how the blocks' linear layers are computed (towers/linears.py)
        self.stored = "fp32"  # in which the feature bank keeps them
        self.checkpoint = False  # blocks keep no activations for the backward pass: less memory, the same values
        self.compute()

    def compute(self, precision: str = "fp32", linears: str = "plain") -> "FrozenCLIP":
        """How the towers compute from here on.  Packed layers are made for the device on which the model lies now."""
        self.precision, self.linears = precision, linears
        for block in self.blocks:
            block.linears = made(block, LOWER.get(precision), packed=linears == "packed")
        return self

    @property
    def blocks(self) -> list[Block]:
        """Of both towers; a ResNet has none."""
        return [*self.model.transformer.resblocks, *(self.model.visual.transformer.resblocks if self.is_vit else ())]

    def __deepcopy__(self, memo: dict) -> "FrozenCLIP":
        """Itself: it never changes, and a copied model shares it; unless it was unfrozen."""
        if not any(p.requires_grad for p in self.model.parameters()):
            return self
        mine = copy(self)
        mine.model = deepcopy(self.model, memo)
        return mine

    def unfrozen(self) -> "FrozenCLIP":
        """A copy with weights of its own that learn, all but the scale."""
        mine = copy(self)
        mine.model = deepcopy(self.model).requires_grad_(True)
        mine.model.logit_scale.requires_grad_(False)
        mine.linears = "plain"
        return mine

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
    def projection(self) -> Tensor:
        """(w, D): what a vision transformer's class token is projected by."""
        if not self.is_vit:
            raise UserError("this method reads the image tower's projection: it needs a vision transformer (ViT), not a ResNet")
        return self.model.visual.proj

    @property
    def device(self) -> torch.device:
        return self.model.positional_embedding.device

    def to(self, device: str) -> "FrozenCLIP":
        self.model.to(device)
        return self.compute(self.precision, self.linears)

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
    def prefix(self, vectors: Tensor, deep: Deep = (), keys_values: KeysValues = NONE,
               tower: Additions | None = None) -> transformer.Prefix:  # fmt: skip
        """The part all prompts share, (N, P, d) -> its keys and values, for `text`.

        Deep prompts take positions 1..m of their block: (m, d) or (N, m, d) belong to the prefixes; (C, m, d), one for each of
        the prompts given to `text`, end the shared part at that block.  keys_values: each (1 or N, p, d).
        """
        x = vectors + self.model.positional_embedding[: vectors.shape[1]]
        added = self.added("text", tower)
        return transformer.run_prefix(self.model.transformer.resblocks, x, deep, 1, keys_values, added)

    @in_precision
    def text(self, prefix: transformer.Prefix, suffix: Tensor, eot: Tensor, tower: Additions | None = None) -> Tensor:
        """Behind the prefix: suffix (N, S, d), EOT at position `eot` (N,) of the whole prompt -> unit features (N, D)."""
        return F.normalize(self.text_raw(prefix, suffix, eot, tower), dim=-1)

    @in_precision
    def text_raw(self, prefix: transformer.Prefix, suffix: Tensor, eot: Tensor, tower: Additions | None = None) -> Tensor:
        """As `text` -> features before they are normalised (N, D).  tower: the one that the prefix was made with."""
        P = prefix.length
        x = suffix + self.model.positional_embedding[P : P + suffix.shape[1]]
        added = self.added("text", tower)
        return self.read_raw(transformer.run_suffix(self.model.transformer.resblocks, x, prefix, eot - P, added))

    @in_precision
    def tokens(self, prompts: Tensor, deep: Deep = (), keys_values: KeysValues = NONE, tower: Additions | None = None) -> Tensor:
        """The plain tower: prompts (N, L, d) -> the last block's output at every position (N, L, d).

        Blocks keep no activations for the backward pass where these would take more than half of the free memory.
        """
        x = prompts + self.model.positional_embedding[: prompts.shape[1]]
        checkpoint = self.checkpoint or (torch.is_grad_enabled() and self.would_keep(x.numel()) > free_memory(self.device) / 2)
        return transformer.run(self.model.transformer.resblocks, x, deep, start=1, causal=True, checkpoint=checkpoint,
                               keys_values=keys_values, added=self.added("text", tower))  # fmt: skip

    def would_keep(self, numbers: int) -> int:
        """Bytes that the text tower keeps of an input of so many numbers for the backward pass, at most."""
        return 4 * numbers * self.depth * KEPT

    @in_precision
    def read(self, x: Tensor) -> Tensor:
        """The last block's output at EOT (..., d) -> unit features (..., D)."""
        return F.normalize(self.read_raw(x), dim=-1)

    @in_precision
    def read_raw(self, x: Tensor) -> Tensor:
        """The last block's output at EOT (..., d) -> features before they are normalised (..., D)."""
        return (self.model.ln_final(x) @ self.model.text_projection).float()

    # --- images -------------------------------------------------------------------------------------------------------

    def image(self, images: Tensor, prompts: Prompts = NOTHING, tower: Additions | None = None) -> Tensor:
        """Images (B, 3, H, W) -> unit features (B, D)."""
        return self.image_all(images, prompts, tower).unit

    @in_precision
    def image_all(self, images: Tensor, prompts: Prompts = NOTHING, tower: Additions | None = None) -> ImageFeatures:
        """Images (B, 3, H, W) -> their features, in one pass.

        The first prompts stand behind the patches or where they say (`at`), after the positions were added and before
        `ln_pre`, without positions of their own; deep ones replace them at the input of block i+1 (MaPLe's release,
        clip/model.py).  A ResNet takes no prompts and has no blocks to add to.
        """
        v, most = self.model.visual, AT_ONCE[self.linears]
        if len(images) > most and self.device.type == "cpu" and not torch.is_grad_enabled() and tower is None:  # which may draw
            parts = [self.image_all(x, p) for x, p in zip(images.split(most), prompts.of_images(most))]
            return ImageFeatures.joined(parts)
        if not self.is_vit:
            assert prompts.first is None and not prompts.deep and not prompts.keys_values
            raw = v(images).float()
            return ImageFeatures(F.normalize(raw, dim=-1), raw, None)
        x, start = self.patches(images, prompts.first, prompts.at)
        blocks, added = v.transformer.resblocks, self.added("image", tower)
        if prompts.read is None:
            x = transformer.run_to_first(blocks, x, prompts.deep, start, self.checkpoint, prompts.keys_values, added)
            x = v.ln_post(x)
        else:
            x = transformer.run(blocks, x, prompts.deep, start, False, self.checkpoint, prompts.keys_values, added)
            x = v.ln_post(x[:, start + prompts.read.start : start + prompts.read.stop]).mean(dim=1)
        raw = (x @ v.proj).float()
        return ImageFeatures(F.normalize(raw, dim=-1), raw, x.float())

    def patches(self, images: Tensor, prompts: Tensor | None, at: int | None = None) -> tuple[Tensor, int]:
        """Images and the prompts among them, (n, w) or (B, n, w) -> the first block's input (B, L, w), and where they begin."""
        v = self.model.visual
        x = v.conv1(images).flatten(2).transpose(1, 2)  # (B, patches, w)
        x = torch.cat([v.class_embedding.expand(len(x), 1, -1), x], dim=1) + v.positional_embedding
        start = x.shape[1] if at is None else at
        assert start >= 1  # position 0 is the class token's
        if prompts is not None:
            x = torch.cat([x[:, :start], prompts.expand(len(x), -1, -1), x[:, start:]], dim=1)
        return v.ln_pre(x), start

    # --- both ---------------------------------------------------------------------------------------------------------

    def shape(self, tower: str) -> tuple[int, int]:
        """How many blocks a tower ("image", "text") has, and their width: what additions are made for."""
        if tower == "text":
            return self.depth, self.d
        width = self.w  # a ResNet says here that it has no blocks
        return len(self.model.visual.transformer.resblocks), width

    def added(self, tower: str, additions: Additions | None) -> list[AtBlock]:
        """For each block of a tower what is added there."""
        return [] if additions is None else of_blocks(additions, tower, self.shape(tower)[0])


def hash_of(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def imagenet_templates() -> list[str]:
    """CLIP's 80 prompt templates for ImageNet (Radford et al. 2021, as shipped with open_clip)."""
    return [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
