"""Tables of results, as views of what the database holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import Row as Record
from sqlalchemy import select

from vad_lib.inspection.model import map_file
from vad_lib.inspection_db.database import InspectionDatabase, chunks
from vad_lib.inspection_db.schema import predictions
from vad_lib.tables import Predictions
from vad_lib.thresholds import Calibration, certainty, decide

COLUMNS = (
    "row",
    "image_path",
    "file",
    "sha256",
    "label",
    "is_anomalous",
    "raw_score",
    "p",
    "certainty",
    "predicted",
)


@dataclass(frozen=True)
class Row:
    """One image of a table of predictions: its number and path there, its file, and the label where there is one."""

    number: int
    image_path: str
    file: Path
    sha256: str
    label: str | None = None
    is_anomalous: bool | None = None


def predictions_table(
    db: InspectionDatabase,
    line: str,
    rows: Sequence[Row],
    *,
    model_version: str,
    inference_threshold: float,
    maps_folder: Path | None = None,
    calibration: Calibration | None = None,
) -> tuple[pd.DataFrame, dict[int, Path], dict[str, int]]:
    """Return ``tables.Predictions`` of images, their maps, and how many rows each model version made.

    Args:
        db: holds their predictions.
        line: name of the line.
        rows: the images. Each has a prediction.
        model_version: its prediction is taken where an image has several, else the newest.
        inference_threshold: on p, with which images are decided anew.
        maps_folder: where maps lie.
        calibration: p is computed anew with it for rows of ``model_version``; None: p as recorded.
    """
    found = _newest(db, line, model_version, [row.sha256 for row in rows])
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    map_files: dict[int, Path] = {}
    versions: Counter[str] = Counter()
    for row in sorted(rows, key=lambda each: each.number):
        record = found[row.sha256]
        versions[record.model_version] += 1
        p, sure = record.p, record.certainty
        if calibration is not None and record.model_version == model_version:
            p = float(calibration(record.raw_score))
            sure = float(certainty(p))
        for name, value in zip(
            COLUMNS,
            (
                row.number,
                row.image_path,
                str(row.file),
                row.sha256,
                row.label,
                pd.NA if row.is_anomalous is None else row.is_anomalous,
                record.raw_score,
                p,
                sure,
                str(decide(np.asarray([p]), inference_threshold)[0]),
            ),
            strict=True,
        ):
            columns[name].append(value)
        if maps_folder is not None and (file := map_file(maps_folder, row.sha256)).is_file():
            map_files[row.number] = file
    frame = pd.DataFrame(columns).astype(
        {"row": "int64", "label": object, "is_anomalous": "boolean", "raw_score": float, "p": float, "certainty": float}
    )
    return Predictions.validate(frame), map_files, dict(versions)


def _newest(db: InspectionDatabase, line: str, model_version: str, contents: Sequence[str]) -> dict[str, Record[Any]]:
    found: dict[str, Record[Any]] = {}
    with db.reading() as connection:
        for part in chunks(list(dict.fromkeys(contents))):
            records = connection.execute(
                select(predictions)
                .where(predictions.c.line == line, predictions.c.sha256.in_(part))
                .order_by(predictions.c.prediction_id)
            )
            for record in records:
                before = found.get(record.sha256)
                if before is None or before.model_version != model_version:
                    found[record.sha256] = record
    return found
