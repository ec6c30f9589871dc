"""CIFAR-10 and CIFAR-100 in the binary version of their home page: label bytes and 3,072 pixels, image after image.

The "python version" is made of pickles, which can run anything when they are opened, so it is not read.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from lamm_cl.data.dataset import TEMPLATE, Dataset, Split, clean, fingerprint_of
from lamm_cl.data.lists import read_lines
from lamm_cl.errors import UserError

PIXELS = 3 * 32 * 32  # red, green, blue planes, each row by row


class Cifar(NamedTuple):
    names: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int  # CIFAR-100 writes the coarse label before the fine one

    def load(self, name: str, folder: Path, data_root: Path, cache: Path | None) -> Dataset:
        classes = clean(read_lines(folder / self.names), where=str(folder / self.names))
        splits = [self._read(folder, files, len(classes)) for files in (self.train, self.test)]
        fingerprint = fingerprint_of(classes, splits, (split.images.tobytes() for split in splits))
        return Dataset(name, classes, *splits, TEMPLATE, fingerprint)

    def _read(self, folder: Path, files: tuple[str, ...], classes: int) -> Split:
        record = self.label_bytes + PIXELS
        parts = []
        for file in files:
            try:
                content = np.fromfile(folder / file, np.uint8)
            except FileNotFoundError:
                raise UserError(f"{folder / file}: no such file; the binary version of CIFAR has it") from None
            if not content.size or content.size % record:
                raise UserError(f"{folder / file}: {content.size} bytes are no whole number of {record}-byte records")
            parts.append(content.reshape(-1, record))
        records = np.concatenate(parts)
        labels = records[:, self.label_bytes - 1].astype(np.int64)
        if absent := sorted(set(range(classes)) ^ set(labels.tolist())):
            raise UserError(f"{folder / files[0]}: labels 0 to {classes - 1} are expected, unlike {absent[:3]}")
        images = records[:, self.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Split(np.ascontiguousarray(images), labels)


LAYOUTS = {
    "CIFAR-10": Cifar("batches.meta.txt", tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",), 1),
    "CIFAR-100": Cifar("fine_label_names.txt", ("train.bin",), ("test.bin",), 2),
}
