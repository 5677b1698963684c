"""Images that come by the web land like any other: written into the landing folder, and then waited for."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Row, desc, select
from starlette.concurrency import run_in_threadpool

from vad_lib.atomic_files import write_whole
from vad_lib.errors import VadError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.schema import PENDING, landings, predictions
from vad_lib.landing.completeness import JPEG_START, PNG_START
from vad_lib.scorer import FastLane
from vad_lib.scorer.taking_up import Decided

UPLOADS = "uploads"
_writing = [threading.Lock() for _ in range(16)]
"""By content: of those who send the same, one writes."""


class NotAnImageError(VadError):
    """The bytes are neither PNG nor JPEG."""


class LandingFolderError(VadError):
    """The image cannot be written into the landing folder."""


@dataclass(frozen=True)
class Answer:
    """``known``: it was scored before; ``waiting``: it landed, and its result comes later."""

    state: Literal["known", "done", "refused", "waiting"]
    sha256: str
    prediction: Row[Any] | None = None
    reason: str = ""


@dataclass(frozen=True)
class _Landed:
    """An upload whose decision is waited for. ``version``: of the model that was warm when it landed."""

    sha256: str
    path: str
    version: str | None
    decision: Future[Decided]


def newest_prediction(
    db: InspectionDatabase, line: str, sha256: str, model_version: str | None = None
) -> Row[Any] | None:
    """Return the newest prediction of a content, of one version or of any."""
    statement = select(predictions).where(predictions.c.line == line, predictions.c.sha256 == sha256)
    if model_version is not None:
        statement = statement.where(predictions.c.model_version == model_version)
    with db.reading() as connection:
        return connection.execute(statement.order_by(desc(predictions.c.prediction_id)).limit(1)).one_or_none()


def _waits_for_its_decision(db: InspectionDatabase, line: str, path: str, target: Path, size: int) -> bool:
    """Whether the file lies there, and nobody has decided about it yet: to write it anew would take it from them."""
    try:
        facts = target.stat()
    except FileNotFoundError:
        return False
    if facts.st_size != size:
        return False
    decided = select(landings.c.seq).where(
        landings.c.line == line,
        landings.c.path == path,
        landings.c.size == size,
        landings.c.mtime_ns == facts.st_mtime_ns,
        landings.c.state != PENDING,
    )
    with db.reading() as connection:
        return connection.execute(decided).first() is None


async def land_upload(lane: FastLane, line: str, data: bytes, seconds: float) -> Answer:
    """Let an image land and wait for its result at most so many seconds, without a thread of its own.

    The same bytes again are not scored again: their name is their sha256. While they wait they are not written again
    either.

    Raises:
        NotAnImageError: neither PNG nor JPEG.
        LandingFolderError: the landing folder cannot be written to.
    """
    landed = await run_in_threadpool(_land, lane, line, data)
    if isinstance(landed, Answer):
        return landed
    try:
        # The future is left as it is when the time is over: somebody may be about to set it.
        await asyncio.wait([asyncio.wrap_future(landed.decision)], timeout=seconds)
    finally:
        lane.expected.forget(line, landed.path, landed.decision)
    return await run_in_threadpool(_answer, lane.db, line, landed)


def _land(lane: FastLane, line: str, data: bytes) -> Answer | _Landed:
    suffix = ".png" if data.startswith(PNG_START) else ".jpg" if data.startswith(JPEG_START) else ""
    if not suffix:
        raise NotAnImageError("The body is neither a PNG nor a JPEG file. Send the bytes of the file as they are.")
    sha = hashlib.sha256(data).hexdigest()
    warm = lane.models.get(line)
    known = newest_prediction(lane.db, line, sha, warm.version) if warm is not None else None
    if known is not None:
        return Answer("known", sha, known)
    path = f"{UPLOADS}/{sha}{suffix}"
    target = lane.watched[line].folder / path
    landed = _Landed(sha, path, warm.version if warm else None, lane.expected.expect(line, path))
    try:
        with _writing[int(sha[:2], 16) % len(_writing)]:
            if not _waits_for_its_decision(lane.db, line, path, target, len(data)):
                target.parent.mkdir(parents=True, exist_ok=True)
                write_whole(target, data)
    except OSError as error:
        lane.expected.forget(line, path, landed.decision)
        raise LandingFolderError(
            f"{target.parent} cannot be written to: {error.strerror or error}. Make room or give the right."
        ) from error
    except BaseException:
        lane.expected.forget(line, path, landed.decision)
        raise
    lane.hint(line, target)
    return landed


def _answer(db: InspectionDatabase, line: str, landed: _Landed) -> Answer:
    if not landed.decision.done():
        found = newest_prediction(db, line, landed.sha256, landed.version)
        return Answer("done" if found is not None else "waiting", landed.sha256, found)
    decided = landed.decision.result()
    found = newest_prediction(db, line, landed.sha256)
    # A duplicate of an image that landed elsewhere has that one's result.
    if found is not None:
        return Answer("done", landed.sha256, found)
    return Answer("refused" if decided.state == "refused" else "waiting", landed.sha256, None, decided.reason or "")
