"""Whether the part lies the same way in every picture: rotation and shift against the usual picture.

The guide allows 3 degrees and 1 pixel at 224 x 224. A sample of at most 64 normal images is brought to 224 x 224. Their
edges are compared with the median of all edges, turned by -12 to 12 degrees, all shifts at once by Fourier transform,
under a round window so that turning shows no corners. Edges and not brightness, because a reflection that wanders over
a part that lies still would count as its movement.

An estimate is trusted only where the image has edges in common with the others, where two interleaved halves of it,
estimated each by itself, agree, and where the angle is not the end of the range. The best angle counts only where it is
clearly better than no turning: a round part has no angle. A part is called off its place only where it lies clearly
outside what is allowed: measured on photographs of well-aligned bottles, 18 of 60 lie 1 to 2.2 pixels off.
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
from vad_lib.images.decoding import decode_image
from vad_lib.readiness.rules import examples

SAMPLE = 64
LEAST_IMAGES = 10
SIDE = 224
ANGLES = np.arange(-12, 13)
UPRIGHT = 12  # position of 0 in ANGLES
COARSE = 3  # every third angle first, then those around the best
MOST_ROTATION = 3.0
MOST_SHIFT = 1.0
CLEARLY_TURNED, CLEARLY_SHIFTED = 1.0, 1.5  # degrees and pixels beyond what is allowed
AGREEMENT = 1.0  # pixels
LEAST_SIMILARITY = 0.45
CLEARLY_BETTER = 0.02
MOSTLY = 0.8  # so large a share of the sample must be assessable
BLOCK = 28  # side of the squares of the two interleaved halves

Plane = npt.NDArray[np.float32]
Spectrum = npt.NDArray[np.complex64]


class UsualPose:
    """Estimates how far a picture is turned and shifted against the usual one.

    Args:
        median: median of the ``edges_of`` some pictures, float32 (224, 224).
    """

    def __init__(self, median: Plane) -> None:
        self._references = _turned(median)

    def estimate(self, edges: Plane) -> tuple[float, float, float, float, bool]:
        """Return rotation, shift_x, shift_y, similarity and assessable of one picture; see ``estimate_pose``."""
        angle, (shift_y, shift_x), similarity = _compare(edges, self._references)
        halves = [np.array(_place(_spectrum(edges, half), self._references[angle])[0]) for half in HALVES]
        agreed = float(np.abs(halves[0] - halves[1]).max()) <= AGREEMENT
        rotation = float(ANGLES[angle])
        trusted = similarity >= LEAST_SIMILARITY and agreed and abs(rotation) < ANGLES[-1]
        return rotation, shift_x, shift_y, similarity, trusted

    def shift(self, edges: Plane) -> tuple[float, float] | None:
        """Return the shift to the right and down of a picture that is not turned; None where it cannot be trusted.

        Costs a fifth of ``estimate``.
        """
        (shift_y, shift_x), similarity = _place(_spectrum(edges), self._references[UPRIGHT])
        return (shift_x, shift_y) if similarity >= LEAST_SIMILARITY else None


def estimate_pose(files: Sequence[str | Path]) -> pd.DataFrame:
    """Estimate rotation and shift of images against their median image.

    Args:
        files: Images of like content; unreadable ones are passed over. Each costs some 20 ms beside its decoding.

    Returns:
        file: str.
        rotation: float, degrees counter-clockwise, whole numbers in -12..12.
        shift_x, shift_y: float, pixels at 224 x 224, to the right and down.
        similarity: float in -1..1, correlation of the edges with the usual ones after turning and shifting.
        assessable: bool, whether the estimate can be trusted.
    """
    with ThreadPoolExecutor(4) as pool:
        read = [
            (str(file), edges)
            for file, edges in zip(files, pool.map(_read_edges, files), strict=True)
            if edges is not None
        ]
    columns = ["file", "rotation", "shift_x", "shift_y", "similarity", "assessable"]
    if not read:
        return pd.DataFrame(columns=columns)
    usual = UsualPose(np.median(np.stack([edges for _, edges in read]), axis=0).astype(np.float32))
    return pd.DataFrame([(file, *usual.estimate(edges)) for file, edges in read], columns=columns)


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
    if len(assessable) < MOSTLY * len(sample):
        return Finding(
            rule="pose",
            severity="info",
            message=f"How the parts lie cannot be judged: only {len(assessable)} of {len(sample)} sampled normal "
            "images have edges in common with the others in about the same place.",
            advice="Textures, and parts that may lie at any angle or place, are like that.",
        )
    shift = pd.Series(np.hypot(assessable["shift_x"], assessable["shift_y"]), index=assessable.index)
    turned = assessable["rotation"].abs() > MOST_ROTATION + CLEARLY_TURNED
    off = assessable[turned | (shift > MOST_SHIFT + CLEARLY_SHIFTED)]
    if off.empty:
        return None
    rows = sample[sample["file"].isin(off.index)]
    return Finding(
        rule="pose",
        severity="warn",
        message=f"In {len(off)} of {len(assessable)} sampled normal images that can be judged the part lies off its "
        f"usual place by clearly more than {MOST_ROTATION:g} degrees or {MOST_SHIFT:g} pixel (at {SIDE} x {SIDE}): up "
        f"to {assessable['rotation'].abs().max():.0f} degrees and {shift.max():.1f} pixels, "
        f"median {shift.median():.1f} pixels.",
        advice="Fix part and camera where that is possible.",
        count=len(off),
        examples=examples(
            rows,
            rotation=rows["file"].map(off["rotation"]).astype(float),
            shift_x=rows["file"].map(off["shift_x"]).round(1),
            shift_y=rows["file"].map(off["shift_y"]).round(1),
        ),
    )


def edges_of(pixels: npt.NDArray[np.uint8]) -> Plane:
    """Return the edges of a picture at 224 x 224, float32: how steep the brightness is.

    Its root, so that one strong edge does not decide alone.

    Args:
        pixels: uint8, (H, W) or (H, W, 3), of any size.
    """
    from PIL import Image
    from scipy.ndimage import gaussian_gradient_magnitude

    small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0).convert("L")
    return np.sqrt(gaussian_gradient_magnitude(np.asarray(small, dtype=np.float32), 1.0)).astype(np.float32)


def _read_edges(file: str | Path) -> Plane | None:
    try:
        return edges_of(decode_image(file).pixels)
    except UnreadableImageError:
        return None


def _window() -> Plane:
    """Return a round window, even inside and falling off to the rim."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    beyond = np.clip((np.hypot(x, y) - 0.8) / 0.2, 0, 1)
    return (np.cos(np.pi / 2 * beyond) ** 2).astype(np.float32)


