"""Which known images look most like one: by a small thumbnail, and no model.

The measure is the root of the mean squared difference of two thumbnails of 16 x 16 pixels in RGB, 0 (equal) to 1. It
tells pose, light and product apart, which is what a reference should share with an image, and hardly sees a defect.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from vad_lib.errors import UnreadableImageError
from vad_lib.images.budget import LARGE_PICTURES
from vad_lib.images.decoding import decode_bytes, rgb_picture
from vad_lib.images.paths import read_known_content

SIDE = 16


class KnownImage(NamedTuple):
    """An image that is known by its content; its file may have gone since."""

    file: Path
    sha256: str


def read_picture(image: KnownImage) -> Image.Image:
    """Return an image as people see it, upright, in RGB.

    Raises:
        UnreadableImageError: its file is gone, or holds something else now.
    """
    data = read_known_content(image.file, image.sha256)
    pixels = decode_bytes(data, image.file, sha256=image.sha256).pixels
    with LARGE_PICTURES.hold(pixels.shape[0] * pixels.shape[1]):
        return rgb_picture(pixels)


def thumbnail(picture: Image.Image) -> npt.NDArray[np.float32]:
    """Return a picture as (16, 16, 3) values in 0..1."""
    small = picture.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    return np.asarray(small, np.float32) / np.float32(255)


def nearest(picture: Image.Image, known: Sequence[KnownImage], count: int) -> list[tuple[int, float]]:
    """Return positions in ``known`` of the images that look most like a picture, with their differences, nearest first.

    Images that cannot be read any more are passed over.

    Args:
        picture: RGB.
        known: of these.
        count: at most so many.
    """
    own = thumbnail(picture)
    found = []
    for position, image in enumerate(known):
        with suppress(UnreadableImageError):
            found.append((position, float(np.sqrt(np.mean((own - _known_thumbnail(image)) ** 2)))))
    return sorted(found, key=lambda pair: (pair[1], pair[0]))[:count]


@lru_cache(maxsize=4096)
def _known_thumbnail(image: KnownImage) -> npt.NDArray[np.float32]:
    return thumbnail(read_picture(image))
