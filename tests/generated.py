"""CLIPs with generated weights, the same on every machine: a tiny one, and those of tests/fidelity/README.md."""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import copy
import json
import zlib
from functools import lru_cache

import numpy as np
import open_clip
import torch

from lamm_cl.towers.clip import FrozenCLIP, hash_of

TINY = {"embed_dim": 16, "image": 16, "patch": 8, "text_layers": 3, "text_width": 32, "vision_layers": 3, "vision_width": 24,
        "text_heads": 2, "vision_heads": 2, "context_length": 77, "vocab_size": 49408, "activation": "QuickGELU"}  # fmt: skip


def fill(name: str, shape, std: float, mean: float = 0.0, salt: str = "") -> torch.Tensor:
    draw = np.random.RandomState(zlib.crc32((salt + name).encode()))
    return torch.from_numpy(draw.standard_normal(tuple(shape)).astype(np.float32) * np.float32(std) + np.float32(mean))


def clip_tensor(name: str, shape, salt: str = "") -> torch.Tensor:
    """Every tensor of a CLIP state dict, by the rules of tests/fidelity/README.md."""
    last = name.split(".")[-1]
    std, mean = int(np.prod(shape[1:])) ** -0.5, 0.0
    if name == "logit_scale":
        return torch.tensor(4.60517)
    if last in ("bias", "in_proj_bias"):
        std = 0.02
    elif ".ln_" in "." + name:
        std, mean = 0.1, 1.0
    elif name == "token_embedding.weight":
        std = 0.05
    elif name == "positional_embedding":
        std = 0.02
    elif name in ("visual.class_embedding", "visual.positional_embedding"):
        std = 0.1
    elif name in ("visual.proj", "text_projection"):
        std = shape[0] ** -0.5
    elif last == "in_proj_weight":
        std = 1.5 * shape[1] ** -0.5
    return fill(name, shape, std, mean, salt)


LINEARS = "plain"  # pytest --linears packed


def images(seed: int, batch: int, size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((batch, 3, size, size)).astype(np.float32))


def open_clip_model(arch: dict, salt: str = "") -> open_clip.CLIP:
    """One of its own for every caller, who may change it."""
    return copy.deepcopy(_filled(json.dumps(arch), salt))


@lru_cache(maxsize=4)
def _filled(arch_as_json: str, salt: str) -> open_clip.CLIP:
    arch = json.loads(arch_as_json)
    image_tower = dict(image_size=arch["image"], patch_size=arch["patch"], width=arch["vision_width"],
                       layers=arch["vision_layers"],
                       head_width=arch["vision_width"] // arch["vision_heads"])  # fmt: skip
    text = dict(context_length=arch["context_length"], vocab_size=arch["vocab_size"], width=arch["text_width"],
                heads=arch["text_heads"], layers=arch["text_layers"])  # fmt: skip
    quick = {"QuickGELU": True, "GELU": False}[arch["activation"]]
    model = open_clip.CLIP(arch["embed_dim"], vision_cfg=image_tower, text_cfg=text, quick_gelu=quick)
    model.load_state_dict({name: clip_tensor(name, tuple(t.shape), salt) for name, t in model.state_dict().items()})
    return model


def frozen_clip(arch: dict, salt: str = "") -> FrozenCLIP:
    model = open_clip_model(arch, salt)
    preprocess = open_clip.image_transform(arch["image"], is_train=False)
    clip = FrozenCLIP(model, _tokenizer(arch["context_length"]), preprocess, hash_of(model.state_dict()))
    return clip.compute(linears=LINEARS)


@lru_cache
def _tokenizer(context_length: int) -> open_clip.SimpleTokenizer:
    """It reads its 49,000 words for a quarter of a second."""
    return open_clip.SimpleTokenizer(context_length=context_length)


@lru_cache
def tiny_clip() -> FrozenCLIP:
    return frozen_clip(TINY)
