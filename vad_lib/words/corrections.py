"""Answers as people corrected them: examples of the next prompts of their line, and an export for fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Row, desc, func, insert, select, update

from vad_lib.errors import InputError
from vad_lib.inspection_db.database import InspectionDatabase, utc_now
from vad_lib.inspection_db.schema import DONE, description_corrections, descriptions, predictions
from vad_lib.words.answer import Answer, AnswerError, plain_text
from vad_lib.words.nearest import KnownImage

LONGEST_NOTE = 2000
_NAMED = description_corrections.c


@dataclass(frozen=True)
class Correction:
    """The last correction of one description.

    Attributes:
        correction_id: its row.
        description_id, prediction_id: what it corrects.
        image: of the prediction.
        predicted: what the detector decided.
        answer: as it should have been.
        person: who says so.
    """

    correction_id: int
    description_id: int
    prediction_id: int
    image: KnownImage
    predicted: str
    answer: Answer
    person: str


def record_correction(
    db: InspectionDatabase, description_id: int, values: Mapping[str, Any], *, person: str, note: str = ""
) -> int:
    """Write down what an answer should have been, and return the correction's number.

    Args:
        db: the inspection database.
        description_id: of a description that is done.
        values: fields of ``Answer`` that are to be different; the others stay as the model answered. Where its reply
            had no form, all are needed.
        person: who says so.
        note: why.

    Raises:
        InputError: there is no such description, nobody corrects it, or the values are not an answer.
    """
    if not person.strip():
        raise InputError("Say who corrects the description.")
    with db.writing() as connection:
        found = connection.execute(
            select(descriptions, predictions.c.predicted)
            .join(predictions, predictions.c.prediction_id == descriptions.c.prediction_id)
            .where(descriptions.c.description_id == description_id, descriptions.c.state == DONE)
        ).one_or_none()
        if found is None:
            raise InputError(f"There is no description {description_id} that could be corrected.")
        before = json.loads(found.answer) if found.answer else {}
        try:
            answer = Answer.checked({**before, **values})
        except AnswerError as error:
            raise InputError(f"This is not an answer: {error}") from error
        made = connection.execute(
            insert(description_corrections)
            .values(
                description_id=description_id,
                line=found.line,
                person=plain_text(person, 128),
                answer=answer.model_dump_json(),
                note=plain_text(note, LONGEST_NOTE, lines=True) or None,
                created_at=utc_now(),
            )
            .returning(_NAMED.correction_id)
        )
        # what lists show and a search looks through is what holds; the model's own answer stays in its column
        holds = {"summary": answer.summary, "agrees": answer.agrees(found.predicted)}
        connection.execute(update(descriptions).where(descriptions.c.description_id == description_id).values(holds))
        return int(made.scalar_one())


def newest_corrections(db: InspectionDatabase, line: str, most: int) -> list[Correction]:
    """Return the corrections of a line that hold, newest first, at most so many; of one image only the last."""
    last = (
        select(func.max(_NAMED.correction_id))
        .join(descriptions, descriptions.c.description_id == _NAMED.description_id)
        .join(predictions, predictions.c.prediction_id == descriptions.c.prediction_id)
        .where(_NAMED.line == line)
        .group_by(predictions.c.sha256)
    )
    query = (
        select(
            *(_NAMED.correction_id, _NAMED.description_id, _NAMED.answer, _NAMED.person),
            *(predictions.c.prediction_id, predictions.c.path, predictions.c.sha256, predictions.c.predicted),
        )
        .join(descriptions, descriptions.c.description_id == _NAMED.description_id)
        .join(predictions, predictions.c.prediction_id == descriptions.c.prediction_id)
        .where(_NAMED.line == line, _NAMED.correction_id.in_(last))
        .order_by(desc(_NAMED.correction_id))
        .limit(most)
    )
    with db.reading() as connection:
        rows = connection.execute(query).all()
    return [
        Correction(
            correction_id=row.correction_id,
            description_id=row.description_id,
            prediction_id=row.prediction_id,
            image=KnownImage(Path(row.path), row.sha256),
            predicted=row.predicted,
            answer=Answer.checked(json.loads(row.answer)),
            person=row.person,
        )
        for row in rows
    ]


def last_correction(db: InspectionDatabase, description_id: int) -> Row[Any] | None:
    """Return the row of the last correction of a description; None where nobody corrected it."""
    with db.reading() as connection:
        return connection.execute(
            select(description_corrections)
            .where(_NAMED.description_id == description_id)
            .order_by(desc(_NAMED.correction_id))
            .limit(1)
        ).one_or_none()
