"""One prediction with everything that the database knows about its image, and lists of predictions."""

from __future__ import annotations

from typing import Any

import pandas as pd
from sqlalchemy import Row, and_, desc, func, select

from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.labels import Label
from vad_lib.inspection_db.schema import descriptions, images, incoming_files, labels, predictions


def prediction_by_id(db: InspectionDatabase, line: str, prediction_id: int) -> Row[Any] | None:
    """Return a prediction of a line; None where there is none of that number."""
    with db.reading() as connection:
        return connection.execute(
            select(predictions).where(predictions.c.line == line, predictions.c.prediction_id == prediction_id)
        ).one_or_none()


def lineage_of(db: InspectionDatabase, record: Row[Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of other tables that belong to a prediction: its image, incoming files, labels, descriptions
    in words, and predictions of other versions."""
    content = (record.line, record.sha256)
    queries = {
        "images": select(images).where(images.c.line == content[0], images.c.sha256 == content[1]),
        "incoming_files": select(incoming_files).where(
            incoming_files.c.line == content[0], incoming_files.c.sha256 == content[1]
        ),
        "labels": (
            select(labels)
            .join(predictions, predictions.c.prediction_id == labels.c.prediction_id)
            .where(predictions.c.line == content[0], predictions.c.sha256 == content[1])
            .order_by(desc(labels.c.label_id))
        ),
        "descriptions": select(descriptions)
        .where(descriptions.c.prediction_id == record.prediction_id)
        .order_by(desc(descriptions.c.description_id)),
        "other_predictions": select(predictions)
        .where(
            and_(predictions.c.line == content[0], predictions.c.sha256 == content[1]),
            predictions.c.prediction_id != record.prediction_id,
        )
        .order_by(desc(predictions.c.prediction_id)),
    }
    with db.reading() as connection:
        return {
            name: [dict(row._mapping) for row in connection.execute(query).all()] for name, query in queries.items()
        }


def newest_results(
    db: InspectionDatabase,
    line: str,
    *,
    model_version: str | None = None,
    run_id: str | None = None,
    first: int | None = None,
    last: int | None = None,
    predicted: Label | None = None,
    limit: int = 100,
) -> tuple[pd.DataFrame, int]:
    """Return the newest predictions that fit, newest first, and how many fit in all."""
    conditions = [predictions.c.line == line]
    if model_version is not None:
        conditions.append(predictions.c.model_version == model_version)
    if run_id is not None:
        conditions.append(predictions.c.run_id == run_id)
    if first is not None:
        conditions.append(predictions.c.prediction_id >= first)
    if last is not None:
        conditions.append(predictions.c.prediction_id <= last)
    if predicted is not None:
        conditions.append(predictions.c.predicted == predicted)
    newest = select(predictions).where(*conditions).order_by(desc(predictions.c.prediction_id)).limit(limit)
    with db.reading() as connection:
        count = connection.execute(select(func.count()).select_from(predictions).where(*conditions)).scalar_one()
    return db.table(newest), int(count)
