"""Pictures of anomaly maps: the image beside its overlay, a colour bar with the contour's value, and a caption.

All pictures of one model version share one scale (`HeatmapScale`), so equal colours mean equal map values in any two
of them. Drawing takes some ten milliseconds a picture: PIL and numpy only, colour tables and bars are made once.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vad_lib.images.budget import LARGE_PICTURES
from vad_lib.images.decoding import rgb_picture
from vad_lib.tables import NG
from vad_lib.thresholds import LearningRule, learn_threshold

PANEL = 384
"""The longer side of each of the two panels, in pixels."""

_COLOUR_MAP = "inferno"  # perceptually uniform, and black at its low end, where the overlay is transparent
_OPACITY = 0.78
_CONTOUR = (0, 229, 255)  # far from every colour of the map
_PAPER, _INK, _FAINT = (255, 255, 255), (24, 24, 27), (113, 113, 122)
_EDGE = (212, 212, 216)
_BAR_WIDTH, _GAP = 18, 10
_LEAST_WIDTH = 440  # room for the caption over a narrow image


class HeatmapScale(BaseModel):
    """Which map values the colours stand for; fixed for one version of a model."""

    model_config = ConfigDict(frozen=True)

    low: float = Field(allow_inf_nan=False, description="Drawn transparent, and everything below.")
    high: float = Field(allow_inf_nan=False, description="Drawn in the brightest colour, and everything above.")
    contour: float = Field(
        allow_inf_nan=False,
        description="Map value at which contours are drawn. It is no threshold: images are decided by their raw score.",
    )

    @model_validator(mode="after")
    def _check_order(self) -> HeatmapScale:
        if not self.low < self.high:
            raise ValueError(f"a heatmap scale needs low < high, not {self.low} and {self.high}")
        return self

    def fractions(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return where map values lie on the scale, 0 at low and 1 at high, cut to that."""
        spread = np.float32(1 / (self.high - self.low))
        return np.clip((np.nan_to_num(values) - np.float32(self.low)) * spread, 0, 1, dtype=np.float32)


PROBABILITIES = HeatmapScale(low=0.0, contour=0.5, high=1.0)
"""The scale of a model that judges by probabilities, where there was no map to learn one from."""


def learn_heatmap_scale(maps: Iterable[ArrayLike], is_ng: ArrayLike) -> HeatmapScale:
    """Learn the scale of a model version from the maps of its validation images.

    The contour is the map value that best tells by its maximum which images were decided NG, so a contour appears
    where the decision comes from, also for detectors whose image score is not simply the map's maximum. It is therefore
    a number of its own beside the threshold on the raw score, and an image decided OK may bear one. Low is the usual
    value of images decided OK (the median of their medians). High is the 95th percentile of the NG maxima, within 1.25
    to 4 times the distance from low to the contour.

    Args:
        maps: one (H, W) array an image; read once, one at a time.
        is_ng: the decisions, shape (N,), boolean.

    Raises:
        ValueError: no maps, or not as many as decisions.
    """
    flags = np.asarray(is_ng, dtype=bool)
    facts = np.array([[float(np.median(one)), float(np.max(one))] for one in map(np.asarray, maps)]).reshape(-1, 2)
    if len(facts) == 0 or len(facts) != len(flags):
        raise ValueError(
            f"{len(facts)} maps and {len(flags)} decisions: a heatmap scale needs one map for each, and one"
        )
    medians, maxima = facts.T
    contour = learn_threshold(maxima, flags, LearningRule(percentile=1.0)).value
    low = float(np.median(medians[~flags] if (~flags).any() else medians))
    return _scale_about(low, contour, float(np.quantile(maxima[flags], 0.95)) if flags.any() else None)


