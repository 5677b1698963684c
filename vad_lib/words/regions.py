"""Regions of an anomaly map: where it rises above the contour, in numbers and in words, and boxes drawn around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from vad_lib.words.places import place_of

MOST_REGIONS = 6
PEAK_SIDE = 0.12
"""Share of a side that the box around a bare maximum has."""
LEAST_AREA = 0.0002
"""Share of the map below which a region is left out, unless it holds the maximum."""
SMALLEST_HALF = 256
"""Pixels of the longer side that a small region is enlarged to: models see little in fewer."""
_COLOUR, _EDGE = (0, 229, 255), (0, 0, 0)

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, each a share of the picture's side, 0 to 1."""


@dataclass(frozen=True)
class Region:
    """One region.

    Attributes:
        number: from 1; the highest value of the map comes first.
        box: around it.
        place: one of nine places of the picture, in words.
        area: share of the picture.
        peak: the highest value of the map in it.
        is_above: whether the map reaches the contour there; else it is only where the map is highest.
    """

    number: int
    box: Box
    place: str
    area: float
    peak: float
    is_above: bool = True

    def told(self) -> dict[str, Any]:
        """Return it JSON-ready, in words and in percent of the picture's sides."""
        left, top, right, bottom = (round(100 * side) for side in self.box)
        return {
            "number": self.number,
            "place": self.place,
            "left_percent": left,
            "top_percent": top,
            "right_percent": right,
            "bottom_percent": bottom,
            "area_percent": round(100 * self.area, 2),
            "map_peak": float(f"{self.peak:.4g}"),
            "above_contour": self.is_above,
        }


def find_regions(
    anomaly_map: npt.ArrayLike, contour: float, *, most: int = MOST_REGIONS, at_least_one: bool = False
) -> list[Region]:
    """Return the connected areas of a map that reach its contour, the one with the highest value first.

    Args:
        anomaly_map: (H, W), both at least 3; it lies over the whole picture, whatever its size. NaN counts as the
            lowest value.
        contour: the map value from which on an area counts.
        most: regions at most.
        at_least_one: where nothing reaches the contour, return the place of the maximum: an image may be NG by a score
            that is not the map's maximum.
    """
    from skimage.measure import label, regionprops

    values = np.asarray(anomaly_map, np.float32)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return []
    values = np.nan_to_num(values, nan=finite.min(), posinf=finite.max(), neginf=finite.min())
    height, width = values.shape
    found = regionprops(label(values >= contour, connectivity=2), values)
    found = sorted(found, key=lambda region: (-region.intensity_max, -region.area, region.bbox))
    regions: list[Region] = []
    for region in found:
        share = float(region.area) / values.size
        if len(regions) == most or (regions and share < LEAST_AREA):
            continue
        top, left, bottom, right = region.bbox
        inside = np.zeros(values.shape, bool)
        inside[region.slice] = region.image
        box = (left / width, top / height, right / width, bottom / height)
        regions.append(Region(len(regions) + 1, box, place_of(inside), share, float(region.intensity_max)))
    if not regions and at_least_one:
        regions.append(_around_peak(values))
    return regions


def _around_peak(values: npt.NDArray[np.float32]) -> Region:
    height, width = values.shape
    row, column = np.unravel_index(int(np.argmax(values)), values.shape)
    inside = np.zeros(values.shape, bool)
    inside[row, column] = True
    x, y = (float(column) + 0.5) / width, (float(row) + 0.5) / height
    half = PEAK_SIDE / 2
    box = (max(0.0, x - half), max(0.0, y - half), min(1.0, x + half), min(1.0, y + half))
    return Region(1, box, place_of(inside), 1 / values.size, float(values[row, column]), is_above=False)


def draw_boxes(picture: Image.Image, regions: Sequence[Region]) -> Image.Image:
    """Return a copy of an RGB picture with a numbered box around each region, a little apart from it."""
    drawn = picture.copy()
    draw = ImageDraw.Draw(drawn)
    width, height = drawn.size
    thick, apart = max(2, max(drawn.size) // 300), max(3, max(drawn.size) // 150)
    font = ImageFont.load_default(max(12, max(drawn.size) // 24))
    for region in regions:
        left, top, right, bottom = region.box
        corners = (
            *(max(0, round(left * width) - apart), max(0, round(top * height) - apart)),
            *(min(width - 1, round(right * width) + apart), min(height - 1, round(bottom * height) + apart)),
        )
        draw.rectangle(corners, outline=_EDGE, width=thick + 2)
        draw.rectangle(corners, outline=_COLOUR, width=thick)
        text = str(region.number)
        tall = draw.textbbox((0, 0), text, font=font)[3] + 4
        # above the box where there is room, else inside it
        at = (corners[0] + 2, corners[1] - tall if corners[1] >= tall else corners[1] + 2)
        draw.text(at, text, font=font, fill=_COLOUR, stroke_width=2, stroke_fill=_EDGE)
    return drawn


def beside_reference(image: Image.Image, reference: Image.Image | None, region: Region, largest: int) -> Image.Image:
    """Return the surroundings of a region, at least twice as large, beside the same place of a reference.

    Args:
        image: what was inspected, RGB, in full size.
        reference: a normal image, of any size; None: there is none.
        region: of the image.
        largest: pixels of the longer side of each half at most.
    """
    box = _surroundings(region.box)
    left = _cut(image, box)
    factor = min(max(2.0, SMALLEST_HALF / max(left.size)), largest / max(left.size))
    size = (max(1, round(left.width * factor)), max(1, round(left.height * factor)))
    left = left.resize(size, Image.Resampling.BICUBIC)
    if reference is None:
        return left
    pair = Image.new("RGB", (2 * size[0] + 8, size[1]), "white")
    pair.paste(left, (0, 0))
    pair.paste(_cut(reference, box).resize(size, Image.Resampling.BICUBIC), (size[0] + 8, 0))
    return pair


def _surroundings(box: Box) -> Box:
    sides = []
    for low, high in ((box[0], box[2]), (box[1], box[3])):
        half = max(0.75 * (high - low), 0.08)
        middle = (low + high) / 2
        sides.append((max(0.0, middle - half), min(1.0, middle + half)))
    (left, right), (top, bottom) = sides
    return left, top, right, bottom


def _cut(image: Image.Image, box: Box) -> Image.Image:
    width, height = image.size
    left, top = min(width - 1, int(box[0] * width)), min(height - 1, int(box[1] * height))
    return image.crop((left, top, max(left + 1, round(box[2] * width)), max(top + 1, round(box[3] * height))))
