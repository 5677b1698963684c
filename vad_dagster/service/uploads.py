"""Images that come by the web arrive like any other: written into the watch folder, and then waited for."""

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
from vad_lib.images.paths import FORMATS_TEXT, IMAGE_FORMATS, format_of
from vad_lib.ingest import FileVersion
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.schema import REFUSED, incoming_files, predictions
from vad_lib.queue import Decision, known_versions
from vad_lib.serving import InferenceService

UPLOADS = "uploads"
_writing = [threading.Lock() for _ in range(16)]
"""By content: of those who send the same, one writes."""


class NotAnImageError(VadError):
    """The bytes are of no format that is read."""


class WatchFolderError(VadError):
    """The image cannot be written into the watch folder."""


@dataclass(frozen=True)
class Answer:
    """``known``: it was scored before; ``waiting``: it written, and its result comes later."""

    state: Literal["known", "done", "refused", "waiting"]
    sha256: str
    prediction: Row[Any] | None = None
    reason: str = ""


@dataclass(frozen=True)
class _Written:
    """An upload whose decision is waited for."""

    sha256: str
    path: str
    decision: Future[Decision]


def newest_prediction(db: InspectionDatabase, line: str, sha256: str) -> Row[Any] | None:
    """Return the newest prediction of a content, whichever version made it."""
    statement = select(predictions).where(predictions.c.line == line, predictions.c.sha256 == sha256)
    with db.reading() as connection:
        return connection.execute(statement.order_by(desc(predictions.c.prediction_id)).limit(1)).one_or_none()


def _waits_for_its_decision(db: InspectionDatabase, line: str, path: str, target: Path) -> bool:
    """Whether the file lies there, and nobody has decided about it yet: to write it anew would take it from them."""
    try:
        version = FileVersion.of(path, target.stat())
    except FileNotFoundError:
        return False
    return version not in known_versions(db, line, [version], decided=True)


async def take_upload(service: InferenceService, line: str, data: bytes, seconds: float) -> Answer:
    """Let an image arrive and wait for its result at most so many seconds, without a thread of its own.

    The same bytes again are not scored again, by whichever version they were: their name is their sha256. While they
    wait they are not written again either.

    Raises:
        NotAnImageError: of no format that is read.
        WatchFolderError: the watch folder cannot be written to.
    """
    written = await run_in_threadpool(_write, service, line, data)
    if isinstance(written, Answer):
        return written
    try:
        # The future is left as it is when the time is over: somebody may be about to set it.
        await asyncio.wait([asyncio.wrap_future(written.decision)], timeout=seconds)
    finally:
        service.expected.forget(line, written.path, written.decision)
    return await run_in_threadpool(_answer, service.db, line, written)


def _write(service: InferenceService, line: str, data: bytes) -> Answer | _Written:
    kind = format_of(data)
    if not kind:
        raise NotAnImageError(f"The body is no {FORMATS_TEXT} file. Send the bytes of the file as they are.")
    sha = hashlib.sha256(data).hexdigest()
    if (known := newest_prediction(service.db, line, sha)) is not None:
        return Answer("known", sha, known)
    path = f"{UPLOADS}/{sha}{IMAGE_FORMATS[kind][0]}"
    target = service.watched[line].folder / path
    written = _Written(sha, path, service.expected.expect(line, path))
    try:
        with _writing[int(sha[:2], 16) % len(_writing)]:
            if not _waits_for_its_decision(service.db, line, path, target):
                target.parent.mkdir(parents=True, exist_ok=True)
                write_whole(target, data)
    except OSError as error:
        service.expected.forget(line, path, written.decision)
        raise WatchFolderError(
            f"{target.parent} cannot be written to: {error.strerror or error}. Make room or give the right."
        ) from error
    except BaseException:
        service.expected.forget(line, path, written.decision)
        raise
    service.hint(line, target)
    return written


def _answer(db: InspectionDatabase, line: str, written: _Written) -> Answer:
    if not written.decision.done():
        found = newest_prediction(db, line, written.sha256)
        return Answer("done" if found is not None else "waiting", written.sha256, found)
    decided = written.decision.result()
    found = newest_prediction(db, line, written.sha256)
    # A duplicate of an image that arrived elsewhere has that one's result.
    if found is not None:
        return Answer("done", written.sha256, found)
    # What was refused before is not decided again: the reason that was given then still holds.
    reason = decided.reason if decided.state == "refused" else _refusal(db, line, written.path)
    return Answer("waiting" if reason is None else "refused", written.sha256, None, reason or "")


def _refusal(db: InspectionDatabase, line: str, path: str) -> str | None:
    """Return why a file is refused; None where it is not. An upload's path names its content."""
    this = incoming_files.c.line == line, incoming_files.c.path == path, incoming_files.c.state == REFUSED
    newest = select(incoming_files.c.reason).where(*this).order_by(desc(incoming_files.c.file_id)).limit(1)
    with db.reading() as connection:
        return connection.execute(newest).scalar_one_or_none()
