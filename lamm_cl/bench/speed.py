"""How fast images are encoded and prompts are learned here, measured in some seconds on random weights, and kept in the cache.

    <cache>/speeds/<key>.json      what decides a speed (machine, architecture, precision, torch), the speed, and its date
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path

import torch

from lamm_cl.files import key_of, read_regular, write_atomic
from lamm_cl.sweeping.estimate import Speed
from lamm_cl.towers.backbones import with_random_weights
from lamm_cl.towers.clip import FrozenCLIP
from lamm_cl.towers.devices import machine

SUFFIX = 12  # tokens of a prompt behind the part that all prompts share
SECONDS = 0.5  # for each of the two measurements, and at least one step
DAYS = 30  # that a measured speed is believed


def known(cache: Path, architecture: str, precision: str, device: str) -> tuple[Speed, date]:
    """The speed of this machine, and the day it was measured: kept in the cache, measured now if it is not there or old."""
    facts = {"machine": machine(device), "architecture": architecture, "precision": precision, "torch": torch.__version__}
    path, today = cache / "speeds" / f"{key_of(facts)}.json", datetime.now(UTC).date()
    with suppress(OSError, ValueError, KeyError, TypeError):  # absent, or no such file
        kept = json.loads(read_regular(path, 10**4))
        measured, when = Speed(**kept["speed"]), date.fromisoformat(kept["date"])
        if 0 <= (today - when).days < DAYS and min(measured.images, measured.prompts, measured.D) > 0:
            return measured, when
    measured = speed(architecture, precision, device)
    with suppress(OSError):  # it is measured again next time
        write_atomic(path, json.dumps(facts | {"speed": asdict(measured), "date": today.isoformat()}, indent=1) + "\n")
    return measured, today


def speed(architecture: str, precision: str, device: str) -> Speed:
    """Measured in some seconds, with one thread, as in a run."""
    torch.set_num_threads(1)
    clip = with_random_weights(architecture).to(device).compute(precision)
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
