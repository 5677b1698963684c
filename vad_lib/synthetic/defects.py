"""Draw one defect (a box, a line, letters, a circle, dots) into a picture, in the picture's own colours.

Everything is a pure function of the picture, the kind and a seed. A defect changes no pixel outside its mask, and the
manifest row that comes with it says enough to draw it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from vad_lib.errors import InputError

DefectKind = Literal["box", "line", "letters", "circle", "dots"]
DEFECT_KINDS: tuple[DefectKind, ...] = get_args(DefectKind)

Pixels = npt.NDArray[np.uint8]

SMALLEST_SIDE = 16
"""Pictures below 16 pixels have no room for a defect."""
_TRIES = 12
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)
_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"


@dataclass(frozen=True)
class DefectRow:
    """One row of the manifest.

    Attributes:
        kind: one of ``DEFECT_KINDS``.
        x, y, width, height: the tight bounding box of the mask, pixels.
        area: pixels in the mask.
        contrast: distance, 0..1, between the mean colour of the defect and that of the ring around it.
        change: mean absolute change of the pixels in the mask, 0..1.
        opacity: share of the defect's colour where it covers a pixel fully, 0..1.
        seed: draws the same defect again on the same picture.
    """

    kind: DefectKind
    x: int
    y: int
    width: int
    height: int
    area: int
    contrast: float
    change: float
    opacity: float
    seed: int


@dataclass(frozen=True)
class DrawnDefect:
    """The picture with the defect (uint8, shape as given), its mask (bool, (H, W)), and the row of the manifest."""

    image: Pixels
    mask: npt.NDArray[np.bool_]
    row: DefectRow


def draw_defect(
    image: Pixels,
    kind: DefectKind,
    seed: int | np.random.Generator,
    *,
    size: tuple[float, float] = (0.10, 0.30),
    opacity: tuple[float, float] = (0.55, 0.95),
    least_change: float = 0.06,
) -> DrawnDefect:
    """Draw one defect at a random place, in a random size and thickness, in colours sampled from the picture.

    The colour is that of a random pixel, blended with what lies beneath. Of up to 12 sampled colours the first that
    changes the picture by ``least_change`` is taken, else the strongest: a defect in exactly the colour of its
    surroundings would be a label without a defect.

    Args:
        image: uint8, (H, W) or (H, W, 3), both sides at least 16 pixels. It is not modified.
        kind: one of ``DEFECT_KINDS``.
        seed: a number, or a generator from which one is drawn; the number is in the row.
        size: range of the defect's extent as a share of the shorter side, 0 < low <= high <= 0.8.
        opacity: range of the blending, 0 < low <= high <= 1. Low values make defects that are hard to see.
        least_change: wanted mean change of the pixels in the mask, 0..1.

    Raises:
        InputError: the picture has another type or shape, the kind is not known, or a range is not possible.
    """
    _check(image, kind, size, opacity)
    number = int(seed.integers(2**32)) if isinstance(seed, np.random.Generator) else int(seed)
    rng = np.random.default_rng(number)
    height, width = image.shape[:2]
    extent = max(4.0, rng.uniform(*size) * min(height, width))
    margin = extent / 2 + 1
    centre = (rng.uniform(margin, width - margin), rng.uniform(margin, height - margin))
    coverage = np.zeros((height, width), np.uint8)
    _DRAWERS[kind](coverage, centre, extent, rng)
    share = rng.uniform(*opacity)

    mask = coverage > 0
    weight = coverage.astype(np.float32)[mask] / 255 * share
    beneath = image[mask].astype(np.float32)
    if image.ndim == 3:
        weight = weight[:, None]
    best, best_change = beneath, -1.0
    for _ in range(_TRIES):
        colour = image[rng.integers(height), rng.integers(width)].astype(np.float32)
        painted = np.rint(beneath * (1 - weight) + colour * weight)
        change = float(np.abs(painted - beneath).mean()) / 255
        if change > best_change:
            best, best_change = painted, change
        if best_change >= least_change:
            break

    drawn = image.copy()
    drawn[mask] = best.astype(np.uint8)
    ys, xs = np.nonzero(mask)
    row = DefectRow(
        kind=kind,
        x=int(xs.min()),
        y=int(ys.min()),
        width=int(np.ptp(xs)) + 1,
        height=int(np.ptp(ys)) + 1,
        area=int(mask.sum()),
        contrast=_contrast(drawn, mask),
        change=best_change,
        opacity=float(share),
        seed=number,
    )
    return DrawnDefect(drawn, mask, row)


def _check(image: Pixels, kind: str, size: tuple[float, float], opacity: tuple[float, float]) -> None:
    grey_or_colour = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not grey_or_colour:
        raise InputError(f"A defect needs uint8 pixels (H, W) or (H, W, 3), not {image.dtype} {image.shape}.")
    if min(image.shape[:2]) < SMALLEST_SIDE:
        raise InputError(f"A picture of {image.shape[:2]} pixels is too small for a defect: 16 are needed each way.")
    if kind not in DEFECT_KINDS:
        raise InputError(f"There is no defect {kind!r}; there are {', '.join(DEFECT_KINDS)}.")
    if not 0 < size[0] <= size[1] <= 0.8:
        raise InputError(f"size={size}: give a range with 0 < low <= high <= 0.8 of the shorter side.")
    if not 0 < opacity[0] <= opacity[1] <= 1:
        raise InputError(f"opacity={opacity}: give a range with 0 < low <= high <= 1.")


def _contrast(image: Pixels, mask: npt.NDArray[np.bool_]) -> float:
    """Return the distance between the mean colours in the mask and in a ring of 5 pixels around it, 0..1."""
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((11, 11), np.uint8)).astype(bool)
    ring = grown & ~mask
    if not ring.any():
        return 0.0
    inside, around = image[mask].astype(np.float64).mean(axis=0), image[ring].astype(np.float64).mean(axis=0)
    return float(np.sqrt(np.mean((np.asarray(inside) - np.asarray(around)) ** 2)) / 255)


# Each drawer paints coverage (0..255, smooth at the edges) into an empty plane. `centre` is (x, y); `extent` is the
# wanted largest side; everything else comes from the generator.
Centre = tuple[float, float]
_AA = cv2.LINE_AA


def _thickness(extent: float, rng: np.random.Generator) -> int:
    return max(1, round(extent * rng.uniform(0.04, 0.16)))


def _turned(points: npt.NDArray[np.float64], centre: Centre, angle: float) -> npt.NDArray[np.int32]:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.rint(points @ np.array([[cos, sin], [-sin, cos]]) + centre).astype(np.int32)


def _box(plane: Pixels, centre: Centre, extent: float, rng: np.random.Generator) -> None:
    # 0.7: the diagonal of a turned box must stay near the extent
    half = 0.5 * 0.7 * extent * np.array([1.0, rng.uniform(0.35, 1.0)])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    points = _turned(corners, centre, rng.uniform(0, np.pi))
    if rng.random() < 0.5:
        cv2.fillConvexPoly(plane, points, 255, _AA)
    else:
        cv2.polylines(plane, [points], True, 255, _thickness(extent, rng), _AA)


def _line(plane: Pixels, centre: Centre, extent: float, rng: np.random.Generator) -> None:
    knots = int(rng.integers(2, 6))
    along = np.linspace(-0.5, 0.5, knots) * extent
    across = rng.normal(0, 0.06 * extent, knots)
    points = _turned(np.column_stack([along, across]), centre, rng.uniform(0, np.pi))
    cv2.polylines(plane, [points], False, 255, _thickness(extent, rng), _AA)


def _letters(plane: Pixels, centre: Centre, extent: float, rng: np.random.Generator) -> None:
    text = "".join(rng.choice(list(_LETTERS), int(rng.integers(1, 4))))
    font = int(rng.choice(_FONTS))
    (width, height), _ = cv2.getTextSize(text, font, 1.0, 1)
    scale = extent / max(width, height)
    thickness = max(1, round(extent * rng.uniform(0.02, 0.07)))
    left = round(centre[0] - width * scale / 2)
    bottom = round(centre[1] + height * scale / 2)
    cv2.putText(plane, text, (left, bottom), font, scale, 255, thickness, _AA)


def _circle(plane: Pixels, centre: Centre, extent: float, rng: np.random.Generator) -> None:
    axes = (round(extent / 2), max(1, round(extent / 2 * rng.uniform(0.5, 1.0))))
    filled = rng.random() < 0.5
    thickness = -1 if filled else _thickness(extent, rng)
    middle = (round(centre[0]), round(centre[1]))
    cv2.ellipse(plane, middle, axes, rng.uniform(0, 180), 0, 360, 255, thickness, _AA)


def _dots(plane: Pixels, centre: Centre, extent: float, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(3, 13))):
        radius = max(1, round(extent * rng.uniform(0.03, 0.10)))
        reach, angle = extent * 0.42 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        spot = (round(centre[0] + reach * np.cos(angle)), round(centre[1] + reach * np.sin(angle)))
        cv2.circle(plane, spot, radius, 255, -1, _AA)


_DRAWERS: dict[str, Callable[[Pixels, Centre, float, np.random.Generator], None]] = {
    "box": _box,
    "line": _line,
    "letters": _letters,
    "circle": _circle,
    "dots": _dots,
}
