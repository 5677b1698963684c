"""Facts about many images: each decoded once, in parallel, and measured on the way.

Threads, not processes: Pillow, hashlib and numpy let go of Python's lock while they work, nothing has to be copied
between processes, and a Dagster run may not fork once it has threads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from vad_lib.errors import UnreadableImageError
from vad_lib.images.decoding import DecodedImage, bits_in_use, decode_image
from vad_lib.progress import Progress, ProgressMeter, silent

GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601, as Pillow's convert('L')."""

FACT_TYPES: dict[str, str] = {
    "file": "object",
    "readable": "bool",
    "reason": "object",
    "sha256": "object",
    "width": "Int64",
    "height": "Int64",
    "channels": "Int64",
    "mode": "object",
    "grey_bits": "Int64",
    "sharpness": "float64",
    "brightness": "float64",
    "contrast": "float64",
    "phash": "object",
    "notices": "object",
}
"""Columns of the table of ``check_images`` and their pandas types."""


def check_images(
    files: Sequence[str | Path], progress: Progress = silent, workers: int | None = None, task: str = "checking images"
) -> pd.DataFrame:
    """Decode and measure images, each distinct file once.

    Args:
        files: Paths that were found to be safe; one row comes back for each, in their order.
        progress: Called as the work advances; what it raises stops the work.
        workers: Threads; default one a processor, at most 16.
        task: The name of the work in the progress.

    Returns:
        file: str, as given.
        readable: bool.
        reason: str, why not; empty where readable. All columns below are missing where it is not readable.
        sha256: str, 64 hexadecimal digits.
        width, height: Int64, pixels, upright.
        channels: Int64, 1 or 3.
        mode: str, Pillow's name of the stored mode.
        grey_bits: Int64, bits that the values of a 16-bit grey image use; missing for all others.
        sharpness: float >= 0, variance of the Laplacian of the grey image in 0..255; missing below 3x3 pixels.
        brightness: float in 0..1, mean of the grey image.
        contrast: float in 0..0.5, standard deviation of the grey image in 0..1.
        phash: str, perceptual hash of 64 bits (Zauner 2010, by imagehash) as 16 hexadecimal digits.
        notices: str, JSON list of what was converted at decoding.
    """
    names = [str(file) for file in files]
    distinct = list(dict.fromkeys(names))
    meter = ProgressMeter(progress, task, len(distinct))
    facts: dict[str, dict[str, Any]] = {}
    with _threads(workers or min(16, os.cpu_count() or 1)) as pool:
        for name, fact in zip(distinct, _in_order(pool, distinct), strict=True):
            facts[name] = fact
            meter.advance(note="" if fact["readable"] else f"{Path(name).name}: {fact['reason']}")
    return pd.DataFrame([facts[name] for name in names], columns=list(FACT_TYPES)).astype(FACT_TYPES)


def measure(image: DecodedImage) -> dict[str, Any]:
    """Return sharpness, brightness, contrast and phash of a decoded image; see ``check_images``."""
    import imagehash
    from PIL import Image

    grey = grey_pixels(image)
    return {
        "sharpness": variance_of_laplacian(grey),
        "brightness": float(grey.mean()) / 255,
        "contrast": float(grey.std()) / 255,
        "phash": str(imagehash.phash(Image.fromarray(grey))),
    }


def grey_pixels(image: DecodedImage) -> npt.NDArray[np.uint8]:
    """Return uint8 (height, width)."""
    if image.channels == 1:
        return image.pixels
    return np.rint(image.pixels @ GREY_WEIGHTS).astype(np.uint8)


def variance_of_laplacian(grey: npt.NDArray[np.uint8]) -> float:
    """Return the variance of the 4-neighbour Laplacian, in squared grey levels, over the inner pixels.

    The usual measure of focus (Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000): a
    blurred image has few strong second derivatives. Comparable only between images of like content and size.
    """
    if min(grey.shape) < 3:
        return float("nan")
    g = grey.astype(np.int16)
    laplacian = g[:-2, 1:-1] + g[2:, 1:-1] + g[1:-1, :-2] + g[1:-1, 2:] - 4 * g[1:-1, 1:-1]
    return float(laplacian.var(dtype=np.float64))


def _check_one(name: str) -> dict[str, Any]:
    fact: dict[str, Any] = dict.fromkeys(FACT_TYPES)
    fact |= {"file": name, "readable": False, "reason": "", "notices": "[]"}
    try:
        image = decode_image(name)
    except UnreadableImageError as error:
        return fact | {"reason": error.reason}
    return (
        fact
        | {
            "readable": True,
            "sha256": image.sha256,
            "width": image.width,
            "height": image.height,
            "channels": image.channels,
            "mode": image.mode,
            "grey_bits": bits_in_use(int(image.values.max())) if image.values.dtype == np.uint16 else None,
            "notices": json.dumps(image.notices),
        }
        | measure(image)
    )


@contextmanager
def _threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
    try:
        yield pool
    finally:  # also when progress raised: what has not begun does not begin
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(pool: ThreadPoolExecutor, names: list[str], ahead: int = 64) -> Iterator[dict[str, Any]]:
    """Yield results in order with at most ``ahead`` submitted, so that stopping is quick."""
    waiting: list[Future[dict[str, Any]]] = []
    source = iter(names)
    for name in islice(source, ahead):
        waiting.append(pool.submit(_check_one, name))
    while waiting:
        result = waiting.pop(0).result()
        for name in islice(source, 1):
            waiting.append(pool.submit(_check_one, name))
        yield result
