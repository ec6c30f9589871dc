"""Where a training step gets its images from: pixels, or the features of the frozen image tower, computed once.

The bank (bank.py) keeps features on disk, one array (N, D) an entry, under a key made of everything that decides its content:
weights, precision, preprocessing, data set, split, samples and, for augmented training images, seed and epoch.  Augmentation is a
pure function of (seed, epoch, sample), so all methods and label spaces of a seed share it.  Features are always computed in the
same batches, so a rebuilt entry has the same bytes.
"""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import InterpolationMode, RandomHorizontalFlip, RandomResizedCrop

from lamm_cl.data.dataset import Split, in_memory
from lamm_cl.data.images import open_image
from lamm_cl.errors import UserError
from lamm_cl.seeds import derive
from lamm_cl.towers.clip import AT_ONCE, FrozenCLIP
from lamm_cl.towers.features import FeaturesOnly
from lamm_cl.training import bank

BATCH = 64  # images a pass; what a tower takes at once of it (towers/clip.py) is part of the key, since it decides the last bits
IN_MEMORY = 2**29  # bytes of preprocessed images that are kept instead of being decoded again
MANY = 256  # image files that are worth worker processes
AHEAD = 16  # decoded images that a worker keeps ready: ten megabytes at 224 x 224 pixels
CPUS = os.cpu_count() or 1
STORED = {"fp32": torch.float32, "fp16": torch.float16}  # fp16 halves the disk and rounds a feature by up to 2^-12 of its size


@dataclass(frozen=True)
class Augmentation:
    """The papers' training transform: random resized crop (`scale` of the area, bicubic), then a horizontal flip."""

    seed: int
    scale: tuple[float, float] = (0.08, 1.0)

    def __call__(self, image, size: int, epoch: int, sample: int):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "augmentation", epoch, sample))
            image = RandomResizedCrop(size, self.scale, interpolation=InterpolationMode.BICUBIC)(image)
            return RandomHorizontalFlip()(image)


@dataclass(frozen=True)
class Noise:
    """Normal noise on preprocessed pixels; clamp: cut off to [0, 1] behind it."""

    seed: int
    std: float
    clamp: bool = False

    def __call__(self, pixels: Tensor, epoch: int, sample: int) -> Tensor:
        draw = torch.Generator().manual_seed(derive(self.seed, "pixel noise", epoch, sample))
        return self.added(pixels, torch.randn(pixels.shape, generator=draw))

    def added(self, pixels: Tensor, z: Tensor) -> Tensor:
        found = pixels + self.std * z
        return found.clamp(0, 1) if self.clamp else found


