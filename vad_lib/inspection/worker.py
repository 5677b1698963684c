"""The way of every incoming file: leased, read, scored, decided, recorded. One function for every worker.

A worker that ends in good order finishes what it has. One that dies leaves leases, which expire; the files that it had
are then offered one by one, so a file that kills its worker is found and refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Row, desc, select
from sqlalchemy.exc import DBAPIError

from vad_lib.errors import InputError
from vad_lib.images.decoding import DecodedImage, decode_bytes
from vad_lib.inspection.model import PixelScores, Served, is_well, map_file, save_map, score_chunk
from vad_lib.inspection.quarantine import keep, read_for_keeping
from vad_lib.inspection.reader import Item, Pixels, Unread, read_items
from vad_lib.inspection_db.database import InspectionDatabase, chunks
from vad_lib.inspection_db.schema import (
    DETECTOR_FAILED,
    DONE,
    DUPLICATE,
    PENDING,
    POISON,
    SUPERSEDED_RULES,
    UNREADABLE,
    VANISHED,
    images,
    incoming_files,
    is_not_superseded,
    predictions,
)
from vad_lib.lines import Line
from vad_lib.monitoring import Values
from vad_lib.queue import (
    Decision,
    Done,
    Later,
    Leased,
    Outcome,
    Prediction,
    Refused,
    Unchanged,
    finish,
    lease,
)
from vad_lib.queue.results import duplicate

MAX_DELIVERIES = 4
"""A file is refused after so many workers took it and did not finish it: once with others, then alone."""
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 15.0, 300.0
FINISH_PAUSE_SECONDS = 1.0
logger = logging.getLogger("vad.inspection.worker")


@dataclass(frozen=True)
class Worker:
    """Who works, for the record.

    Attributes:
        name: of ``vad_lib.queue.new_worker``.
        source: ``online`` or ``batch``.
        run_id: the Dagster run, where there is one.
        maps_folder: where anomaly maps go; None: no maps.
        goes_on: whether to try again where results cannot be written now (a full disk, a server that is away); without
            it the error is raised.
    """

    name: str
    source: str
    run_id: str | None = None
    maps_folder: Path | None = None
    goes_on: Callable[[], bool] = lambda: False


class Worked(NamedTuple):
    """What one call of ``work_on`` did: what was decided, and whether more may wait on the line."""

    decided: list[Decision]
    more: bool


def work_on(db: InspectionDatabase, line: Line, served: Served, worker: Worker, count: int) -> Worked:
    """Take at most ``count`` files of a line all the way.

    Raises:
        InputError: the watch folder cannot be read; no file is blamed.
        Exception: what the detector raised, where it cannot score anything; no file is blamed.
    """
    leased, more = lease(db, line.name, worker.name, count)
    if not leased:
        return Worked([], more=False)
    try:
        outcomes = inspect_files(db, line, served, leased, worker.maps_folder)
    except BaseException as error:
        _put_off(db, line, worker, leased, error)
        raise
    while True:
        try:
            decided = finish(
                *(db, line.name, worker.name, outcomes),
                source=worker.source,
                run_id=worker.run_id,
                monitor=served.monitor,
            )
            return Worked(decided, more or len(decided) < len(leased))
        except DBAPIError as error:
            if not worker.goes_on():
                _put_off(db, line, worker, leased, error)
                raise
            logger.warning("results cannot be written now, trying again: %s", error.orig)
            time.sleep(FINISH_PAUSE_SECONDS)


def _put_off(
    db: InspectionDatabase, line: Line, worker: Worker, leased: Sequence[Leased], error: BaseException
) -> None:
    """Nobody is to blame. If even this cannot be written, the leases expire and cost a little caution."""
    outcomes = [Later(each.file_id, RETRY_SECONDS, str(error) or type(error).__name__) for each in leased]
    with contextlib.suppress(Exception):
        finish(db, line.name, worker.name, outcomes, source=worker.source, run_id=worker.run_id)


def inspect_files(
    db: InspectionDatabase, line: Line, served: Served, leased: Sequence[Leased], maps_folder: Path | None = None
) -> list[Outcome]:
    """Read and score leased files of one line. Nothing is recorded; the result has one outcome for each file.

    Raises:
        InputError, Exception: as ``work_on``.
    """
    poison = [each for each in leased if each.deliveries >= MAX_DELIVERIES]
    rest = {each.file_id: each for each in leased if each.deliveries < MAX_DELIVERIES}
    read = read_items(
        [Item(key, each.version.path, each.file, each.folder, each.version) for key, each in rest.items()]
    )
    unread = [each for each in read if isinstance(each, Unread)]
    if any(each.rule == VANISHED or not each.lasting for each in unread):
        _make_sure_of({each.folder for each in rest.values()})
    known = _look_up(db, line.name, served.version, read)
    outcomes: list[Outcome] = [_refuse_poison(line, each) for each in poison]
    outcomes += [Later(key, 0.0, "") for key in list(rest)[len(read) :]]  # more large images than may be held at once
    for each in unread:
        blamed = len(unread) < len(read) or len(read) == 1
        outcomes.append(_unread_outcome(line, each, known, rest[each.item.number], blamed))
    new: list[Pixels] = []
    for pixels in read:
        if isinstance(pixels, Pixels):
            outcome = _known_outcome(pixels, known, maps_folder)
            if outcome is None:
                new.append(pixels)
            else:
                outcomes.append(outcome)
    done, failed = score_images(served, new, maps_folder)
    for pixels, error in failed:
        kept = keep(line, pixels.item.number, pixels.item.image_path, pixels.data)
        reason = f"the detector failed on it: {error}"
        outcomes.append(Refused(pixels.item.number, DETECTOR_FAILED, reason, pixels.image.sha256, None, *kept))
    return [*outcomes, *done]


def score_images(
    served: Served, new: Sequence[Pixels], maps_folder: Path | None
) -> tuple[list[Done], list[tuple[Pixels, Exception]]]:
    """Score each content once, decide it, and save its map where maps are wanted.

    Returns:
        The files that were scored, and those on which the detector failed.

    Raises:
        Exception: what the detector raised, where it cannot score an ordinary image either.
    """
    first_of = {each.image.sha256: each for each in reversed(new)}
    distinct = list(first_of.values())
    if not distinct:
        return [], []
    started = time.perf_counter()
    results = _score(served, distinct, maps_folder is not None)
    seconds = (time.perf_counter() - started) / len(distinct)
    errors = {each.image.sha256: result for each, result in zip(distinct, results, strict=True)
              if isinstance(result, Exception)}  # fmt: skip
    if len(errors) == len(distinct) and not is_well(served.model):
        raise next(iter(errors.values()))
    made: dict[str, Prediction] = {}
    observed: dict[str, Mapping[str, Values]] = {}
    for each, result in zip(distinct, results, strict=True):
        if not isinstance(result, Exception):
            made[each.image.sha256] = made_now = _predict(served, each, result.raw_score, seconds)
            if served.monitor:
                told = (result.raw_score, made_now.predicted, result.map)
                observed[each.image.sha256] = served.monitor.observe(each.image, *told)
            if maps_folder is not None and result.map is not None:
                save_map(maps_folder, each.image.sha256, result.map)
    done = [
        Done(each.item.number, each.image, made[sha], observed.get(sha))
        for each in new
        if (sha := each.image.sha256) in made
    ]
    return done, [(each, errors[each.image.sha256]) for each in new if each.image.sha256 in errors]


def _score(served: Served, new: Sequence[Pixels], with_maps: bool) -> list[PixelScores | Exception]:
    """Score with maps where they are wanted: all, or those by which the line is watched."""
    monitor = served.monitor
    mapped = [with_maps or (monitor is not None and monitor.wants_map(each.image.sha256)) for each in new]
    scored: dict[int, PixelScores | Exception] = {}
    for wanted in sorted(set(mapped)):
        chosen = [position for position, one in enumerate(mapped) if one == wanted]
        found = score_chunk(served.model, [new[position].image.values for position in chosen], wanted)
        scored.update(zip(chosen, found, strict=True))
    return [scored[position] for position in range(len(new))]


def _predict(served: Served, pixels: Pixels, raw_score: float, seconds: float) -> Prediction:
    judged = served.rule.judge([raw_score])
    threshold = served.model.threshold
    return Prediction(
        sha256=pixels.image.sha256,
        model_version=served.version,
        path=str(pixels.item.file),
        raw_score=raw_score,
        p=float(judged.p[0]),
        certainty=float(judged.certainty[0]),
        predicted=str(judged.predicted[0]),
        threshold=threshold.value,
        threshold_version=threshold.version,
        inference_threshold=served.inference_threshold,
        seconds=seconds,
    )


@dataclass(frozen=True)
class _Known:
    """What is recorded.

    Attributes:
        owners: content -> path that owns it.
        predicted: contents with a prediction of this model version.
        newest: file id -> the newest decided version of the same path before it.
    """

    owners: dict[str, str | None]
    predicted: set[str]
    newest: dict[int, Row[Any]]


def _look_up(db: InspectionDatabase, line: str, model_version: str, read: Sequence[Pixels | Unread]) -> _Known:
    files, mine, earlier = incoming_files.c, incoming_files.alias(), incoming_files.alias()
    contents = sorted({sha for each in read if (sha := sha_of(each))})
    before = (
        select(earlier.c.file_id)
        .where(
            *(earlier.c.line == mine.c.line, earlier.c.path == mine.c.path, earlier.c.file_id < mine.c.file_id),
            earlier.c.state != PENDING,
            is_not_superseded(earlier.c.rule),
        )
        .order_by(desc(earlier.c.file_id))
        .limit(1)
        .correlate(mine)
        .scalar_subquery()
    )
    predicted = recorded_contents(db, line, model_version, contents)
    with db.reading() as connection:
        owners = {
            row.sha256: row.owner_path
            for part in chunks(contents)
            for row in connection.execute(
                select(images.c.sha256, images.c.owner_path).where(images.c.line == line, images.c.sha256.in_(part))
            )
        }
        newest = {
            row.number: row
            for part in chunks([each.item.number for each in read])
            for row in connection.execute(
                select(mine.c.file_id.label("number"), incoming_files, images.c.size.label("content_size"))
                .select_from(mine)
                .join(incoming_files, files.file_id == before)
                .outerjoin(images, (images.c.line == files.line) & (images.c.sha256 == files.sha256))
                .where(mine.c.file_id.in_(part))
            )
        }
    return _Known(owners, predicted, newest)


def recorded_contents(db: InspectionDatabase, line: str, model_version: str, contents: Sequence[str]) -> set[str]:
    """Return those contents that have a prediction of this model version."""
    mine = select(predictions.c.sha256).where(predictions.c.line == line, predictions.c.model_version == model_version)
    with db.reading() as connection:
        return {
            sha
            for part in chunks(contents)
            for sha in connection.execute(mine.where(predictions.c.sha256.in_(part))).scalars()
        }


def needs_no_scoring(sha256: str, predicted: Collection[str], maps_folder: Path | None) -> bool:
    """Whether a content has its prediction, and its map where maps are wanted."""
    return sha256 in predicted and (maps_folder is None or map_file(maps_folder, sha256).is_file())


def sha_of(read: Pixels | Unread) -> str | None:
    """Return the sha256 of a file's bytes, where they were read."""
    return read.image.sha256 if isinstance(read, Pixels) else read.sha256


