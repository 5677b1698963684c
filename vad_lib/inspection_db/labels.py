"""What people say about predictions, and how often they agree.

A label is given on a prediction and is about the part in the picture: the last one on an image content holds,
whichever version's prediction it was given on. A person may also withdraw it: then none holds. All that was said stays
in the table, withdrawals among it. Where a person looked and cannot tell, none holds either.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from sqlalchemy import ColumnElement, Connection, Row, Select, Subquery, and_, desc, func, or_, select

from vad_lib.errors import InputError
from vad_lib.inspection_db.audit import LONGEST_NOTE, Actor, record_change
from vad_lib.inspection_db.database import InspectionDatabase, utc_now
from vad_lib.inspection_db.schema import UNSURE, WITHDRAWN, images, incoming_files, labels, predictions

Label = Literal["OK", "NG"]
Said = Literal["OK", "NG", "unsure"]
Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the upright image; right and bottom lie outside."""
LONGEST_KIND = 100
MOST_BOXES = 50


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
    db: InspectionDatabase,
    prediction_id: int,
    label: Said,
    *,
    by: Actor,
    note: str | None = None,
    kind: str | None = None,
    boxes: Sequence[Box] = (),
    key: str | None = None,
) -> int:
    """Write down what a person says about a prediction, and return the label's number.

    Args:
        db: holds the prediction.
        prediction_id: on which it is said.
        label: ``unsure``: the person looked and cannot tell.
        by: who says it.
        note: what else there is to say.
        kind: of the defect; of NG only.
        boxes: where defects are; of NG only.
        key: of this one thing that is said. What comes with a key that is there already is not written again: the
            number of what was written then is returned.

    Raises:
        InputError: there is no such prediction, the label is none, or a kind or a box does not go with it.
    """
    if label not in ("OK", "NG", UNSURE):
        raise InputError(f"A label is OK, NG or unsure, not {label!r}.")
    kind = " ".join((kind or "").split()) or None
    if label != "NG" and (kind or boxes):
        raise InputError("Only NG goes with a kind of defect or with boxes.")
    if len(kind or "") > LONGEST_KIND:
        raise InputError(f"The name of a kind has at most {LONGEST_KIND} characters.")
    return _write(db, prediction_id, label, by, note, kind, boxes, key=key)


def withdraw_label(
    db: InspectionDatabase,
    prediction_id: int,
    *,
    by: Actor,
    note: str | None = None,
    only_own: bool = False,
    key: str | None = None,
) -> int:
    """Take back what was said last about the image of a prediction, and return the number of the withdrawal.

    Args:
        db: holds the prediction.
        prediction_id: of the image.
        by: who takes it back.
        note: why.
        only_own: refuse to take back what somebody else said.
        key: see ``record_label``.

    Raises:
        InputError: there is no such prediction, nothing was said about its image that is to be withdrawn, or somebody
            else said it.
    """
    return _write(db, prediction_id, WITHDRAWN, by, note, only_own=only_own, key=key)


