"""Small real images for the tests of readiness: crops of a photograph, each different."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from skimage import data as pictures

GRASS = pictures.grass()


def crop(number: int, size: int = 40) -> np.ndarray:
    """Return the crop of that number: other numbers, other pixels."""
    columns = GRASS.shape[1] - size
    x, y = (number * 37) % columns, (number * 53 + number // columns) % (GRASS.shape[0] - size)
    return GRASS[y : y + size, x : x + size]


def write_images(folder: Path, names: Sequence[str], size: int = 40, first: int = 0) -> None:
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(crop(first + number, size)).save(file)


def write_set(folder: Path, normal: int, anomalous: int = 0, size: int = 40) -> pd.DataFrame:
    """Write good/ and bad/ images and the table train.csv; return the table."""
    rows = [(f"./good/{i}.png", "good") for i in range(normal)] + [(f"./bad/{i}x.png", "bad") for i in range(anomalous)]
    write_images(folder, [path for path, _ in rows], size)
    table = pd.DataFrame(rows, columns=["image_path", "label"])
    table.to_csv(folder / "train.csv", index=False)
    return table