def _halves() -> tuple[Plane, Plane]:
    """Return the white and the black squares of a chess board."""
    place = np.arange(SIDE) // BLOCK
    white = ((place[:, None] + place[None, :]) % 2).astype(np.float32)
    return white, 1 - white


WINDOW = _window()
HALVES = _halves()


def _spectrum(plane: Plane, part: Plane | float = 1.0) -> Spectrum:
    """Of the windowed plane, or a part of it, with mean 0 and norm 1: products of two are correlations."""
    import scipy.fft  # keeps float32, unlike numpy's

    centred = (plane - np.average(plane, weights=WINDOW)) * WINDOW * part
    norm = float(np.linalg.norm(centred))
    return scipy.fft.rfft2((centred / norm if norm > 1e-3 else centred * 0).astype(np.float32))


def _turned(median: Plane) -> Spectrum:
    """Return the conjugate spectra of the usual edges turned by each of ANGLES, (angles, height, width / 2 + 1)."""
    from scipy.ndimage import rotate

    turned = (rotate(median, angle, reshape=False, order=1, mode="nearest") if angle else median for angle in ANGLES)
    return np.stack([_spectrum(plane).conj() for plane in turned])


def _compare(plane: Plane, references: Spectrum) -> tuple[int, tuple[float, float], float]:
    """Return the position of the best angle in ANGLES, the shift (down, right) and the correlation there."""
    spectrum = _spectrum(plane)
    coarse = np.arange(0, len(ANGLES), COARSE)
    maps = _correlations(spectrum, references[coarse])
    peaks = maps.max(axis=(1, 2))
    first = int(peaks.argmax())
    upright = UPRIGHT // COARSE
    if peaks[first] - peaks[upright] < CLEARLY_BETTER:
        return UPRIGHT, _peak_position(maps[upright]), float(peaks[upright])
    around = np.arange(max(0, coarse[first] - COARSE + 1), min(len(ANGLES), coarse[first] + COARSE))
    maps = _correlations(spectrum, references[around])
    peaks = maps.max(axis=(1, 2))
    best = int(peaks.argmax())
    return int(around[best]), _peak_position(maps[best]), float(peaks[best])


def _place(spectrum: Spectrum, reference: Spectrum) -> tuple[tuple[float, float], float]:
    """Return the shift (down, right) against one reference, and the correlation there."""
    (correlation,) = _correlations(spectrum, reference[None])
    return _peak_position(correlation), float(correlation.max())


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
