"""Whether the linear layers of a CLIP's blocks are packed: where they can be, and are faster here and give the same.

    <cache>/linears/<key>.json     what decides it (machine, torch, towers, precision), the word, and what was measured

The first word written in a cache is the word for all who share it.  What a run has begun with it goes on with.
"""

import json
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from lamm_cl.errors import UserError
from lamm_cl.files import key_of, read_regular, write_atomic, write_new
from lamm_cl.towers.clip import LOWER, FrozenCLIP
from lamm_cl.towers.devices import machine
from lamm_cl.towers.linears import Plain, made

WAYS = ("plain", "packed")
NARROW = 256  # width below which time goes to calling operators: such towers are never packed by themselves
GAIN = 1.05  # that packing must bring
APART = {"fp32": 1e-4, "bf16": 5e-2}  # that results may be apart, of the largest value
TURNS = 5
SEQUENCES, LENGTH = 4, 64


@dataclass(frozen=True)
class Found:
    gain: float  # how many times faster packed layers are
    apart: float  # how far their results are from the others', of the largest value


def settled(clip: FrozenCLIP, wanted: str, cache: Path) -> str:
    """wanted: plain, packed or auto -> plain or packed.  Raises UserError for packed where that cannot be."""
    if wanted not in ("auto", *WAYS):
        raise UserError(f"linears: expected auto, plain or packed, got {wanted!r}")
    why = hindrance(clip)
    if wanted == "packed" and why:
        raise UserError(f"--linears packed: {why}; expected auto or plain")
    if wanted != "auto":
        return wanted
    return remembered(clip, cache) if is_candidate(clip) else "plain"


def is_candidate(clip: FrozenCLIP) -> bool:
    """Whether packing is worth a measurement."""
    return not hindrance(clip) and min(each.shape[1] for each in _weights(clip)) >= NARROW


def hindrance(clip: FrozenCLIP) -> str:
    """Why the layers cannot be packed; "" if they can."""
    if clip.device.type != "cpu":
        return f"it is for processors, not for {clip.device.type}"
    if clip.precision == "fp16":
        return "there is none for fp16"
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return "this torch has no oneDNN"
    if clip.precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this processor has no bf16"
    return ""


def remembered(clip: FrozenCLIP, cache: Path) -> str:
    """The word of the cache, or what is measured now."""
    towers = Counter(str(each.shape[1]) for each in _weights(clip))  # width -> blocks
    facts = {"machine": machine("cpu"), "torch": torch.__version__, "towers": towers, "activation": clip.activation,
             "precision": clip.precision}  # fmt: skip
    path = cache / "linears" / f"{key_of(facts)}.json"
    if (word := _word(path)) is None:
        write = write_atomic if path.exists() else write_new  # what is damaged has no word
        try:
            found = measured(clip)
        except RuntimeError:  # oneDNN has no such layers for this processor
            found = Found(0.0, 0.0)
        word = WAYS[found.gain >= GAIN and found.apart <= APART[clip.precision]]
        with suppress(OSError):  # another was first, or nothing can be kept there
            write(path, json.dumps(facts | asdict(found) | {"linears": word}, indent=1) + "\n")
        word = _word(path) or word
    return word


def _weights(clip: FrozenCLIP) -> list[Tensor]:
    """Of queries, keys and values, (3 d, d) a block."""
    return [block.attn.in_proj_weight for block in clip.blocks]


def _word(path: Path) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        if (word := json.loads(read_regular(path, 10**5))["linears"]) in WAYS:
            return word
    return None


def measured(clip: FrozenCLIP) -> Found:
    """The linear layers of a block of each tower, there and back, in both ways in turns."""
    seconds, apart, lower = [0.0, 0.0], 0.0, LOWER.get(clip.precision)
    for block in (clip.blocks[0], clip.blocks[-1]):  # text and image
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(SEQUENCES, LENGTH, block.attn.in_proj_weight.shape[1], generator=draw).requires_grad_()
        ways: list[Plain] = [made(block, lower, packed) for packed in (False, True)]
        took: tuple[list[float], list[float]] = ([], [])
        with torch.enable_grad(), torch.autocast("cpu", lower or torch.bfloat16, enabled=lower is not None):
            plain, packed = (passed(way, x) for way in ways)  # which also packs
            for _ in range(TURNS):
                for way, each in zip(ways, took, strict=True):
                    begin = time.perf_counter()
                    passed(way, x)
                    each.append(time.perf_counter() - begin)
        apart = max(apart, *(float((b - a).abs().max() / a.abs().max()) for a, b in zip(plain, packed, strict=True)))
        seconds = [total + min(each) for total, each in zip(seconds, took, strict=True)]
    return Found(round(seconds[0] / seconds[1], 3), apart)


def passed(way: Plain, x: Tensor) -> list[Tensor]:
    """What comes out of all layers, and the gradient."""
    outs = [way.qkv(x), way.query(x), way.keys_values(x), way.out(x), way.mlp(x)]
    (gradient,) = torch.autograd.grad([out.float().square().sum() for out in outs], x)
    return [*(out.detach().float() for out in outs), gradient]
