"""One prediction with everything that the database knows about its image."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, and_, desc, select

from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.schema import descriptions, images, incoming_files, labels, predictions


def prediction_by_id(db: InspectionDatabase, line: str, prediction_id: int) -> Row[Any] | None:
    """Return a prediction of a line; None where there is none of that number."""
    with db.reading() as connection:
        return connection.execute(
            select(predictions).where(predictions.c.line == line, predictions.c.prediction_id == prediction_id)
        ).one_or_none()


def neighbours_of(db: InspectionDatabase, record: Row[Any]) -> tuple[int | None, int | None]:
    """Return the numbers of the predictions of the line before and after one; None where there is none."""
    number = predictions.c.prediction_id
    of_line = select(number).where(predictions.c.line == record.line).limit(1)
    with db.reading() as connection:
        before = of_line.where(number < record.prediction_id).order_by(desc(number))
        after = of_line.where(number > record.prediction_id).order_by(number)
        return connection.execute(before).scalar(), connection.execute(after).scalar()


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
