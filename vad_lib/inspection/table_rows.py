"""Inspect the rows of a table: a folder of the user's choice, an experiment, a test set."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd

from vad_lib.errors import InputError
from vad_lib.inspection.model import Served
from vad_lib.inspection.prediction_table import Row, predictions_table
from vad_lib.inspection.reader import Item, Pixels, Unread, read_items
from vad_lib.inspection.result import InspectionResult, refused_table
from vad_lib.inspection.worker import needs_no_scoring, recorded_contents, score_images
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.schema import BATCH, DETECTOR_FAILED, VANISHED
from vad_lib.progress import Progress, ProgressMeter, silent
from vad_lib.queue.results import Done, record_predictions


def inspect_rows(
    db: InspectionDatabase,
    line: str,
    served: Served,
    rows: pd.DataFrame,
    *,
    run_id: str | None = None,
    batch_size: int = 8,
    maps_folder: Path | None = None,
    progress: Progress = silent,
) -> InspectionResult:
    """Inspect rows and give a result for each that can be read, duplicates included.

    The database keeps one prediction a content and model version; rows whose content has one already are not scored
    again, but decided with this call's inference threshold and the model's present calibration. What arrives later
    with the same content is not a duplicate for that.

    Args:
        db: the inspection database.
        line: name of the inspection line.
        served: what scores.
        rows: ``tables.ValidatedRows``, or any table with ``row``, ``image_path`` and ``file`` (and, where they are
            known, ``label`` and ``is_anomalous``).
        run_id: the Dagster run, for the record.
        batch_size: images read, scored and recorded together.
        maps_folder: where anomaly maps go; None: no maps.
        progress: told about each chunk.

    Raises:
        InputError: no file can be read for a reason that lies outside of the files.
        Exception: what the detector raised, where it cannot score an ordinary image either.
    """
    started = time.monotonic()
    records = {int(record["row"]): record for record in rows.to_dict("records")}
    items = [Item(row, str(record["image_path"]), Path(record["file"])) for row, record in records.items()]
    meter = ProgressMeter(progress, "inspecting", len(items))
    contents: dict[int, str] = {}
    refused: list[tuple[int, str, str, str]] = []
    unread: list[Unread] = []
    scored = 0
    with db.kept_open():
        while items:
            chunk = read_items(items[:batch_size])
            del items[: len(chunk)]
            unread += [each for each in chunk if isinstance(each, Unread)]
            read = [each for each in chunk if isinstance(each, Pixels)]
            known = recorded_contents(db, line, served.version, [each.image.sha256 for each in read])
            new = [each for each in read if not needs_no_scoring(each.image.sha256, known, maps_folder)]
            done, failed = score_images(served, new, maps_folder)
            made = {each.item.number for each in new}
            done += [Done(each.item.number, each.image) for each in read if each.item.number not in made]
            if done:
                record_predictions(db, line, done, source=BATCH, run_id=run_id)
            contents |= {each.file_id: each.image.sha256 for each in done}
            refused += [
                (each.item.number, each.item.image_path, DETECTOR_FAILED, f"the detector failed on it: {error}")
                for each, error in failed
            ]
            scored += len({each.prediction.sha256 for each in done if each.prediction} - known)
            meter.advance(len(chunk))
    if unread and not contents and all(each.rule == VANISHED or not each.lasting for each in unread):
        raise InputError(f"No file can be read now; the first is {unread[0].item.file}: {unread[0].reason}.")
    refused += [(each.item.number, each.item.image_path, each.rule, each.reason) for each in unread]
    frame, map_files, versions = predictions_table(
        db,
        line,
        [_row(records[row], sha) for row, sha in contents.items()],
        model_version=served.version,
        inference_threshold=served.inference_threshold,
        maps_folder=maps_folder,
        calibration=served.model.calibration,
    )
    return InspectionResult(
        predictions=frame,
        refused=refused_table(sorted(refused)),
        map_files=map_files,
        scored=scored,
        reused=len(frame) - scored,
        versions=versions,
        seconds=time.monotonic() - started,
    )


def _row(record: dict[Any, Any], sha256: str) -> Row:
    label, anomalous = record.get("label"), record.get("is_anomalous")
    return Row(
        number=int(record["row"]),
        image_path=str(record["image_path"]),
        file=Path(record["file"]),
        sha256=sha256,
        label=None if pd.isna(label) else str(label),
        is_anomalous=None if pd.isna(anomalous) else bool(anomalous),
    )
