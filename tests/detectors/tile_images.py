"""Small real images: cut from scikit-image's photograph of a brick wall; defects are dark bars drawn on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from skimage import data

from vad_lib.detectors.images import ImageDataset
from vad_lib.images.decoding import decode_image
from vad_lib.preprocessing import Preprocessing
from vad_lib.tables import ValidatedRows


def write_tiles(
    folder: Path, normal: int, anomalous: int = 0, *, side: int = 64, width: int | None = None, colour: bool = False
) -> pd.DataFrame:
    """Write tiles as PNG and return them as validated rows, split 'train' for normal and 'valid' for anomalous ones."""
    folder.mkdir(parents=True, exist_ok=True)
    wall = data.brick()
    draw = np.random.default_rng(7)
    width = side if width is None else width
    rows = []
    for number in range(normal + anomalous):
        top, left = draw.integers(0, 512 - side), draw.integers(0, 512 - width)
        tile = wall[top : top + side, left : left + width].copy()
        bad = number >= normal
        if bad:
            tile[side // 3 : side // 2, width // 4 : width // 2] = 10
        if colour:
            tile = np.stack([tile, tile // 2 + 60, 255 - tile], axis=2)
        file = folder / f"{'bad' if bad else 'good'}_{number:03d}.png"
        Image.fromarray(tile).save(file)
        rows.append(row_of(file, number, bad))
    return ValidatedRows.validate(pd.DataFrame(rows))


def row_of(file: Path, number: int, bad: bool) -> dict[str, object]:
    """Return one validated row of an image file."""
    decoded = decode_image(file)
    return {
        "row": number,
        "image_path": file.name,
        "file": str(file),
        "label": "bad" if bad else "good",
        "is_anomalous": bad,
        "split": "valid" if bad else "train",
        "sha256": decoded.sha256,
        "width": decoded.width,
        "height": decoded.height,
        "channels": decoded.channels,
    }


def as_dataset(rows: pd.DataFrame, side: int = 64) -> ImageDataset:
    """Return the images of rows, squares of ``side`` pixels."""
    return ImageDataset.from_rows(rows, Preprocessing((side, side)))