def onto(device: torch.device, x: Tensor) -> Tensor:
    """x on a device; to a GPU from pinned memory, so that the host does not wait for the copy."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


@dataclass(frozen=True)
class Decoding(TorchDataset):
    """Preprocessed images (3, H, W), one by one: all that a worker process needs to know.

    An image that cannot be read comes as its UserError: raised in a worker it would arrive as a traceback.
    """

    images: Sequence
    preprocess: Callable
    size: int
    augmentation: Augmentation | None
    ids: list[int]
    epoch: int
    noise: Noise | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at: int) -> Tensor | UserError:
        i = self.ids[at]
        try:
            image = open_image(self.images[i])
        except UserError as error:
            return error
        if self.augmentation:
            image = self.augmentation(image, self.size, self.epoch, i)
        pixels = self.preprocess(image)
        return self.noise(pixels, self.epoch, i) if self.noise else pixels


class Pixels:
    """Preprocessed images (B, 3, H, W) of a split."""

    def __init__(self, split: Split, clip: FrozenCLIP, augmentation: Augmentation | None = None, noise: Noise | None = None):
        self.split, self.clip, self.augmentation, self.noise = split, clip, augmentation, noise
        self.kept: dict[int, Tensor] = {}
        self.room = 0 if self.varies else IN_MEMORY

    @property
    def varies(self) -> bool:
        """Whether every epoch has a view of its own."""
        return self.augmentation is not None or self.noise is not None

    @property
    def device(self) -> torch.device:
        return self.clip.device

    def batches(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """Batches of samples, in order.  Many files are decoded ahead by worker processes; what comes out is the same."""
        ids = [i for batch in batches for i in batch.tolist()]
        kept = [i in self.kept for i in ids]
        fresh = iter(self.decoded([i for i, known in zip(ids, kept) if not known], epoch))
        images = (self.kept[i] if known else self.keep(i, next(fresh)) for i, known in zip(ids, kept))
        for batch in batches:
            yield onto(self.device, torch.stack(list(islice(images, len(batch)))))

    def decoded(self, ids: list[int], epoch: int) -> Iterable[Tensor | UserError]:
        decoding = Decoding(self.split.images, self.clip.preprocess, self.clip.image_size, self.augmentation, ids, epoch,
                            self.noise)  # fmt: skip
        if len(ids) < MANY or in_memory(self.split.images):
            return (decoding[at] for at in range(len(ids)))
        workers = min(8, CPUS - 1) if self.clip.device.type == "cuda" else min(1, CPUS - 1)  # a CPU tower is the slow part
        ahead = {"prefetch_factor": AHEAD} if workers else {}
        # A generator of its own: a loader without one draws its seed from the global generator.
        return DataLoader(decoding, batch_size=None, num_workers=workers, generator=torch.Generator(), **ahead)

    def keep(self, i: int, pixels: Tensor | UserError) -> Tensor:
        if isinstance(pixels, UserError):
            raise pixels
        if (size := pixels.numel() * pixels.element_size()) <= self.room and i not in self.kept:
            self.room -= size
            self.kept[i] = pixels.clone()  # out of the memory shared with a worker
        return pixels


class Given:
    """Features that are data themselves: raw as stored, unit the same normalised.  There is nothing to augment, and no bank."""

    def __init__(self, split: Split, clip: FeaturesOnly, kinds: tuple[str, ...]):
        if "trunk" in kinds:
            raise clip.lacks("image features before their projection")
        self.kinds, self.device = kinds, clip.device
        self.stored = torch.from_numpy(split.images).to(self.device)

    def batches(self, batches: Sequence[Tensor], epoch: int, kind: str = "unit") -> Iterator[Tensor]:
        places = onto(self.device, torch.cat(list(batches)))
        for at in places.split([len(ids) for ids in batches]):
            raw = self.stored[at].float()
            yield raw if kind == "raw" else F.normalize(raw, dim=-1)

    def batch(self, ids: Tensor, epoch: int, kind: str = "unit") -> Tensor:
        return next(self.batches([ids], epoch, kind))


class Features:
    """Image features of samples of a split, from the bank; kinds: which of unit (B, D), raw (B, D) and trunk (B, w).

    All kinds come of one pass through the tower, and each is an entry of its own: `kind` stands in its key unless it is unit.
    """

    def __init__(self, pixels: Pixels, ids: Tensor, facts: dict, folder: Path, kinds: tuple[str, ...] = ("unit",),
                 tell: Callable[[str], None] = lambda text: None):  # fmt: skip
        self.pixels, self.bank, self.facts, self.kinds, self.tell = pixels, folder, facts, kinds, tell
        self.ids = ids.unique()  # sorted: the same samples give the same entry whatever their order
        self.loaded: dict[tuple[int, str], Tensor] = {}
        self.asked: set[int] = set()  # epochs

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def batches(self, batches: Sequence[Tensor], epoch: int, kind: str = "unit") -> Iterator[Tensor]:
        """Batches of samples, in order: their places go to the device together, where the features are already."""
        places = onto(self.device, torch.searchsorted(self.ids, torch.cat(list(batches))))
        return (self.matrix(epoch, kind)[at].float() for at in places.split([len(ids) for ids in batches]))

    def batch(self, ids: Tensor, epoch: int, kind: str = "unit") -> Tensor:
        return next(self.batches([ids], epoch, kind))

    def matrix(self, epoch: int, kind: str = "unit") -> Tensor:
        """(N, D) of all samples, on the device; without augmentation every epoch is the first."""
        epoch = epoch if self.pixels.varies else 0
        self.asked.add(epoch)
        if (epoch, kind) not in self.loaded:
            wanted = {each: self.key(epoch, each) for each in self.kinds}
            found = bank.get_all(self.bank, wanted, partial(self.encode, epoch), self.tell)
            self.loaded = {(epoch, each): torch.from_numpy(array).to(self.device) for each, array in found.items()}
        return self.loaded[epoch, kind]

    def key(self, epoch: int, kind: str) -> dict:
        """All that decides an entry."""
        augmentation = self.pixels.augmentation and [self.pixels.augmentation.seed, epoch]
        if augmentation and (scale := self.pixels.augmentation.scale) != Augmentation.scale:
            augmentation += scale
        samples = hashlib.sha256(self.ids.numpy().tobytes()).hexdigest()
        together = min(BATCH, AT_ONCE[self.pixels.clip.linears])
        facts = self.facts | {"augmentation": augmentation, "samples": samples, "batch": together}
        if (noise := self.pixels.noise) is not None:
            facts |= {"noise": [noise.seed, noise.std, noise.clamp, epoch]}
        return facts if kind == "unit" else facts | {"kind": kind}

    @torch.no_grad()
    def encode(self, epoch: int) -> dict[str, np.ndarray]:
        """kind -> array, in one pass."""
        clip = self.pixels.clip
        batches = self.pixels.batches(self.ids.split(BATCH), epoch)
        if self.kinds == ("unit",):
            found = {"unit": torch.cat([clip.image(x).cpu() for x in batches])}
        else:
            each = [clip.image_all(x) for x in batches]
            found = {kind: torch.cat([getattr(one, kind).cpu() for one in each]) for kind in self.kinds}
        return {kind: features.to(STORED[clip.stored]).numpy() for kind, features in found.items()}
