"""What the camera does: light, colour, focus and noise of one picture, measured while it is decoded anyway.

All measures are logarithms, so that their differences are shares: 0.05 is 5 % more. Contrast and sharpness are taken
relative to brightness and contrast, so that less light is less light and not also less contrast and less focus.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vad_lib.images.checking import GREY_WEIGHTS

MEASURES = ("brightness", "contrast", "sharpness", "noise", "red", "green", "blue")
LEAST_DEVIATIONS = {
    **{"brightness": 0.02, "contrast": 0.03, "sharpness": 0.14, "noise": 0.1},
    **dict.fromkeys(("red", "green", "blue"), 0.01),
}
"""Spreads that are always allowed: 2 % of light, 1 % of a colour's share, and so on."""
TILES, TILE = 8, 32
"""Focus and noise are measured in the full resolution, on 8 x 8 tiles of 32 x 32 pixels spread over the picture."""
GLANCE = 128
"""Light and colour are measured on every so-manieth pixel that leaves about 128 a side."""
FAINT = 1e-3


def measure_camera(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return ``MEASURES`` of a picture, float32 (7,); colours of a grey one are nan, and so is what cannot be measured.

    Args:
        pixels: uint8, (H, W) or (H, W, 3) in RGB order, of any size. A picture of 1 megapixel costs about 2 ms.
    """
    step = max(1, min(pixels.shape[:2]) // GLANCE)
    glance = pixels[::step, ::step].astype(np.float32)
    grey = glance if pixels.ndim == 2 else glance @ GREY_WEIGHTS
    mean, spread = float(grey.mean()), float(grey.std())
    found = np.full(len(MEASURES), np.nan, dtype=np.float32)
    found[0] = np.log(mean + 1)
    if mean > FAINT and spread > FAINT:
        found[1] = np.log(spread / mean)
    if pixels.ndim == 3:
        colours = glance.mean(axis=(0, 1))
        if colours.min() > FAINT:
            found[4:] = np.log(colours / colours.sum())
    if min(pixels.shape[:2]) >= 3:
        found[2:4] = _focus_and_noise(_tiles(pixels))
    return found


def _tiles(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return tiles of the grey picture, float32 (tiles, h, w); the whole picture where it is small."""
    height, width = pixels.shape[:2]
    if min(height, width) < TILES * TILE:
        tiles = pixels[None]
    else:
        rows, columns = (np.linspace(0, side - TILE, TILES).astype(int) for side in (height, width))
        tiles = np.stack([pixels[row : row + TILE, column : column + TILE] for row in rows for column in columns])
    return tiles.astype(np.float32) if pixels.ndim == 2 else tiles.astype(np.float32) @ GREY_WEIGHTS


def _focus_and_noise(grey: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Return the energy of the Laplacian relative to the contrast, and the noise relative to the brightness.

    Noise as Immerkaer (1996), "Fast noise variance estimation": the mean of the absolute values of a mask that is blind
    to planes and edges.
    """
    inner = grey[:, 1:-1, 1:-1]
    across, down = grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:], grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1]
    corners = grey[:, :-2, :-2] + grey[:, :-2, 2:] + grey[:, 2:, :-2] + grey[:, 2:, 2:]
    laplacian = across + down - 4 * inner
    blind = 4 * inner - 2 * (across + down) + corners
    variance = float(grey.var())
    if variance < FAINT:
        return np.nan, np.nan
    noise = np.sqrt(np.pi / 2) / 6 * float(np.abs(blind).mean())
    return float(np.log(laplacian.var() / variance + 1e-6)), float(np.log(noise / (float(grey.mean()) + 1) + 1e-6))
