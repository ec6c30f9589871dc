"""What a sweep costs: images and prompts counted from its runs, and a speed measured here on random weights."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from . import backbones
from .clip import FrozenCLIP
from .config import Card
from .sweep import Run

BACKWARD = 2  # a backward pass costs two forward passes
SUFFIX = 12  # tokens of a prompt behind the part that all prompts share
SECONDS = 3  # for each of the two measurements


@dataclass(frozen=True)
class Sizes:
    classes: int
    train: int
    test: int


@dataclass(frozen=True)
class Work:
    """Passes: `encoded` images for the feature bank, `prompted` images (a backward pass counts as two), trained prompts."""

    encoded: int
    prompted: int
    prompts: int

    def seconds(self, speed: "Speed") -> tuple[float, float, float]:
        return self.encoded / speed.images, self.prompted / speed.images, self.prompts / speed.prompts


@dataclass(frozen=True)
class Speed:
    """A second: images through the image tower, prompts through the text tower and back; D: the width of a feature."""

    images: float
    prompts: float
    D: int


def work(runs: Iterable[Run], sizes: dict[str, Sizes], context_of: Callable[[Card], type]) -> Work:
    """Of all the runs; context_of: the class of a card's context, which says what it needs.

    Runs of a dataset share the features of its test images, those of a seed also its training's.
    """
    bank: dict[tuple, int] = {}
    prompted = prompts = 0
    for run in runs:
        size, training = sizes[run.dataset], run.card.training
        n = size.train if run.shots == "full" else min(size.train, run.shots * size.classes)
        counts = classes_of(run.scenario.experiences, size.classes)
        epochs = training.epochs if training else 0
        context = context_of(run.card)
        if context.prompts_images:
            prompted += n * epochs * (1 + BACKWARD) + size.test * (len(counts) + 1)
        else:
            augmented = training is not None and training.augmentation != "none"
            bank[run.dataset, "test"] = size.test
            if training:
                draws = epochs if augmented else 1
                bank[run.dataset, run.shots, run.seed, augmented] = max(
                    n * draws, bank.get((run.dataset, run.shots, run.seed, augmented), 0)
                )
        if training:
            seen = run.scenario.train_label_space == "seen"
            for i, c in enumerate(counts):
                steps = epochs * math.ceil(n * c / size.classes / training.batch)
                in_play = sum(counts[: i + 1]) if seen else c
                prompts += steps * in_play * (training.batch if context.reads_images else 1)
    return Work(sum(bank.values()), prompted, prompts)


def classes_of(experiences: str | int | tuple[int, ...], classes: int) -> list[int]:
    if isinstance(experiences, tuple):
        return list(experiences)
    T = 2 if experiences == "halves" else experiences
    return [classes // T + (i < classes % T) for i in range(T)]


def speed(architecture: str, precision: str, device: str) -> Speed:
    """Measured in some seconds, with one thread, as in a run."""
    torch.set_num_threads(1)
    clip = backbones.with_random_weights(architecture).to(device)
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
