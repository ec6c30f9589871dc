"""Where a training step gets its images from: pixels, or the features of the frozen image tower, computed once.

The bank keeps features on disk, one array (N, D) a file, memory-mapped, under a key made of everything that decides its content:
weights, precision, preprocessing, data set, split, samples and, for augmented training images, seed and epoch.  Augmentation is a
pure function of (seed, epoch, sample), so all methods and label spaces of a seed share it.  Features are always computed in the
same batches, so a rebuilt entry has the same bytes.
"""

from . import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import hashlib
import io
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomHorizontalFlip, RandomResizedCrop

from .clip import FrozenCLIP
from .data.dataset import Split
from .data.images import open_image
from .files import write_atomic

BATCH = 64  # images a forward pass of the frozen tower; part of the key, since it decides the last bits
IN_MEMORY = 2**29  # bytes of preprocessed images that are kept instead of being decoded again


@dataclass(frozen=True)
class Augmentation:
    """The papers' training transform: random resized crop (scale 0.08-1, bicubic), then a horizontal flip."""

    seed: int

    def __call__(self, image, size: int, epoch: int, sample: int):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "augmentation", epoch, sample))
            image = RandomResizedCrop(size, (0.08, 1.0), interpolation=InterpolationMode.BICUBIC)(image)
            return RandomHorizontalFlip()(image)


def derive(seed: int, *purpose: object) -> int:
    """An independent seed for each purpose, so that a draw for one never shifts another."""
    return int.from_bytes(hashlib.sha256(repr((seed, *purpose)).encode()).digest()[:7], "big")


class Pixels:
    """Preprocessed images (B, 3, H, W) of a split."""

    def __init__(self, split: Split, clip: FrozenCLIP, augmentation: Augmentation | None = None):
        self.split, self.clip, self.augmentation = split, clip, augmentation
        self.kept: dict[int, Tensor] = {}
        self.room = 0 if augmentation else IN_MEMORY

    def batch(self, ids: Tensor, epoch: int) -> Tensor:
        return torch.stack([self.one(i, epoch) for i in ids.tolist()]).to(self.clip.device)

    def one(self, i: int, epoch: int) -> Tensor:
        if i in self.kept:
            return self.kept[i]
        image = open_image(self.split.images[i])
        if self.augmentation:
            image = self.augmentation(image, self.clip.image_size, epoch, i)
        pixels = self.clip.preprocess(image)
        if (size := pixels.numel() * pixels.element_size()) <= self.room:
            self.room -= size
            self.kept[i] = pixels
        return pixels


class Features:
    """Unit image features (B, D) of samples of a split, from the bank."""

    def __init__(self, pixels: Pixels, ids: Tensor, facts: dict, bank: Path):
        self.pixels, self.bank, self.facts = pixels, bank, facts
        self.ids = ids.unique()  # sorted: the same samples give the same entry whatever their order
        self.loaded: dict[int, Tensor] = {}

    def batch(self, ids: Tensor, epoch: int) -> Tensor:
        return self.matrix(epoch)[torch.searchsorted(self.ids, ids)].to(self.pixels.clip.device)

    def matrix(self, epoch: int) -> Tensor:
        """(N, D) of all samples; without augmentation every epoch is the first."""
        epoch = epoch if self.pixels.augmentation else 0
        if epoch not in self.loaded:
            facts = self.facts | {"augmentation": self.pixels.augmentation and [self.pixels.augmentation.seed, epoch]}
            self.loaded = {epoch: entry(self.bank, facts, self.ids, partial(self.encode, epoch))}
        return self.loaded[epoch]

    @torch.no_grad()
    def encode(self, epoch: int) -> np.ndarray:
        clip = self.pixels.clip
        return torch.cat([clip.image(self.pixels.batch(ids, epoch)).cpu() for ids in self.ids.split(BATCH)]).numpy()


def entry(bank: Path, facts: dict, ids: Tensor, make) -> Tensor:
    """An entry of the bank, made if it is absent or damaged.  Two writers write the same bytes."""
    facts = facts | {"samples": hashlib.sha256(ids.numpy().tobytes()).hexdigest(), "batch": BATCH}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    path = bank / key[:2] / f"{key}.npy"
    if not intact(path):
        array = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, npy(array))
        write_atomic(path.with_suffix(".json"), json.dumps(facts | {"sha256": digest(path)}, sort_keys=True))
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def intact(path: Path) -> bool:
    """Whether an entry is whole: the checksum beside it is that of its bytes."""
    try:
        return json.loads(path.with_suffix(".json").read_text())["sha256"] == digest(path)
    except (FileNotFoundError, ValueError, KeyError):
        return False


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
