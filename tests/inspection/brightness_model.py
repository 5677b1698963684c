"""A small honest model for tests: an image is the more anomalous the brighter it is. No weights, no torch."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vad_lib.thresholds import Calibration, Threshold

POISON = 13
"""An image of this brightness kills the process that scores it, where the model was told so."""
THORN = 14
"""An image of this brightness makes the detector raise."""


class Answer(NamedTuple):
    raw_score: float
    map: np.ndarray | None


class BrightnessModel:
    """``raw_score`` is the mean of the pixels; NG from 100 on."""

    def __init__(self, *, seconds: float = 0.0, poisonous: bool = False, broken: bool = False, log: Path | None = None):
        self.threshold = Threshold(value=100.0, method="chosen", n_normal=1, n_anomalous=1, rows_digest="0" * 64)
        self.calibration = Calibration(threshold=100.0, scale=20.0)
        self.seconds = seconds
        self.poisonous = poisonous
        self.broken = broken
        self.log = log
        self.calls = 0
        self.images = 0

    def predict_pixels(self, images: Sequence[np.ndarray], *, with_maps: bool = False) -> list[Answer]:
        self.calls += 1
        self.images += len(images)
        time.sleep(self.seconds * len(images))
        if self.broken:
            raise RuntimeError("no memory on the accelerator")
        means = [float(np.float32(pixels.mean())) for pixels in images]
        if self.log is not None:
            with self.log.open("a") as stream:
                stream.writelines(f"{os.getpid()} {mean}\n" for mean in means)
        if self.poisonous and any(round(mean) == POISON for mean in means):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(round(mean) == THORN for mean in means):
            raise RuntimeError("matrix is singular")
        return [
            Answer(mean, pixels.reshape(*pixels.shape[:2], -1).mean(axis=2).astype(np.float32) if with_maps else None)
            for mean, pixels in zip(means, images, strict=True)
        ]


def write_image(file: Path, brightness: int, nonce: int = 0, size: int = 16) -> Path:
    """Write a PNG of about that mean brightness; another ``nonce`` is another content."""
    pixels = np.full((size, size), brightness, np.uint8)
    # Two grey levels up, two down: the mean stays.
    position = nonce % (size * size // 4)
    pixels.flat[position] = max(0, brightness - 1 - nonce // (size * size // 4))
    pixels.flat[size * size - 1 - position] = min(255, brightness + 1 + nonce // (size * size // 4))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return file