def _write(
    db: InspectionDatabase,
    prediction_id: int,
    label: str,
    by: Actor,
    note: str | None,
    kind: str | None = None,
    boxes: Sequence[Box] = (),
    *,
    only_own: bool = False,
    key: str | None = None,
) -> int:
    with db.writing() as connection:
        of_key = select(labels.c.label_id).where(labels.c.key == key)
        if key and (written := connection.execute(of_key).scalar()) is not None:
            return int(written)
        of_image = and_(images.c.line == predictions.c.line, images.c.sha256 == predictions.c.sha256)
        known = (
            select(predictions.c.line, predictions.c.sha256, images.c.width, images.c.height)
            .join(images, of_image, isouter=True)
            .where(predictions.c.prediction_id == prediction_id)
        )
        found = connection.execute(known).first()
        if found is None:
            raise InputError(f"There is no prediction {prediction_id} in {db.url}.")
        _refuse_odd_boxes(boxes, found.width, found.height)
        if label == WITHDRAWN:
            _refuse_to_withdraw(connection.execute(_last_said(found.line, found.sha256)).first(), by, only_own)
        made = connection.execute(
            db.insert_or_ignore(labels)
            .values(
                prediction_id=prediction_id,
                label=label,
                kind=kind,
                boxes=json.dumps([list(box) for box in boxes]) if boxes else None,
                person=by.person,
                note=(note or "").strip()[:LONGEST_NOTE] or None,
                key=key,
                created_at=utc_now(),
            )
            .returning(labels.c.label_id)
        ).scalar()
        if made is None:  # the same was sent by two connections at once
            return int(connection.execute(of_key).scalar_one())
        details = {"label": label} | ({"kind": kind} if kind else {}) | ({"boxes": len(boxes)} if boxes else {})
        record_change(
            connection, by, "label", line=found.line, subject=str(prediction_id), reason=note, details=details
        )
        return int(made)


def _refuse_to_withdraw(last: Row[Any] | None, by: Actor, only_own: bool) -> None:
    if last is None or last.label == WITHDRAWN:
        raise InputError("No label holds on this image: there is nothing to withdraw.")
    if only_own and last.person != by.person:
        raise InputError(f"The last word on this image is {last.person}'s: only an own one is taken back here.")


def _refuse_odd_boxes(boxes: Sequence[Box], width: int | None, height: int | None) -> None:
    if len(boxes) > MOST_BOXES:
        raise InputError(f"An image has at most {MOST_BOXES} boxes.")
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= (width or right) and 0 <= top < bottom <= (height or bottom)):
            raise InputError(
                f"The box {left}, {top}, {right}, {bottom} does not lie in the image"
                f"{f' of {width} x {height} pixels' if width else ''}: give left, top, right and bottom."
            )


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
    """Return the labels that hold on a line, as a part of other queries: columns ``sha256``, ``label`` and ``kind``."""
    said = said_by_content(line)
    return select(said).where(said.c.label != UNSURE).subquery()


def said_by_content(line: str, among: Sequence[str] | None = None) -> Subquery:
    """Return what people said last about each image of a line, and did not withdraw, as a part of other queries.

    Columns ``sha256``, ``label`` (OK, NG or unsure) and ``kind``. ``among``: of these image contents only.
    """
    judged = predictions.alias("judged")
    of_label = judged.c.prediction_id == labels.c.prediction_id
    last = labels.c.label_id.in_(_last_numbers(line, among)), labels.c.label != WITHDRAWN
    return select(judged.c.sha256, labels.c.label, labels.c.kind).join(judged, of_label).where(*last).subquery()


def _holds(line: str, sha256: str | None = None) -> ColumnElement[bool]:
    """That a label is the last one on its image content on a line, and says OK or NG; ``sha256``: of this one only."""
    among = None if sha256 is None else [sha256]
    return and_(labels.c.label_id.in_(_last_numbers(line, among)), labels.c.label.not_in((WITHDRAWN, UNSURE)))


def _last_said(line: str, sha256: str) -> Select[Any]:
    return select(labels.c.label, labels.c.person).where(labels.c.label_id.in_(_last_numbers(line, [sha256])))


def _last_numbers(line: str, among: Sequence[str] | None) -> Select[Any]:
    """The number of the last thing said about each image content of a line, or about each of these."""
    given, judged = labels.alias("given"), predictions.alias("judged_on_line")
    last = (
        select(func.max(given.c.label_id))
        .join(judged, judged.c.prediction_id == given.c.prediction_id)
        .group_by(judged.c.sha256)
    )
    if among is not None:
        return last.where(judged.c.line == line, judged.c.sha256.in_(among))
    # an expression: SQLite would else walk through all predictions of the line, and there are far fewer labels
    return last.where(func.coalesce(judged.c.line, "") == line)


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
