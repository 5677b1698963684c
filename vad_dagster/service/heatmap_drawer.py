"""The picture of a prediction: its image, and beside or under the heatmap, drawn anew from the file."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import Row

from vad_dagster.finding_words import map_with_contour
from vad_lib.errors import UnreadableImageError, VadError
from vad_lib.images.budget import LARGE_PICTURES
from vad_lib.images.decoding import DecodedImage, decode_bytes, rgb_picture
from vad_lib.images.paths import format_of, read_known_content
from vad_lib.serving import InferenceService
from vad_lib.serving.warm_models import InTurn

if TYPE_CHECKING:
    from vad_lib.heatmaps import HeatmapScale

JPEG_TYPE = "image/jpeg"
SHOWN_AS_THEY_ARE = ("PNG", "JPEG", "WebP")
MOST_BYTES_AS_THEY_ARE = 4 * 2**20
MOST_SIDE = 2560
"""Pixels of a picture that is not sent as it is."""
OVERLAY_SIDE = 960


class PictureGoneError(VadError):
    """The file is no more what was scored."""


class NoHeatmapError(VadError):
    """The model makes none, or cannot be had."""


def bytes_as_scored(record: Row[Any]) -> bytes:
    """Return the bytes of the image of a prediction: what is read is what is compared and what is shown.

    Raises:
        PictureGoneError: the file cannot be read any more, or holds something else.
    """
    try:
        return read_known_content(Path(record.path), record.sha256)
    except UnreadableImageError as error:
        raise PictureGoneError(f"The image cannot be read any more: {error.reason}.") from error


def shown_by_browsers(record: Row[Any]) -> tuple[bytes, str]:
    """Return the image of a prediction with its media type, as a browser can show it: as it is, or as a JPEG.

    Raises:
        PictureGoneError: see ``bytes_as_scored``.
    """
    data = bytes_as_scored(record)
    if (kind := format_of(data)) in SHOWN_AS_THEY_ARE and len(data) <= MOST_BYTES_AS_THEY_ARE:
        return data, f"image/{kind.lower()}"
    pixels = decode_bytes(data, record.path, sha256=record.sha256).pixels
    with LARGE_PICTURES.hold(pixels.shape[0] * pixels.shape[1]):
        picture = rgb_picture(pixels)
    picture.thumbnail((MOST_SIDE, MOST_SIDE), reducing_gap=2.0)
    return _jpeg(picture), JPEG_TYPE


class Drawer:
    """Draws with the model that made the prediction: the warm one, or one that is loaded and kept until the next."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service
        self._turn = threading.Lock()
        self._drawing = threading.Lock()
        self._loaded: tuple[str, str, InTurn] | None = None

    def draw(self, record: Row[Any]) -> bytes:
        """Return a PNG of the image beside its heatmap. One is drawn at a time: each holds a whole decoded image.

        Raises:
            PictureGoneError: see ``bytes_as_scored``.
            NoHeatmapError: the version makes no maps, or cannot be loaded any more.
        """
        with self._mapped(record) as (image, result_map, scale):
            return _beside(record, image, result_map, scale)

    def overlay(self, record: Row[Any]) -> bytes:
        """Return a JPEG of the image under its heatmap, ``OVERLAY_SIDE`` pixels long; see ``draw``.

        Raises:
            PictureGoneError, NoHeatmapError: as ``draw``.
        """
        from vad_lib.heatmaps import draw_overlay

        with self._mapped(record) as (image, result_map, scale):
            return _jpeg(draw_overlay(image.pixels, result_map, scale, side=OVERLAY_SIDE))

    @contextmanager
    def _mapped(self, record: Row[Any]) -> Iterator[tuple[DecodedImage, NDArray[np.float32], HeatmapScale]]:
        """Yield the image of a prediction, its map and its scale, while nobody else draws."""
        data = bytes_as_scored(record)
        model = self._model(record.line, record.model_version)
        scale = getattr(model.model, "heatmap_scale", None)
        if scale is not None:
            with self._drawing:
                image = decode_bytes(data, record.path, sha256=record.sha256)
                (result,) = model.predict_pixels([image.values], with_maps=True)
                if result.map is not None:
                    yield image, result.map, scale
                    return
        raise NoHeatmapError(f"The model {record.model_version} makes no heatmaps.")

    def map_of(self, record: Row[Any], image: DecodedImage) -> tuple[NDArray[np.float32], float] | None:
        """Return the anomaly map of a prediction and its contour; None where the version makes no maps.

        Raises:
            NoHeatmapError: the version cannot be loaded any more.
        """
        model = self._model(record.line, record.model_version)
        return map_with_contour(model, getattr(model.model, "heatmap_scale", None), image)

    def _model(self, line: str, version: str) -> InTurn:
        warm = self._service.models.get(line)
        if warm is not None and warm.version == version:
            return warm.model
        with self._turn:
            if self._loaded is None or self._loaded[:2] != (line, version):
                try:
                    self._loaded = (line, version, self._service.models.load(line, version))
                except Exception as error:  # whatever the registry or the files say
                    raise NoHeatmapError(f"The model {version} cannot be loaded any more: {error}") from error
            return self._loaded[2]


def _beside(record: Row[Any], image: DecodedImage, result_map: NDArray[np.float32], scale: HeatmapScale) -> bytes:
    from vad_lib.heatmaps import draw_heatmap

    picture = draw_heatmap(
        image.pixels,
        result_map,
        scale,
        title=Path(record.path).name,
        p=record.p,
        raw_score=record.raw_score,
        predicted=record.predicted,
        inference_threshold=record.inference_threshold,
    )
    stream = io.BytesIO()
    picture.save(stream, format="PNG", compress_level=2)
    return stream.getvalue()


def _jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=88, subsampling=0)
    return stream.getvalue()
