"""How fast images are encoded and prompts are learned here, measured in some seconds on random weights."""

import time
from collections.abc import Callable

import torch

from lamm_cl.sweeping.estimate import Speed
from lamm_cl.towers.backbones import with_random_weights
from lamm_cl.towers.clip import FrozenCLIP

SUFFIX = 12  # tokens of a prompt behind the part that all prompts share
SECONDS = 3  # for each of the two measurements


def speed(architecture: str, precision: str, device: str) -> Speed:
    """Measured in some seconds, with one thread, as in a run."""
    torch.set_num_threads(1)
    clip = with_random_weights(architecture).to(device)
    clip.precision = precision
    B = 64 if clip.device.type == "cuda" else 4
    images = torch.randn(B, 3, clip.image_size, clip.image_size, device=clip.device)
    suffix = torch.randn(B, SUFFIX, clip.d, device=clip.device, requires_grad=True)
    return Speed(B / once(lambda: encode(clip, images), device), B / once(lambda: train(clip, suffix), device), clip.D)


@torch.no_grad()
def encode(clip: FrozenCLIP, images: torch.Tensor) -> None:
    clip.image(images)


def train(clip: FrozenCLIP, suffix: torch.Tensor) -> None:
    start = clip.embed(clip.tokenize(["a photo of a"]))[:, :5]
    eot = torch.full((len(suffix),), 4 + SUFFIX, device=clip.device)
    clip.text(clip.prefix(start), suffix, eot).sum().backward()


def once(step: Callable[[], None], device: str) -> float:
    """Seconds of one step, the mean of as many as fit."""
    step()
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < SECONDS:
        step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        done += 1
    return (time.perf_counter() - begin) / done
