"""A piece of a picture, cut out and put in where it does not belong.

Paper: Li et al., "CutPaste: Self-Supervised Learning for Anomaly Detection and Localization",
https://arxiv.org/abs/2104.04015; the soft edge is in the spirit of Schlüter et al., "Natural Synthetic Anomalies",
https://arxiv.org/abs/2109.15222.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from vad_lib.errors import InputError
from vad_lib.synthetic.defects import SMALLEST_SIDE

Pixels = npt.NDArray[np.uint8]
LIGHT = (0.8, 1.2)
"""Range of the factor by which a piece is made darker or brighter."""
_TRIES = 12


def cut_paste(
    image: Pixels, seed: int, *, size: tuple[float, float] = (0.10, 0.30), least_change: float = 0.06
) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """Cut a rectangle or an ellipse out of a picture, turn it over by chance, and put it in at another place.

    Of up to 12 pieces the first that changes the picture by ``least_change`` is taken, else the one that changes most.

    Args:
        image: uint8, (H, W, 3), both sides at least 16 pixels. It is not modified.
        seed: the same number makes the same picture.
        size: range of the sides of a piece, as a share of the shorter side of the picture.
        least_change: wanted mean change of the pixels in the mask, 0..1.

    Returns:
        The picture, and the mask (H, W) of what was put in. The outer part of its soft edge lies outside the mask.

    Raises:
        InputError: the picture has another type or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < SMALLEST_SIDE:
        raise InputError(f"A piece is cut from uint8 pixels (H, W, 3) of 16 pixels at least, not {image.shape}.")
    rng = np.random.default_rng(seed)
    best, best_mask, most = image, np.zeros(image.shape[:2], bool), -1.0
    for _ in range(_TRIES):
        sides = np.rint(rng.uniform(*size, 2) * min(image.shape[:2])).astype(int).clip(4)
        piece = image[_somewhere(image, sides, rng)][:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
        place = _somewhere(image, sides, rng)
        weight = np.zeros(image.shape[:2], np.float32)
        weight[place] = _outline(sides, rng)
        weight = np.asarray(cv2.GaussianBlur(weight, (0, 0), rng.uniform(0.3, 1.5)), np.float32)
        made = image.astype(np.float32)
        pasted = made.copy()
        pasted[place] = piece * rng.uniform(*LIGHT)
        made += (pasted - made) * weight[..., None]
        drawn = np.clip(np.rint(made), 0, 255).astype(np.uint8)
        mask = weight >= weight.max() / 2  # a small piece with a soft edge is nowhere opaque
        change = float(np.abs(drawn[mask].astype(np.float32) - image[mask]).mean()) / 255
        if change > most:
            best, best_mask, most = drawn, mask, change
        if most >= least_change:
            break
    return best, best_mask


def _somewhere(image: Pixels, sides: npt.NDArray[np.int_], rng: np.random.Generator) -> tuple[slice, slice]:
    top, left = (int(rng.integers(length - side + 1)) for length, side in zip(image.shape, sides, strict=False))
    return slice(top, top + int(sides[0])), slice(left, left + int(sides[1]))


def _outline(sides: npt.NDArray[np.int_], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    height, width = (int(side) for side in sides)
    if rng.random() < 0.5:
        return np.ones((height, width), np.float32)
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return (rows**2 + columns**2 <= 1).astype(np.float32)
