"""Whether the part lies the same way in every picture: rotation and shift against the usual picture.

The guide allows 3 degrees and 1 pixel at 224 x 224. A sample of at most 64 normal images is brought to 224 x 224 and
compared with its median image: each image is correlated with the median image turned by -12 to 12 degrees, all shifts
at once by Fourier transform, under a round window so that turning shows no corners. The best angle counts only where it
is clearly better than no turning (a round part has no angle), and an image only where it resembles the median image at
all (a texture has no place). The estimate is coarse, and only ever warns.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from vad_lib.errors import UnreadableImageError
from vad_lib.findings import Finding
from vad_lib.images.checking import grey_pixels
from vad_lib.images.decoding import decode_image
from vad_lib.readiness.rules import examples

SAMPLE = 64
LEAST_IMAGES = 10
SIDE = 224
ANGLES = np.arange(-12, 13)
COARSE = 3  # every third angle first, then those around the best
MOST_ROTATION = 3.0
MOST_SHIFT = 1.0
LEAST_SIMILARITY = 0.5
CLEARLY_BETTER = 0.02

Plane = npt.NDArray[np.float32]
Spectrum = npt.NDArray[np.complex64]


def estimate_pose(files: Sequence[str | Path]) -> pd.DataFrame:
    """Estimate rotation and shift of images against their median image.

    Args:
        files: Images of like content; unreadable ones are passed over. Each costs some 20 ms beside its decoding.

    Returns:
        file: str.
        rotation: float, degrees counter-clockwise, whole numbers in -12..12.
        shift_x, shift_y: float, pixels at 224 x 224, to the right and down.
        similarity: float in -1..1, correlation with the median image after turning and shifting.
        assessable: bool, similarity at least 0.5.
    """
    with ThreadPoolExecutor(4) as pool:
        read = [
            (str(file), plane) for file, plane in zip(files, pool.map(_small, files), strict=True) if plane is not None
        ]
    columns = ["file", "rotation", "shift_x", "shift_y", "similarity", "assessable"]
    if not read:
        return pd.DataFrame(columns=columns)
    median = np.median(np.stack([plane for _, plane in read]), axis=0).astype(np.float32)
    references = _turned(median)
    rows = []
    for file, plane in read:
        rotation, (shift_y, shift_x), similarity = _compare(plane, references)
        rows.append((file, rotation, shift_x, shift_y, similarity, similarity >= LEAST_SIMILARITY))
    return pd.DataFrame(rows, columns=columns)


def pose(normal: pd.DataFrame) -> Finding | None:
    """Normal parts lie within 3 degrees and 1 pixel (at 224 x 224) of their usual place, in a sample of 64.

    Args:
        normal: Rows of the working table with file and sha256. The sample is taken in the order of the checksums, so
            the same images give the same sample.
    """
    sample = normal.drop_duplicates("sha256").sort_values("sha256").head(SAMPLE)
    if len(sample) < LEAST_IMAGES:
        return None
    found = estimate_pose(list(sample["file"]))
    assessable = found[found["assessable"].astype(bool)].set_index("file")
    if len(assessable) < len(sample) / 2:  # no part in a fixed place: textures, or pictures without order
        return None
    shift = pd.Series(np.hypot(assessable["shift_x"], assessable["shift_y"]), index=assessable.index)
    off = assessable[(assessable["rotation"].abs() > MOST_ROTATION) | (shift > MOST_SHIFT)]
    if off.empty:
        return None
    rows = sample[sample["file"].isin(off.index)]
    return Finding(
        rule="pose",
        severity="warn",
        message=f"In {len(off)} of {len(sample)} sampled normal images the part seems to lie off its usual place by "
        f"more than {MOST_ROTATION:g} degrees or {MOST_SHIFT:g} pixel (at {SIDE} x {SIDE}): up to "
        f"{assessable['rotation'].abs().max():.0f} degrees and {shift.max():.1f} pixels, "
        f"median {shift.median():.1f} pixels.",
        advice="Fix part and camera where that is possible; the estimate is coarse.",
        count=len(off),
        examples=examples(
            rows,
            rotation=rows["file"].map(off["rotation"]).astype(float),
            shift_x=rows["file"].map(off["shift_x"]).round(1),
            shift_y=rows["file"].map(off["shift_y"]).round(1),
        ),
    )


def _small(file: str | Path) -> Plane | None:
    from PIL import Image

    try:
        grey = grey_pixels(decode_image(file))
    except UnreadableImageError:
        return None
    return np.asarray(Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float32)


def _window() -> Plane:
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    return (np.cos(np.pi / 2 * np.minimum(np.hypot(x, y), 1)) ** 2).astype(np.float32)


WINDOW = _window()


def _spectrum(plane: Plane) -> Spectrum:
    """Of the windowed plane with mean 0 and norm 1: products of two are correlations."""
    import scipy.fft  # keeps float32, unlike numpy's

    centred = (plane - np.average(plane, weights=WINDOW)) * WINDOW
    norm = float(np.linalg.norm(centred))
    return scipy.fft.rfft2((centred / norm if norm > 1e-3 else centred * 0).astype(np.float32))


def _turned(median: Plane) -> Spectrum:
    """Return the conjugate spectra of the median image turned by each of ANGLES, (angles, height, width / 2 + 1)."""
    from scipy.ndimage import rotate

    turned = (rotate(median, angle, reshape=False, order=1, mode="nearest") if angle else median for angle in ANGLES)
    return np.stack([_spectrum(plane).conj() for plane in turned])


def _compare(plane: Plane, references: Spectrum) -> tuple[float, tuple[float, float], float]:
    """Return the angle, the shift (down, right) and the correlation of the best match."""
    spectrum = _spectrum(plane)
    straight = int(np.flatnonzero(ANGLES == 0)[0])
    coarse = np.arange(0, len(ANGLES), COARSE)
    maps = _correlations(spectrum, references[coarse])
    peaks = maps.max(axis=(1, 2))
    first = int(peaks.argmax())
    upright = straight // COARSE
    if peaks[first] - peaks[upright] < CLEARLY_BETTER:
        return 0.0, _peak_position(maps[upright]), float(peaks[upright])
    around = np.arange(max(0, coarse[first] - COARSE + 1), min(len(ANGLES), coarse[first] + COARSE))
    maps = _correlations(spectrum, references[around])
    peaks = maps.max(axis=(1, 2))
    best = int(peaks.argmax())
    return float(ANGLES[around[best]]), _peak_position(maps[best]), float(peaks[best])


def _correlations(spectrum: Spectrum, references: Spectrum) -> Plane:
    """Return the correlation with each reference at every shift, (references, height, width)."""
    import scipy.fft

    return scipy.fft.irfft2(spectrum * references, s=(SIDE, SIDE))


def _peak_position(correlation: Plane) -> tuple[float, float]:
    """Of the highest value, between the pixels by a parabola through its neighbours; negative past the middle."""
    row, column = np.unravel_index(int(correlation.argmax()), correlation.shape)
    position = []
    for axis, index in enumerate((int(row), int(column))):
        line = correlation[:, column] if axis == 0 else correlation[row, :]
        before, at, after = line[index - 1], line[index], line[(index + 1) % SIDE]
        bend = before - 2 * at + after
        value = index + (0.5 * (before - after) / bend if bend < 0 else 0.0)
        position.append(float(value - SIDE if value > SIDE / 2 else value))
    return position[0], position[1]