def _unread_outcome(line: Line, unread: Unread, known: _Known, leased: Leased, blamed: bool) -> Outcome:
    item = unread.item
    if (same := _same_as_before(unread, known)) is not None:
        return same
    if not unread.lasting:
        pause = min(LONGEST_RETRY_SECONDS, RETRY_SECONDS * 2.0**leased.deliveries)
        return Later(item.number, pause, unread.reason, blamed)
    if unread.rule in SUPERSEDED_RULES:
        return Refused(item.number, unread.rule, unread.reason)
    kept = keep(line, item.number, item.image_path, unread.data)
    return Refused(item.number, unread.rule, unread.reason, unread.sha256, None, *kept)


def _known_outcome(pixels: Pixels, known: _Known, maps_folder: Path | None) -> Outcome | None:
    """Return what becomes of a file about which nothing has to be scored; None for all others."""
    sha = pixels.image.sha256
    if (same := _same_as_before(pixels, known)) is not None:
        return same
    owner = known.owners.get(sha)
    if owner is not None and owner != pixels.item.image_path:
        return duplicate(pixels.item.number, sha, owner)
    if needs_no_scoring(sha, known.predicted, maps_folder):
        return Done(pixels.item.number, pixels.image)
    return None


def _same_as_before(read: Pixels | Unread, known: _Known) -> Unchanged | None:
    """A file that was touched, moved back, or got a trailer behind its end holds what it held."""
    before, version = known.newest.get(read.item.number), read.item.version
    if before is None or version is None or before.sha256 is None:
        return None
    if before.state != DONE and before.rule not in (UNREADABLE, DUPLICATE):
        return None
    if before.sha256 != sha_of(read) and not (isinstance(read, Pixels) and _has_trailer(read, before)):
        return None
    return Unchanged(read.item.number, before.file_id, version)