def draw_heatmap(
    pixels: NDArray[np.uint8],
    anomaly_map: NDArray[np.float32],
    scale: HeatmapScale,
    *,
    title: str = "",
    p: float | None = None,
    raw_score: float | None = None,
    predicted: str = "",
    true_label: str = "",
    is_anomalous: bool | None = None,
    inference_threshold: float = 0.5,
) -> Image.Image:
    """Draw an image beside itself with its anomaly map over it.

    The panels keep the image's aspect ratio, with the longer side `PANEL` pixels; small images are enlarged without
    smoothing, so that their pixels can be seen.

    Args:
        pixels: uint8, (H, W) grey or (H, W, 3) RGB.
        anomaly_map: (h, w), any size; it is stretched over the whole image. NaN counts as 0.
        scale: of the model version.
        title: the image's name.
        p, raw_score, predicted, true_label: for the caption; what is not given is left out.
        is_anomalous: the truth; with `predicted` the caption says 'miss' or 'false alarm'.
        inference_threshold: where NG begins on p.

    Returns:
        An RGB picture, about 2 * PANEL + 110 pixels wide.
    """
    with LARGE_PICTURES.hold(pixels.shape[0] * pixels.shape[1]):
        original = _panel(pixels)
    overlay = _overlay(original, anomaly_map, scale)
    width, height = original.size
    bar = _colour_bar(scale, height)
    caption = _caption_height(has_title=bool(title))
    panels = 2 * width + 2 * _GAP + bar.width
    picture = Image.new("RGB", (max(panels, _LEAST_WIDTH), height + caption), _PAPER)
    picture.paste(original, (0, caption))
    picture.paste(overlay, (width + _GAP, caption))
    picture.paste(bar, (2 * width + 2 * _GAP, caption))
    for left in (0, width + _GAP):  # a white picture on white paper would have no edge
        ImageDraw.Draw(picture).rectangle((left, caption, left + width - 1, caption + height - 1), outline=_EDGE)
    _write_caption(
        picture, title, _decision_text(predicted, true_label, is_anomalous), _numbers(p, raw_score, inference_threshold)
    )
    return picture


def draw_overlay(
    pixels: NDArray[np.uint8], anomaly_map: NDArray[np.float32], scale: HeatmapScale, *, side: int
) -> Image.Image:
    """Draw an image with its anomaly map over it and nothing beside it.

    Args:
        pixels: uint8, (H, W) grey or (H, W, 3) RGB.
        anomaly_map: (h, w), any size; it is stretched over the whole image. NaN counts as 0.
        scale: of the model version.
        side: the longer side of the picture in pixels.
    """
    with LARGE_PICTURES.hold(pixels.shape[0] * pixels.shape[1]):
        original = _panel(pixels, side)
    return _overlay(original, anomaly_map, scale)


def save_picture(picture: Image.Image, file: Path) -> None:
    """Write a picture as JPEG if the file's name says so (.jpg, .jpeg in any letter case), else as PNG."""
    if file.suffix.lower() in (".jpg", ".jpeg"):
        # Without chroma subsampling the contour stays sharp.
        picture.save(file, format="JPEG", quality=90, subsampling=0)
    else:
        picture.save(file, format="PNG", compress_level=2)


def thumbnail_markdown(picture: Image.Image, name: str, width: int = 480) -> str:
    """Return a picture as markdown with the bytes inside, at most `width` pixels wide, for metadata and reports."""
    return f"![{_plain(name)}]({data_url(picture, width)})"


def data_url(picture: Image.Image, width: int = 480, quality: int = 80, subsampling: int = -1) -> str:
    """Return a picture as a data: URL of a JPEG at most `width` pixels wide; subsampling 0 keeps fine colours."""
    small = picture.convert("RGB")
    if small.width > width:
        small = small.resize((width, max(1, round(small.height * width / small.width))), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=quality, subsampling=subsampling)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def contact_sheet(pictures: Sequence[Image.Image], columns: int = 3, cell_width: int = 420) -> Image.Image:
    """Return pictures side by side in rows, in the order given, each scaled to `cell_width`.

    Raises:
        ValueError: there is no picture.
    """
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    columns = min(columns, len(pictures))
    cells = [
        picture.convert("RGB").resize(
            (cell_width, max(1, round(picture.height * cell_width / picture.width))), Image.Resampling.LANCZOS
        )
        for picture in pictures
    ]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    size = (columns * (cell_width + _GAP) + _GAP, sum(heights) + _GAP * (len(rows) + 1))
    sheet = Image.new("RGB", size, _PAPER)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for place, cell in enumerate(row):
            sheet.paste(cell, (_GAP + place * (cell_width + _GAP), top))
        top += height + _GAP
    return sheet


