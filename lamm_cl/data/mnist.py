"""MNIST in the files of its home page, as torchvision leaves them: idx, gzipped or not; grey images, shown as RGB."""

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lamm_cl.data.dataset import Dataset, Split, fingerprint_of
from lamm_cl.errors import UserError
from lamm_cl.files import open_regular

LARGEST = 2**27  # bytes of a file, unpacked; the largest of MNIST's own has 47 million
UNSIGNED_BYTES = 8  # what idx calls the type


class Mnist(NamedTuple):
    template: str

    def load(self, name: str, folder: Path, data_root: Path, cache: Path | None) -> Dataset:
        splits = [self._read(folder, part) for part in ("train", "t10k")]
        classes = tuple(map(str, range(10)))
        fingerprint = fingerprint_of(classes, splits, (split.images[..., 0].tobytes() for split in splits))
        return Dataset(name, classes, *splits, self.template, fingerprint)

    def _read(self, folder: Path, part: str) -> Split:
        grey, labels = idx(folder, f"{part}-images-idx3-ubyte", 3), idx(folder, f"{part}-labels-idx1-ubyte", 1)
        if len(grey) != len(labels):
            raise UserError(f"{folder}: {part}: {len(grey)} images and {len(labels)} labels")
        if absent := sorted(set(range(10)) ^ set(labels.tolist())):
            raise UserError(f"{folder}: {part}: labels 0 to 9 are expected, unlike {absent[:3]}")
        return Split(np.repeat(grey[..., None], 3, axis=-1), labels.astype(np.int64))


def idx(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """The array in an idx file of unsigned bytes: two zeros, the type, the number of dimensions, each as a big-endian uint32."""
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise UserError(f"{folder / name}: no such file, nor with .gz behind it")
    try:
        with open_regular(path) as file:
            content = (gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file).read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes([0, 0, UNSIGNED_BYTES, dimensions]):
        raise UserError(f"{path}: no idx file of unsigned bytes in {dimensions} dimensions")
    shape = tuple(np.frombuffer(content, ">u4", dimensions, offset=4).tolist())
    size = 1
    for side in shape:
        size *= side
    if not size or len(content) != start + size:
        raise UserError(f"{path}: {len(content) - start:,} bytes behind its head, which says {' x '.join(map(str, shape))}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


LAYOUTS = {"MNIST": Mnist('a photo of the number: "{}".')}  # the template of CLIP's own evaluation
