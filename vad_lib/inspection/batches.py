"""Inspect the landings of one batch."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Row, func, select

from vad_lib.errors import InputError
from vad_lib.inspection.core import Inspection
from vad_lib.inspection.keeping_aside import keep_aside
from vad_lib.inspection.ledger import LandedLedger, PredictionFacts
from vad_lib.inspection.owed import settle_owed
from vad_lib.inspection.reporting import predictions_table
from vad_lib.inspection.results import InspectionResult, Item, refused_table
from vad_lib.inspection.scoring import Scorer
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.schema import DONE, PENDING, REFUSED, batches, landings, predictions
from vad_lib.landing.scanning import FileKey
from vad_lib.lines import Line
from vad_lib.progress import Progress, silent


def inspect_batch(
    db: InspectionDatabase,
    model: Scorer,
    *,
    model_version: str,
    line: Line,
    batch_id: str,
    inference_threshold: float = 0.5,
    run_id: str | None = None,
    lane: str = "run",
    batch_size: int = 8,
    maps_folder: Path | None = None,
    progress: Progress = silent,
) -> InspectionResult:
    """Inspect a batch of landed files, or what an earlier attempt left of it, and give the result of all of it.

    Every content is scored once per model version, whatever dies and however many processes work on the same batch at
    the same time; what was recorded before is not scored again but is in the result. Results are recorded after every
    ``batch_size`` images, so a death costs at most so many. Duplicates and files that cannot be read are refused with a
    reason, and linked (or copied) into ``line.kept_aside``.

    Args:
        db: the inspection database.
        model: what scores (``vad_lib.models.InspectionModel``).
        model_version: the registry's version of it; part of what makes a prediction unique.
        line: the inspection line.
        batch_id: as the landing tick formed it.
        inference_threshold: on p; NG at or above it.
        run_id: the Dagster run, for the record.
        lane: what inspects: ``run`` or ``fast``.
        batch_size: images read, scored and recorded together.
        maps_folder: where anomaly maps go; give the same folder to each attempt of a batch. None: no maps.
        progress: told about each chunk.

    Raises:
        InputError: no such batch in this line, or its landing folder cannot be read (no file is blamed).
        Exception: what the detector raised, where it could score nothing at all (no file is blamed).
    """
    started = time.monotonic()
    scored = inspect_pending(
        db,
        model,
        model_version=model_version,
        line=line,
        batch_id=batch_id,
        inference_threshold=inference_threshold,
        run_id=run_id,
        lane=lane,
        batch_size=batch_size,
        maps_folder=maps_folder,
        progress=progress,
    ).scored
    batch, rows = _load(db, line.name, batch_id)
    folder = Path(batch.folder)
    done = {number: row.sha256 for number, row in rows if row.state == DONE}
    frame, map_files, versions = predictions_table(
        db,
        [_item(row, folder, number) for number, row in rows if row.state == DONE],
        done,
        PredictionFacts(line.name, model_version, inference_threshold, lane, batch_id, run_id),
        maps_folder,
    )
    return InspectionResult(
        predictions=frame,
        refused=refused_table([(-1, row.path, row.rule, row.reason) for _, row in rows if row.state == REFUSED]),
        map_files=map_files,
        scored=scored,
        reused=len(done) - scored,
        left=sum(row.state == PENDING for _, row in rows),
        versions=versions,
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True)
class Progressed:
    """How far one call got: images that it scored, and landings of the batch that could not be decided now."""

    scored: int
    left: int


def inspect_pending(
    db: InspectionDatabase,
    model: Scorer,
    *,
    model_version: str,
    line: Line,
    batch_id: str,
    inference_threshold: float = 0.5,
    run_id: str | None = None,
    lane: str = "run",
    batch_size: int = 8,
    maps_folder: Path | None = None,
    progress: Progress = silent,
) -> Progressed:
    """Inspect what a batch has not decided yet, as ``inspect_batch`` does, without making tables of all of it.

    Args and errors are those of ``inspect_batch``.
    """
    settle_owed(db)
    batch, rows = _load(db, line.name, batch_id)
    folder = Path(batch.folder)
    pending = [_item(row, folder, number) for number, row in rows if row.state == PENDING]
    scored = decided = 0
    if pending:
        _make_sure_of(folder)
        inspection = Inspection(
            db,
            model,
            PredictionFacts(line.name, model_version, inference_threshold, lane, batch_id, run_id),
            LandedLedger(db, line.name),
            batch_size=batch_size,
            maps_folder=maps_folder,
            progress=progress,
            vouched=_has_predictions(db, line.name, batch_id, model_version),
        )
        outcome = inspection.run(pending)
        scored, decided = outcome.scored, len(outcome.contents) + len(outcome.refusals)
    keep_aside(db, line, batch_id, folder)
    return Progressed(scored, len(pending) - decided)


def _load(db: InspectionDatabase, line: str, batch_id: str) -> tuple[Row[Any], list[tuple[int, Row[Any]]]]:
    """Return the batch and its landings, numbered in order of path: the numbers are the same in each attempt."""
    with db.reading() as connection:
        batch = connection.execute(
            select(batches).where(batches.c.batch_id == batch_id, batches.c.line == line)
        ).one_or_none()
        if batch is None:
            raise InputError(
                f"The line {line} has no batch {batch_id!r} in {db.url}. Batches are formed by the landing sensor; to "
                "inspect a folder of your own choice, use `vad inspect`."
            )
        rows = connection.execute(select(landings).where(landings.c.batch_id == batch_id)).all()
    # Not sorted by the database: each orders text by rules of its own.
    return batch, list(enumerate(sorted(rows, key=lambda row: (row.path, row.seq))))


def _item(row: Row[Any], folder: Path, number: int) -> Item:
    return Item(
        row=number,
        image_path=row.path,
        file=folder / row.path,
        seq=row.seq,
        key=FileKey(row.path, row.size, row.mtime_ns),
        begun=row.begun,
        begun_alone=row.begun_alone,
        trouble=row.reason or "",
        folder=folder,
    )


def _make_sure_of(folder: Path) -> None:
    """A folder that cannot be read says nothing about the files in it."""
    try:
        with os.scandir(folder):
            return
    except OSError as error:
        raise InputError(
            f"The landing folder {folder} cannot be read: {error.strerror or error}. Bring it back; the files that "
            "landed in it are inspected then."
        ) from error


def _has_predictions(db: InspectionDatabase, line: str, batch_id: str, model_version: str) -> bool:
    with db.reading() as connection:
        return bool(
            connection.execute(
                select(func.count())
                .select_from(predictions)
                .where(
                    predictions.c.batch_id == batch_id,
                    predictions.c.line == line,
                    predictions.c.model_version == model_version,
                )
            ).scalar_one()
        )
