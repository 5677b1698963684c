"""Inspect the rows of a table: a folder of the user's choice, an experiment, a test set."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd

from vad_lib.inspection.core import Inspection
from vad_lib.inspection.ledger import FreeLedger, PredictionFacts
from vad_lib.inspection.owed import settle_owed
from vad_lib.inspection.reporting import predictions_table
from vad_lib.inspection.results import InspectionResult, Item, Refusal, refused_table
from vad_lib.inspection.scoring import Scorer
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.lines import Line
from vad_lib.progress import Progress, silent


def inspect_rows(
    db: InspectionDatabase,
    model: Scorer,
    *,
    model_version: str,
    line: Line,
    rows: pd.DataFrame,
    inference_threshold: float = 0.5,
    run_id: str | None = None,
    lane: str = "folder",
    batch_size: int = 8,
    maps_folder: Path | None = None,
    progress: Progress = silent,
) -> InspectionResult:
    """Inspect rows and give a result for each that can be read, duplicates included.

    The database keeps one prediction a content and model version; rows whose content has one already are not scored
    again, but decided with this call's ``inference_threshold`` and the model's present calibration. What lands later
    with the same content is not a duplicate for that.

    Args:
        db: the inspection database.
        model: what scores.
        model_version: the registry's version of it.
        line: the inspection line.
        rows: ``tables.ValidatedRows``, or any table with ``row``, ``image_path`` and ``file`` (and, where they are
            known, ``label`` and ``is_anomalous``).
        inference_threshold: on p; NG at or above it.
        run_id: the Dagster run, for the record.
        lane: for the record.
        batch_size: images read, scored and recorded together.
        maps_folder: where anomaly maps go; None: no maps.
        progress: told about each chunk.

    Raises:
        InputError: no file can be read for a reason that lies outside of the files.
        Exception: what the detector raised, where it could score nothing at all.
    """
    started = time.monotonic()
    settle_owed(db)
    items = [_item(record) for record in rows.to_dict("records")]
    facts = PredictionFacts(line.name, model_version, inference_threshold, lane, None, run_id)
    inspection = Inspection(
        db,
        model,
        facts,
        FreeLedger(db, line.name),
        batch_size=batch_size,
        maps_folder=maps_folder,
        progress=progress,
    )
    outcome = inspection.run(items)
    frame, map_files, versions = predictions_table(
        db,
        [item for item in items if item.row in outcome.contents],
        outcome.contents,
        facts,
        maps_folder,
        calibration=model.calibration,
    )
    refusals: list[Refusal] = [*outcome.refusals.values(), *outcome.left]
    return InspectionResult(
        predictions=frame,
        refused=refused_table(
            [
                (refusal.item.row, refusal.item.image_path, refusal.rule, refusal.reason)
                for refusal in sorted(refusals, key=lambda each: each.item.row)
            ]
        ),
        map_files=map_files,
        scored=outcome.scored,
        reused=len(frame) - outcome.scored,
        versions=versions,
        seconds=time.monotonic() - started,
    )


def _item(record: dict[Any, Any]) -> Item:
    label = record.get("label")
    anomalous = record.get("is_anomalous")
    return Item(
        row=int(record["row"]),
        image_path=str(record["image_path"]),
        file=Path(record["file"]),
        label=None if pd.isna(label) else str(label),
        is_anomalous=None if pd.isna(anomalous) else bool(anomalous),
    )
