"""Images from files and arrays, whatever the camera, the scanner or the web made of them."""

import os
import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from lamm_cl.errors import UserError
from lamm_cl.files import open_regular

EXTENSIONS = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
# Pillow reads some forty formats; the rare ones only widen what a hostile file can reach.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


def open_image(item: Path | NDArray[np.uint8]):
    """A file, or an array (H, W, 3), as a Pillow image in RGB. EXIF rotation is not applied: CoOp's pipeline does not.

    Palette, grey, CMYK and transparent images are converted (transparency is dropped); 16-bit grey images, which Pillow
    would clip to white, are scaled to 8 bits. UserError names the file that is absent, truncated or no image.
    """
    from PIL import Image  # here, because listing datasets needs no images

    if isinstance(item, np.ndarray):
        return Image.fromarray(item)
    try:
        with open_regular(item) as file, _opened(file) as image:
            return _rgb(image)
    except _failures() as failure:
        raise UserError(f"{item}: not a readable image ({_reason(failure)})") from failure


def defect(path: Path) -> str | None:
    """Why the file is no whole image; None if its header can be read and it ends as its format should.

    A file without the right ending is decoded before it is blamed, because some cameras append data of their own.
    """
    try:
        with open_regular(path) as file:
            file.seek(-min(8, os.fstat(file.fileno()).st_size), os.SEEK_END)
            tail = file.read()
            with _opened(file) as image:
                if image.format not in ENDINGS or not tail.endswith(ENDINGS[image.format]):
                    _rgb(image)
    except _failures() as failure:
        return _reason(failure)
    return None


def _opened(file: BinaryIO):
    """Of a size that Pillow reads; that it finds some of those large is nothing for the screen."""
    from PIL import Image

    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        return Image.open(file, formats=FORMATS)


def _rgb(image):
    from PIL import Image

    if not image.mode.startswith("I"):
        return image.convert("RGB")
    grey = np.asarray(image)  # 16 bits: mode I;16, or I, depending on the file format
    if image.mode != "I" or grey.max() > 255:
        grey = grey.clip(0, 65535) // 257  # 65535 -> 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _failures() -> tuple[type[BaseException], ...]:
    """What Pillow's decoders raise on broken files; UnidentifiedImageError is an OSError."""
    from PIL import Image

    return (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def _reason(failure: BaseException) -> str:
    if isinstance(failure, FileNotFoundError):
        return "no such file"
    if type(failure).__name__ == "UnidentifiedImageError":
        return "no image format that is read here"
    text = getattr(failure, "strerror", None) or str(failure)
    return text.splitlines()[0] if text else type(failure).__name__