def _scale_about(low: float, contour: float, high: float | None) -> HeatmapScale:
    """Place low and high so that low < contour < high; distances that vanish become 1e-4 of the magnitude."""
    distance = max(contour - low, 1e-4 * (abs(contour) or 1.0))
    wanted = 2.0 if high is None else (high - low) / distance
    low = contour - distance
    return HeatmapScale(low=low, high=low + distance * min(max(wanted, 1.25), 4.0), contour=contour)


def _panel(pixels: NDArray[np.uint8], side: int = PANEL) -> Image.Image:
    image = rgb_picture(pixels)
    factor = side / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    if factor >= 2:
        return image.resize(size, Image.Resampling.NEAREST)
    # reducing_gap shrinks large images by whole factors first: fast, and no visible difference
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _overlay(original: Image.Image, anomaly_map: NDArray[np.float32], scale: HeatmapScale) -> Image.Image:
    values = np.asarray(anomaly_map, dtype=np.float32)
    if values.ndim != 2:
        raise ValueError(f"an anomaly map is (H, W), not {values.shape}")
    # Infinities would spread over their neighbours when the map is stretched.
    values = np.nan_to_num(values, nan=0.0, posinf=scale.high, neginf=scale.low)
    stretched = np.asarray(Image.fromarray(values).resize(original.size, Image.Resampling.BILINEAR))
    fractions = scale.fractions(stretched)
    levels = (fractions * 255).astype(np.uint8)
    # Fixed-point blending in 16 bits: twice as fast as in floats.
    opacity = (_opacity_table()[levels])[..., None]
    base = np.asarray(original, dtype=np.uint16)
    mixed = ((base * (256 - opacity) + _colour_table()[levels] * opacity) >> 8).astype(np.uint8)
    _draw_contour(mixed, stretched >= scale.contour)
    return Image.fromarray(mixed)


def _draw_contour(pixels: NDArray[np.uint8], inside: NDArray[np.bool_]) -> None:
    if inside.any():
        pixels[_ring(inside, 2)] = (0, 0, 0)
        pixels[_ring(inside, 1)] = _CONTOUR


def small_picture(
    pixels: NDArray[np.uint8], side: int, anomaly_map: NDArray[np.float32] | None = None, contour: float = 0.0
) -> Image.Image:
    """Return an image made smaller, with the contour of what is anomalous where a map is given.

    Args:
        pixels: uint8, (H, W) grey or (H, W, 3) RGB.
        side: of the longer side in pixels, at most; a smaller image keeps its size.
        anomaly_map: (h, w), any size; it is stretched over the whole image. NaN counts as 0.
        contour: value of the map from which on a place is anomalous.
    """
    picture = rgb_picture(pixels)
    picture.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    if anomaly_map is None:
        return picture
    values = Image.fromarray(np.nan_to_num(np.asarray(anomaly_map, dtype=np.float32)))
    drawn = np.array(picture)
    _draw_contour(drawn, np.asarray(values.resize(picture.size, Image.Resampling.BILINEAR)) >= contour)
    return Image.fromarray(drawn)


