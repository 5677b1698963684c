"""What pages say in words: descriptions of findings, their corrections, and dialogues.

Whatever a model or a person wrote is escaped by the templates and shown as text. No handler here asks the endpoint: it
stores what is wanted, wakes the thread that asks, and answers 202. Pages ask again for the part that waits.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of handlers.

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi import Path as InPath
from fastapi.encoders import jsonable_encoder
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy import Row, func, select

from vad_dagster.service.describer import Describer
from vad_dagster.service.page_parts import LARGEST_NUMBER, Storable, recorded_by, refused_as_422, render
from vad_dagster.service.people import Visitor, Who
from vad_lib.errors import VadError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.database import chunks, utc_now
from vad_lib.inspection_db.schema import DONE, WAITING, descriptions
from vad_lib.words.answer import Answer
from vad_lib.words.corrections import last_correction, record_correction
from vad_lib.words.day import MOST_HOURS, day_facts
from vad_lib.words.describing import (
    answer_of,
    description_by_id,
    newest_description,
    request_description,
    search_descriptions,
)
from vad_lib.words.dialogue import LONGEST_QUESTION, ask_question, newest_turns
from vad_lib.words.endpoint import Endpoint
from vad_lib.words.figures import pieces

SHOWN_TURNS = 60
MOST_FOUND = 100
SOMEBODY = "somebody"
NO_MARKS = {"figures": [], "left_out": 0, "cut": False}

Person = Annotated[Storable, Field(max_length=128)]


class DescribeIn(BaseModel):
    """Who wants a description."""

    person: Person = ""
    again: bool = Field(False, description="Ask anew where there is a description already.")


class QuestionIn(BaseModel):
    """A question about a prediction."""

    text: Storable = Field(min_length=1, max_length=LONGEST_QUESTION)
    person: Person = ""


class DayQuestionIn(QuestionIn):
    """A question about what happened on a line."""

    hours: int = Field(24, ge=1, le=MOST_HOURS, description="About how many hours before now.")


class CorrectionIn(BaseModel):
    """What an answer should have been: those of its fields that are to be different."""

    answer: dict[str, Any]
    person: Person = ""
    note: Storable = Field("", max_length=2000)


class Accepted(BaseModel):
    """Something that is stored and waits for the endpoint."""

    id: int
    state: Literal["waiting", "done"]


class WordPages:
    """Parts of pages about words, and their routes."""

    def __init__(self, db: InspectionDatabase, describer: Describer) -> None:
        """``describer``: asks the endpoint, in a thread of its own."""
        self._db = db
        self._describer = describer

    def of_prediction(self, record: Row[Any]) -> dict[str, Any]:
        """Return what the page of a prediction shows."""
        here = f"/lines/{record.line}/results/{record.prediction_id}"
        return self._endpoint() | {
            "here": here,
            "questions": f"{here}/questions",
            "dialogue": f"{here}/dialogue",
            "is_about_day": False,
            **self._description(record),
            "turns": self._turns(record.line, record.prediction_id),
        }

    def of_line(self, line: str) -> dict[str, Any]:
        """Return what the page of a line's results shows."""
        return self._endpoint() | {
            "here": f"/lines/{line}",
            "questions": f"/lines/{line}/questions",
            "dialogue": f"/lines/{line}/dialogue",
            "is_about_day": True,
            "turns": self._turns(line, None),
        }

    def said_about(self, line: str, prediction_ids: Sequence[int]) -> dict[int, Any]:
        """Return the newest finished description of each of these predictions, where there is one."""
        columns, found = descriptions.c, dict[int, Any]()
        with self._db.reading() as connection:
            for some in chunks([int(number) for number in prediction_ids]):
                newest = (
                    select(func.max(columns.description_id))
                    .where(columns.line == line, columns.prediction_id.in_(some), columns.state == DONE)
                    .group_by(columns.prediction_id)
                )
                chosen = select(columns.prediction_id, columns.summary, columns.agrees)
                for row in connection.execute(chosen.where(columns.description_id.in_(newest))):
                    found[row.prediction_id] = row
        return found

    def routes(self, known: Callable[[str], str]) -> APIRouter:
        """Return the routes. ``known`` returns the name of a line that is watched, or raises the answer for another."""
        router = APIRouter(prefix="/lines/{line}", tags=["words"])
        KnownLine = Annotated[str, Depends(known)]
        Recorded = Annotated[Row[Any], Depends(recorded_by(self._db, known))]

        @router.post("/results/{prediction_id}/descriptions", status_code=202)
        def describe(record: Recorded, said: DescribeIn, who: Who) -> Accepted:
            """Ask for a description of what was found. It comes later: the page of the prediction shows it."""
            self._require_endpoint(record.line)
            with refused_as_422():
                number = request_description(
                    self._db,
                    record.line,
                    record.prediction_id,
                    asked_by=who.named(said.person, SOMEBODY),
                    again=said.again,
                )
            self._describer.wake()
            row = description_by_id(self._db, number)
            return Accepted(id=number, state=DONE if row is not None and row.state == DONE else WAITING)

        @router.get("/results/{prediction_id}/descriptions")
        def described(record: Recorded) -> JSONResponse:
            """All that is recorded of the newest description of a prediction."""
            row = newest_description(self._db, record.prediction_id)
            return JSONResponse(jsonable_encoder(None if row is None else dict(row._mapping)))

        @router.get("/results/{prediction_id}/description", response_class=HTMLResponse)
        def description_part(request: Request, record: Recorded) -> HTMLResponse:
            """The part of the page that shows the description."""
            values = self._endpoint() | self._description(record)
            return render(request, "description.html", words=values, record=record)

        @router.post("/descriptions/{description_id}/corrections", status_code=201)
        def correct(
            line: KnownLine,
            description_id: Annotated[int, InPath(ge=0, le=LARGEST_NUMBER)],
            said: CorrectionIn,
            who: Who,
        ) -> JSONResponse:
            """Say what the answer should have been. It is an example of the next prompts of the line."""
            row = description_by_id(self._db, description_id)
            if row is None or row.line != line:
                raise HTTPException(404, f"The line {line!r} has no description {description_id}.")
            with refused_as_422():
                person = who.actor(said.person).person
                number = record_correction(self._db, description_id, said.answer, person=person, note=said.note)
            return JSONResponse({"correction_id": number}, 201)

        @router.post("/results/{prediction_id}/questions", status_code=202)
        def ask(record: Recorded, said: QuestionIn, who: Who) -> Accepted:
            """Ask something about the part. The answer comes later, in the dialogue on its page."""
            return self._ask(record.line, said, who, prediction_id=record.prediction_id)

        @router.get("/results/{prediction_id}/dialogue", response_class=HTMLResponse)
        def dialogue(request: Request, record: Recorded) -> HTMLResponse:
            """The part of the page that shows the dialogue."""
            return self._dialogue(request, record.line, record.prediction_id)

        @router.post("/questions", status_code=202)
        def ask_about_day(line: KnownLine, said: DayQuestionIn, who: Who) -> Accepted:
            """Ask something about what happened on the line. The answer comes later, on the page of its results."""
            return self._ask(line, said, who, hours=said.hours)

        @router.get("/dialogue", response_class=HTMLResponse)
        def dialogue_about_day(request: Request, line: KnownLine) -> HTMLResponse:
            """The part of the page that shows the dialogue about the line."""
            return self._dialogue(request, line, None)

        @router.get("/day")
        def day(
            line: KnownLine, hours: Annotated[int, Query(ge=1, le=MOST_HOURS, description="Before now.")] = 24
        ) -> JSONResponse:
            """What a model is given with a question about the line: counts, kinds, labels, latency and versions."""
            return JSONResponse(day_facts(self._db, line, utc_now(), hours))

        @router.get("/descriptions", response_class=HTMLResponse)
        def search(
            request: Request,
            line: KnownLine,
            text: Annotated[Storable, Query(max_length=200, description="Words of the summary.")] = "",
            disagreements: Annotated[bool, Query(description="Only those that say the opposite.")] = False,
        ) -> HTMLResponse:
            """A page of descriptions whose summary holds all these words."""
            rows = search_descriptions(self._db, line, text, disagreements=disagreements, limit=MOST_FOUND)
            found = [(row, Path(row.path).name) for row in rows]
            values = {"found": found, "text": text, "disagreements": disagreements, "most": MOST_FOUND}
            return render(request, "descriptions.html", line=line, **values)

        return router

    def _endpoint(self) -> dict[str, Any]:
        client = self._describer.client
        return {"endpoint": client.endpoint if client else None, "off": "" if client else _why_off()}

    def _description(self, record: Row[Any]) -> dict[str, Any]:
        row = newest_description(self._db, record.prediction_id)
        answer, corrected = answer_of(row) if row is not None else None, None
        if row is not None and (correction := last_correction(self._db, row.description_id)) is not None:
            corrected = correction
            answer = Answer.checked(json.loads(correction.answer))
        disagrees = answer is not None and answer.agrees(record.predicted) is False
        return {"row": row, "answer": answer, "corrected": corrected, "disagrees": disagrees}

    def _turns(self, line: str, prediction_id: int | None) -> list[dict[str, Any]]:
        shown = []
        for row in newest_turns(self._db, line, prediction_id, SHOWN_TURNS):
            marks = NO_MARKS | json.loads(row.marks or "{}")
            shown.append({"row": row, "pieces": list(pieces(row.text, marks["figures"])), "marks": marks})
        return shown

    def _dialogue(self, request: Request, line: str, prediction_id: int | None) -> HTMLResponse:
        values = self._endpoint() | {"turns": self._turns(line, prediction_id)}
        return render(request, "dialogue.html", words=values)

    def _ask(self, line: str, said: QuestionIn, who: Visitor, **about: Any) -> Accepted:
        self._require_endpoint(line)
        with refused_as_422():
            number = ask_question(self._db, line, said.text, person=who.named(said.person, SOMEBODY), **about)
        self._describer.wake()
        return Accepted(id=number, state=WAITING)

    def _require_endpoint(self, line: str) -> None:
        """Answer why nobody can be asked, where that is so."""
        client = self._describer.client
        if client is None:
            raise HTTPException(503, _why_off())
        try:
            client.endpoint.require_leave(line, self._describer.facts(line).allow_images_to_leave)
        except VadError as error:
            raise HTTPException(409, str(error)) from error


def _why_off() -> str:
    try:
        Endpoint.required()
    except VadError as error:
        return str(error)
    return "Findings are described once the service is started anew."
