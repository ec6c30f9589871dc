"""The four downstream datasets of the embedded default, painted on the spot or taken from scikit-learn.

species  20 fixed combinations that have a name of their own (robin, magpie, ...), in the pretraining mix
rare     20 shapes under the name that few captions use (orb, egg, ...), any colour and pattern
compo    20 combinations that pretraining never showed ("striped green circle"): a control
digits   scans of handwriting (scikit-learn's copy of the UCI set), 8x8 pixels enlarged to 36 and padded to 48

In the first three, look-alikes stand side by side in the class order: each half holds five whole pairs, so neither is
the easy one. A class has 48 images to draw shots from and 50 test images; none is part of the pretraining mix.
"""

import hashlib
import io
import random
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from PIL import Image

from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.files import write_atomic
from lamm_cl.mini.captions import RARE, SPECIES
from lamm_cl.mini.scenes import COLOURS, DIGITS, PATTERNS, SHAPES, SIDE, Scene, compose, held_out, render

POOL, TEST = 48, 50  # images per class
DIGIT_SIDE = 36  # pixels of the enlarged scan
RARE_SHAPES = SHAPES[:20]
COMBINATIONS = tuple(  # pattern, colour, shape: a held-out look for each of the first ten pairs of neighbours
    (pattern, colour, shape)
    for i, (pattern, colour) in enumerate(
        (("striped", "green"), ("dotted", "orange"), ("checkered", "pink"), ("hollow", "blue"), ("crossed", "gray"),
         ("zigzag", "black"), ("shaded", "green"), ("striped", "teal"), ("dotted", "purple"), ("checkered", "red"))
    )
    for shape in SHAPES[2 * i : 2 * i + 2]
)  # fmt: skip
CLASSES = {
    "species": tuple(species.name for species in SPECIES),
    "rare": tuple(RARE[shape].name for shape in RARE_SHAPES),
    "compo": tuple(" ".join(combination) for combination in COMBINATIONS),
    "digits": DIGITS,
}
NAMES = tuple(CLASSES)


class World(NamedTuple):
    """Images uint8 (N, 48, 48, 3), labels int64 (N,), in class order."""

    classes: tuple[str, ...]
    train_images: ndarray
    train_labels: ndarray
    test_images: ndarray
    test_labels: ndarray


def world(name: str, cache: Path) -> World:
    """The dataset of this name: from `cache`, or made (some seconds) and left there.

    The file's name holds a hash of the recipe, so a changed recipe is never answered with old images; a file that is
    not what was written is made again. Raises UserError for an unknown name, OSError if the cache cannot be written.
    """
    if name not in CLASSES:
        raise UserError(f"no embedded dataset '{name}': expected one of {', '.join(NAMES)}{did_you_mean(name, NAMES)}")
    file = cache / "worlds" / f"{name}-{recipe_hash()[:16]}.npz"
    arrays = _stored(file)
    if arrays is None:
        arrays = _scanned() if name == "digits" else _painted(name)
        _store(file, arrays)
    return World(CLASSES[name], **arrays)


def recipe_hash() -> str:
    """Of everything that decides a pixel: the source of this folder's three recipes and the libraries that draw."""
    here = Path(__file__).parent
    digest = hashlib.sha256(f"Pillow {version('Pillow')}, scikit-learn {version('scikit-learn')}".encode())
    for file in ("scenes.py", "captions.py", "worlds.py"):
        digest.update((here / file).read_bytes())
    return digest.hexdigest()


def pretraining_scene(rng: random.Random) -> Scene:
    """One draw from the pretraining mix: 12% species, 12% digits, 76% shapes without the held-out combinations."""
    draw = rng.random()
    if draw < 0.12:
        species = rng.choice(SPECIES)
        return compose(species.kind, species.colour, species.pattern, rng, species.name)
    if draw < 0.24:
        return compose(rng.choice(DIGITS), rng.choice(list(COLOURS)), "plain", rng)
    return _any_look(rng.choice(SHAPES), rng)


def _any_look(shape: str, rng: random.Random) -> Scene:
    """This shape in a random colour and pattern that pretraining may show."""
    looks = [(colour, pattern) for colour in COLOURS for pattern in PATTERNS if not held_out(shape, colour, pattern)]
    return compose(shape, *rng.choice(looks), rng)


def _class_scene(name: str, label: int, rng: random.Random) -> Scene:
    if name == "species":
        species = SPECIES[label]
        return compose(species.kind, species.colour, species.pattern, rng, species.name)
    if name == "rare":
        return _any_look(RARE_SHAPES[label], rng)
    pattern, colour, shape = COMBINATIONS[label]
    return compose(shape, colour, pattern, rng)


def _painted(name: str) -> dict[str, ndarray]:
    arrays = {}
    for split, count in (("train", POOL), ("test", TEST)):
        images = []
        for label, class_name in enumerate(CLASSES[name]):
            rng = random.Random(f"lamm-cl-mini/{name}/{split}/{class_name}")
            images += [render(_class_scene(name, label, rng), rng) for _ in range(count)]
        arrays |= {f"{split}_images": np.stack(images), f"{split}_labels": _labels(name, count)}
    return arrays


def _scanned() -> dict[str, ndarray]:
    from sklearn.datasets import load_digits  # two seconds to import, and three worlds do not need it

    digits = load_digits()
    chosen = {"train": [], "test": []}
    for label in range(len(DIGITS)):
        of_class = np.flatnonzero(digits.target == label).tolist()
        random.Random(f"lamm-cl-mini/digits/{label}").shuffle(of_class)
        chosen["train"] += of_class[:POOL]
        chosen["test"] += of_class[POOL : POOL + TEST]
    arrays = {}
    for split, indices in chosen.items():
        images = np.stack([_enlarged(digits.images[i]) for i in indices])
        arrays |= {f"{split}_images": images, f"{split}_labels": _labels("digits", len(indices) // len(DIGITS))}
    return arrays


def _enlarged(scan: ndarray) -> ndarray:
    """Ink 0..16 (8, 8) -> white on black, uint8 (SIDE, SIDE, 3)."""
    small = Image.fromarray((scan * (255 / 16)).round().astype(np.uint8))
    large = np.asarray(small.resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC))
    padded = np.pad(large, (SIDE - DIGIT_SIDE) // 2)
    return np.repeat(padded[..., None], 3, axis=-1)


def _labels(name: str, count: int) -> ndarray:
    return np.repeat(np.arange(len(CLASSES[name]), dtype=np.int64), count)


def _store(file: Path, arrays: dict[str, ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomic(file, buffer.getvalue())
    write_atomic(_checksum_file(file), hashlib.sha256(buffer.getvalue()).hexdigest())


def _stored(file: Path) -> dict[str, ndarray] | None:
    """The arrays, or None if they are not there or not as written: nothing is parsed before its checksum is right."""
    checksum = _checksum_file(file)
    if not (file.is_file() and checksum.is_file()):
        return None
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest().encode() != checksum.read_bytes():
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return dict(stored)


def _checksum_file(file: Path) -> Path:
    return file.with_suffix(".sha256")