def _ring(inside: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Return the pixels just outside and inside the border of a region, `width` deep on each side."""
    ring = np.zeros_like(inside)
    padded = np.pad(inside, width, mode="edge")
    height, length = inside.shape
    for dy, dx in ((0, width), (0, -width), (width, 0), (-width, 0)):
        shifted = padded[width + dy : width + dy + height, width + dx : width + dx + length]
        ring |= shifted != inside
    return ring


@lru_cache(maxsize=1)
def _colour_table() -> NDArray[np.uint16]:
    import matplotlib

    table = matplotlib.colormaps[_COLOUR_MAP](np.arange(256))[:, :3]
    return np.asarray((table * 255).round(), dtype=np.uint16)


@lru_cache(maxsize=1)
def _opacity_table() -> NDArray[np.uint16]:
    """Opacity of each level, of 256: what is ordinary stays visible, what is not is covered by its colour."""
    return np.asarray((np.linspace(0, 1, 256) ** 0.8 * _OPACITY * 256).round(), dtype=np.uint16)


@lru_cache(maxsize=64)
def _colour_bar(scale: HeatmapScale, height: int) -> Image.Image:
    """Draw the bar with low, contour and high written beside it. A caller must not draw on it."""
    font = _font(12)
    at_contour = (scale.contour - scale.low) / (scale.high - scale.low)
    labels = {0.0: f"≤ {scale.low:.3g}", 1.0: f"≥ {scale.high:.3g}"}
    wide = max(font.getlength(text) for text in (*labels.values(), "contour", f"{scale.contour:.4g}"))
    bar = Image.new("RGB", (_BAR_WIDTH + 12 + math.ceil(wide), height), _PAPER)
    draw = ImageDraw.Draw(bar)
    top, bottom = 6, height - 7
    for row in range(top, bottom + 1):
        fraction = (bottom - row) / max(1, bottom - top)
        draw.line([(0, row), (_BAR_WIDTH - 1, row)], fill=tuple(int(c) for c in _colour_table()[round(fraction * 255)]))
    for fraction, text in labels.items():
        beside = min(max(bottom - fraction * (bottom - top), 7), height - 8)
        draw.text((_BAR_WIDTH + 8, beside), text, font=font, fill=_FAINT, anchor="lm")
    y = round(bottom - min(max(at_contour, 0), 1) * (bottom - top))
    draw.line([(0, y), (_BAR_WIDTH + 5, y)], fill=(0, 0, 0), width=5)
    draw.line([(0, y), (_BAR_WIDTH + 5, y)], fill=_CONTOUR, width=3)
    if height >= 110:  # else there is no room between the ends
        middle = min(max(y, 38), height - 40)
        draw.text((_BAR_WIDTH + 8, middle - 7), "contour", font=font, fill=_INK, anchor="lm")
        draw.text((_BAR_WIDTH + 8, middle + 7), f"{scale.contour:.4g}", font=font, fill=_INK, anchor="lm")
    return bar


@lru_cache(maxsize=8)
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _caption_height(*, has_title: bool) -> int:
    return 44 if has_title else 26


def _write_caption(picture: Image.Image, title: str, decision: tuple[str, tuple[int, int, int]], numbers: str) -> None:
    draw = ImageDraw.Draw(picture)
    y = 5
    if title:
        draw.text((4, y), _shorten(_plain(title), _font(12), picture.width - 8), font=_font(12), fill=_FAINT)
        y += 17
    text, colour = decision
    bold = _font(13, bold=True)
    text = _shorten(text, bold, picture.width - 8)
    draw.text((4, y), text, font=bold, fill=colour)
    left = 4 + bold.getlength(text) + 14 if text else 4
    draw.text((left, y + 1), _shorten(numbers, _font(12), picture.width - left - 4), font=_font(12), fill=_INK)


def _decision_text(predicted: str, true_label: str, is_anomalous: bool | None) -> tuple[str, tuple[int, int, int]]:
    parts = [f"predicted {predicted}"] if predicted else []
    colour = (185, 28, 28) if predicted == NG else (21, 128, 61)
    if true_label:
        parts.append(f"true {_plain(true_label)}")
    text = ", ".join(parts)
    if predicted and is_anomalous is not None and is_anomalous != (predicted == NG):
        return f"{text}: {'MISS' if is_anomalous else 'FALSE ALARM'}", (194, 65, 12)
    return text, colour


def _numbers(p: float | None, raw_score: float | None, inference_threshold: float) -> str:
    parts = [f"p {p:.3f} (NG from {inference_threshold:g})"] if p is not None else []
    if raw_score is not None:
        parts.append(f"raw {raw_score:.4g}")
    return "   ".join(parts)


def _plain(text: str) -> str:
    """Replace what would break a line, a picture's text or markdown."""
    return "".join("_" if not character.isprintable() or character in "[]()`<>" else character for character in text)


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Take characters out of the middle until the text fits."""
    if not text or font.getlength(text) <= width:
        return text
    keep = max(2, int(len(text) * width / font.getlength(text)) - 1)
    while keep > 2 and font.getlength(text[: keep // 2] + "…" + text[-(keep - keep // 2) :]) > width:
        keep -= 1
    return text[: keep // 2] + "…" + text[-(keep - keep // 2) :]