def _has_trailer(read: Pixels, before: Row[Any]) -> bool:
    # The row's own size is that of the file, which may have got a trailer before.
    head = read.data[: before.content_size or 0]
    if before.state != DONE or read.item.version is None or before.inode != read.item.version.inode:
        return False
    if not head or len(head) == len(read.data) or hashlib.sha256(head).hexdigest() != before.sha256:
        return False
    shown: DecodedImage = decode_bytes(head, read.item.file, sha256=before.sha256)
    return np.array_equal(shown.values, read.image.values)


def _refuse_poison(line: Line, leased: Leased) -> Refused:
    reason = f"{leased.deliveries} workers took it and did not finish it"
    reason += f": {leased.trouble}" if leased.trouble else ""
    data = read_for_keeping(leased.folder, leased.version)
    kept = keep(line, leased.file_id, leased.version.path, data)
    sha = hashlib.sha256(data).hexdigest() if data else None
    return Refused(leased.file_id, POISON, reason, sha, None, *kept)


def _make_sure_of(folders: set[Path]) -> None:
    """A folder that cannot be read says nothing about the files in it."""
    for folder in folders:
        try:
            with os.scandir(folder):
                pass
        except OSError as error:
            raise InputError(
                f"The watch folder {folder} cannot be read: {error.strerror or error}. Bring it back; the files that "
                "arrived in it are inspected then."
            ) from error
