"""What people say about predictions, and how often they agree.

A label is given on a prediction and is about the part in the picture: the last one on an image content holds,
whichever version's prediction it was given on. A person may also withdraw it: then none holds. All that was said stays
in the table, withdrawals among it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from sqlalchemy import ColumnElement, Connection, Row, Select, Subquery, and_, desc, func, insert, or_, select

from vad_lib.errors import InputError
from vad_lib.inspection_db.database import InspectionDatabase, utc_now
from vad_lib.inspection_db.schema import WITHDRAWN, incoming_files, labels, predictions

Label = Literal["OK", "NG"]
LONGEST_NOTE = 2000


@dataclass(frozen=True)
class Agreement:
    """Predictions of one model version, or of all, beside the labels that hold.

    Attributes:
        judged: predictions whose image has a label.
        agree: those that say what the person says.
        missed: OK, where the person says NG.
        false_alarms: NG, where the person says OK.
    """

    judged: int
    agree: int
    missed: int
    false_alarms: int

    @property
    def rate(self) -> float | None:
        """Share of agreement; None where nothing was judged."""
        return self.agree / self.judged if self.judged else None


def record_label(
    db: InspectionDatabase, prediction_id: int, label: Label, *, person: str, note: str | None = None
) -> int:
    """Write down what a person says about a prediction, and return the label's number.

    Raises:
        InputError: there is no such prediction, the label is neither OK nor NG, or nobody gives it.
    """
    if label not in ("OK", "NG"):
        raise InputError(f"A label is OK or NG, not {label!r}.")
    return _write(db, prediction_id, label, person, note)


def withdraw_label(db: InspectionDatabase, prediction_id: int, *, person: str, note: str | None = None) -> int:
    """Take back the label that holds on the image of a prediction, and return the number of the withdrawal.

    Raises:
        InputError: there is no such prediction, no label holds on its image, or nobody withdraws it.
    """
    of_image = select(predictions.c.line, predictions.c.sha256).where(predictions.c.prediction_id == prediction_id)
    with db.reading() as connection:
        image = connection.execute(of_image).one_or_none()
    if image is not None and labels_that_hold(db, image.line, sha256=image.sha256).empty:
        raise InputError("No label holds on this image: there is nothing to withdraw.")
    return _write(db, prediction_id, WITHDRAWN, person, note)


def _write(db: InspectionDatabase, prediction_id: int, label: str, person: str, note: str | None) -> int:
    if not person.strip():
        raise InputError("Say who gives the label.")
    with db.writing() as connection:
        known = select(predictions.c.prediction_id).where(predictions.c.prediction_id == prediction_id)
        if connection.execute(known).first() is None:
            raise InputError(f"There is no prediction {prediction_id} in {db.url}.")
        made = connection.execute(
            insert(labels)
            .values(
                prediction_id=prediction_id,
                label=label,
                person=person.strip()[:128],
                note=(note or "").strip()[:LONGEST_NOTE] or None,
                created_at=utc_now(),
            )
            .returning(labels.c.label_id)
        )
        return int(made.scalar_one())


def find_prediction(db: InspectionDatabase, line: str, image: str) -> Row[Any]:
    """Return the newest prediction of an image, named by prediction id, sha256, incoming path or absolute path.

    Raises:
        InputError: the line has no prediction of it.
    """
    of_content = select(incoming_files.c.sha256).where(incoming_files.c.line == line, incoming_files.c.path == image)
    named = or_(predictions.c.sha256 == image, predictions.c.path == image, predictions.c.sha256.in_(of_content))
    if image.isdecimal() and len(image) < 19:
        named = predictions.c.prediction_id == int(image)
    with db.reading() as connection:
        found = connection.execute(
            select(predictions)
            .where(predictions.c.line == line, named)
            .order_by(desc(predictions.c.prediction_id))
            .limit(1)
        ).one_or_none()
    if found is None:
        raise InputError(
            f"The line {line!r} has no prediction of {image!r}. Name the image by the number of its prediction, by its "
            "sha256, by its path in the watch folder, or by its absolute path."
        )
    return found


def label_history(db: InspectionDatabase, line: str) -> pd.DataFrame:
    """Return all labels of a line in the order of being given, beside the predictions that they were given on."""
    return db.table(_with_predictions(line).order_by(labels.c.label_id))


def labels_that_hold(db: InspectionDatabase, line: str, *, sha256: str | None = None) -> pd.DataFrame:
    """Return one row an image content whose last label was not withdrawn, with it; columns as ``label_history``.

    Args:
        db: holds them.
        line: whose labels.
        sha256: of this image content only.
    """
    return db.table(_with_predictions(line).where(_holds(line, sha256)).order_by(labels.c.label_id))


def newest_label(db: InspectionDatabase, line: str) -> int:
    """Return the number of the last label or withdrawal on a line; 0 where nothing was said."""
    with db.reading() as connection:
        of_line = labels.join(predictions, predictions.c.prediction_id == labels.c.prediction_id)
        newest = select(func.max(labels.c.label_id)).select_from(of_line).where(predictions.c.line == line)
        return int(connection.execute(newest).scalar() or 0)


def count_judged_since(db: InspectionDatabase, line: str, label_id: int) -> int:
    """Return on how many image contents of a line something was said after this label: given, changed or withdrawn."""
    with db.reading() as connection:
        of_line = labels.join(predictions, predictions.c.prediction_id == labels.c.prediction_id)
        counted = select(func.count(predictions.c.sha256.distinct())).select_from(of_line)
        found = connection.execute(counted.where(predictions.c.line == line, labels.c.label_id > label_id))
        return int(found.scalar_one())


def agreement(db: InspectionDatabase, line: str, model_version: str | None = None) -> Agreement:
    """Return how often the predictions of a line say what people say who saw the same images."""
    of_version = [] if model_version is None else [predictions.c.model_version == model_version]
    with db.reading() as connection:
        return count_agreement(connection, line, *of_version)


def count_agreement(connection: Connection, line: str, *chosen: ColumnElement[bool]) -> Agreement:
    """Return how often predictions of a line say what the labels on the same images say.

    Args:
        connection: to read by.
        line: of the predictions.
        chosen: conditions on ``predictions``; all that have a label count where there is none.
    """
    held = labels_by_content(line)
    rows = connection.execute(
        select(predictions.c.predicted, held.c.label, func.count())
        .join(held, held.c.sha256 == predictions.c.sha256)
        .where(predictions.c.line == line, *chosen)
        .group_by(predictions.c.predicted, held.c.label)
    )
    counts = {(predicted, label): int(count) for predicted, label, count in rows}
    missed, false_alarms = counts.get(("OK", "NG"), 0), counts.get(("NG", "OK"), 0)
    judged = sum(counts.values())
    return Agreement(judged, judged - missed - false_alarms, missed, false_alarms)


def labels_by_content(line: str) -> Subquery:
    """Return the labels that hold on a line, as a part of other queries: columns ``sha256`` and ``label``."""
    judged = predictions.alias("judged")
    of_label = judged.c.prediction_id == labels.c.prediction_id
    return select(judged.c.sha256, labels.c.label).join(judged, of_label).where(_holds(line)).subquery()


def _holds(line: str, sha256: str | None = None) -> ColumnElement[bool]:
    """That a label is the last one on its image content on a line, and no withdrawal; ``sha256``: of this one only."""
    given, judged = labels.alias("given"), predictions.alias("judged_on_line")
    last = (
        select(func.max(given.c.label_id))
        .join(judged, judged.c.prediction_id == given.c.prediction_id)
        .where(judged.c.line == line)
        .group_by(judged.c.sha256)
    )
    if sha256 is not None:
        last = last.where(judged.c.sha256 == sha256)
    return and_(labels.c.label_id.in_(last), labels.c.label != WITHDRAWN)


def _with_predictions(line: str) -> Select[Any]:
    return (
        select(
            labels,
            predictions.c.sha256,
            predictions.c.path,
            predictions.c.predicted,
            predictions.c.p,
            predictions.c.model_version,
        )
        .join(predictions, predictions.c.prediction_id == labels.c.prediction_id)
        .where(predictions.c.line == line)
    )
