"""Small pictures of inspected images for lists of them: drawn once, kept for all browsers, and never in a hurry."""

from __future__ import annotations

import asyncio
import io
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from sqlalchemy import Row
from starlette.concurrency import run_in_threadpool

from vad_dagster.service.heatmap_drawer import Drawer, PictureGoneError, bytes_as_scored
from vad_lib.errors import UnreadableImageError
from vad_lib.images.decoding import decode_bytes
from vad_lib.serving import InferenceService
from vad_lib.tables import NG

SIDE = 320
"""The longer side in pixels, at most."""
MOST_BYTES = 64 * 2**20
"""Of all that is kept: some 5,000 pictures."""
MOST_WAITING = 64
"""Requests that wait for a picture to be drawn; one more is asked to come again."""
REST = 10.0
"""While images wait to be inspected, drawing rests for so many times as long as it took."""
LONGEST_REST_SECONDS = 3.0
FOR_EVER, NOT_FOR_LONG = "private, max-age=31536000, immutable", "private, max-age=60"


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG, and for how long browsers may keep it."""

    data: bytes
    kept: str = FOR_EVER


class Thumbnails:
    """Draws one picture at a time. Results do not wait for it: while the queue is not empty, it draws rarely.

    Args:
        service: whose warm models mark what is anomalous.
        drawer: makes their maps.
    """

    def __init__(self, service: InferenceService, drawer: Drawer) -> None:
        self._service, self._drawer = service, drawer
        self._kept: OrderedDict[tuple[str, int], Thumbnail] = OrderedDict()
        self._bytes = 0
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0
        self._not_before = 0.0

    async def of(self, record: Row[Any], is_away: Callable[[], Awaitable[bool]]) -> Thumbnail | None:
        """Return the picture of a prediction; None where its image is gone.

        Args:
            record: the prediction.
            is_away: whether whoever asked has gone meanwhile; then nothing is drawn.

        Raises:
            HTTPException: 503 where too many wait already.
        """
        if (kept := self.drawn(record.line, record.prediction_id)) is not None:
            return kept
        if self._waiting >= MOST_WAITING:
            raise HTTPException(503, "Too many pictures are being drawn: try again.", {"Retry-After": "2"})
        self._waiting += 1
        try:
            async with self._turn:
                # somebody else may have asked for the same one
                kept = self.drawn(record.line, record.prediction_id)
                if kept is not None or await is_away():
                    return kept
                await self._rest()
                began = time.monotonic()
                try:
                    drawn = await run_in_threadpool(self._draw, record)
                except (PictureGoneError, UnreadableImageError):
                    return None
                ended = time.monotonic()
                self._not_before = ended + min(LONGEST_REST_SECONDS, REST * (ended - began))
        finally:
            self._waiting -= 1
        self._keep((record.line, record.prediction_id), drawn)
        return drawn

    async def _rest(self) -> None:
        while self._service.waiting and (left := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.1))

    def drawn(self, line: str, prediction_id: int) -> Thumbnail | None:
        """Return the picture of a prediction where it is drawn already."""
        key = line, prediction_id
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def _keep(self, key: tuple[str, int], drawn: Thumbnail) -> None:
        if drawn.kept != FOR_EVER:
            return
        self._kept[key] = drawn
        self._bytes += len(drawn.data)
        while self._bytes > MOST_BYTES:
            self._bytes -= len(self._kept.popitem(last=False)[1].data)

    def _draw(self, record: Row[Any]) -> Thumbnail:
        """Draw it: an NG one with its contour where the version that saw it is warm; no other is loaded for this."""
        from vad_lib.heatmaps import small_picture

        image = decode_bytes(bytes_as_scored(record), record.path, sha256=record.sha256)
        warm = self._service.models.get(record.line) if record.predicted == NG else None
        is_warm = warm is not None and warm.version == record.model_version
        marked = self._drawer.map_of(record, image) if is_warm else None
        stream = io.BytesIO()
        small_picture(image.pixels, SIDE, *(marked or ())).save(stream, format="JPEG", quality=85)
        return Thumbnail(stream.getvalue(), FOR_EVER if is_warm or record.predicted != NG else NOT_FOR_LONG)
