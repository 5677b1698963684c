"""Tables of results, as views of what the database holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import Row, select

from vad_lib.inspection.ledger import PredictionFacts
from vad_lib.inspection.results import Item
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


def predictions_table(
    db: InspectionDatabase,
    items: Sequence[Item],
    contents: Mapping[int, str],
    facts: PredictionFacts,
    maps_folder: Path | None,
    calibration: Calibration | None = None,
) -> tuple[pd.DataFrame, dict[int, Path], dict[str, int]]:
    """Return ``tables.Predictions`` of items, their maps, and how many rows each model version made.

    Args:
        db: holds their predictions.
        items: each with its content in ``contents`` (row -> sha256).
        contents: see ``items``.
        facts: of the call. Where a content has no prediction of its model version, the newest one is taken.
        maps_folder: where maps lie.
        calibration: p is computed anew with it for rows of the call's own model version; None: p as recorded.
    """
    found = _newest(db, facts, list(contents.values()))
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    map_files: dict[int, Path] = {}
    versions: Counter[str] = Counter()
    for item in sorted(items, key=lambda each: each.row):
        sha = contents[item.row]
        record = found[sha]
        versions[record.model_version] += 1
        p, sure = record.p, record.certainty
        if calibration is not None and record.model_version == facts.model_version:
            p = float(calibration(record.raw_score))
            sure = float(certainty(p))
        for name, value in zip(
            COLUMNS,
            (
                item.row,
                item.image_path,
                str(item.file),
                sha,
                item.label,
                pd.NA if item.is_anomalous is None else item.is_anomalous,
                record.raw_score,
                p,
                sure,
                str(decide(np.asarray([p]), facts.inference_threshold)[0]),
            ),
            strict=True,
        ):
            columns[name].append(value)
        if maps_folder is not None and (file := maps_folder / f"{sha}.npy").is_file():
            map_files[item.row] = file
    frame = pd.DataFrame(columns).astype(
        {"row": "int64", "label": object, "is_anomalous": "boolean", "raw_score": float, "p": float, "certainty": float}
    )
    return Predictions.validate(frame), map_files, dict(versions)


def _newest(db: InspectionDatabase, facts: PredictionFacts, contents: Sequence[str]) -> dict[str, Row[Any]]:
    found: dict[str, Row[Any]] = {}
    with db.reading() as connection:
        for part in chunks(list(dict.fromkeys(contents))):
            rows = connection.execute(
                select(predictions)
                .where(predictions.c.line == facts.line, predictions.c.sha256.in_(part))
                .order_by(predictions.c.prediction_id)
            )
            for row in rows:
                before = found.get(row.sha256)
                if before is None or before.model_version != facts.model_version:
                    found[row.sha256] = row
    return found
