"""The review: one image after the other, in the order of worth, and people say what each is."""

# No `from __future__ import annotations`: FastAPI reads the annotations of handlers.

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from vad_dagster.service.page_parts import LARGEST_NUMBER, Storable, refused_as_422, render
from vad_dagster.service.people import Who
from vad_lib.errors import VadError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.reviews import (
    MOST_COUNTED,
    ToReview,
    count_judged_today,
    count_waiting,
    kinds_said,
    next_to_review,
)

MOST_AT_ONCE = 10
MOST_HELD = 200
MOST_KINDS = 30

Number = Annotated[int, Field(ge=0, le=LARGEST_NUMBER)]


class NextIn(BaseModel):
    """Who wants images to look at."""

    person: Storable = Field("", max_length=128, description="Where the login does not say it.")
    count: int = Field(3, ge=0, le=MOST_AT_ONCE, description="At most so many; 0: only keep what is there.")
    turn: int = Field(0, ge=0, le=LARGEST_NUMBER, description="How many this person has had.")
    have: list[Number] = Field([], max_length=MOST_HELD, description="Predictions that are on the screen already.")


class ItemOut(BaseModel):
    """An image to look at, which nobody else gets for two minutes."""

    prediction_id: int
    name: str = Field(description="Of the file.")
    page: str = Field(description="Address of all that is known about it.")
    source: str = Field(description="Why it comes: disagreement, near, new, random or unsure.")
    blind: bool = Field(description="Whether who judges it should not see the prediction before.")
    predicted: str
    p: float
    inference_threshold: float
    width: int = Field(description="Pixels, upright; 0 where it is not known.")
    height: int
    nearest: float | None = Field(description="Of new: p of the judged image whose score is nearest.")
    other: str = Field(description="Of disagreement: who says something else.")
    person: str = Field(description="Of unsure: who was.")

    @classmethod
    def of(cls, line: str, one: ToReview) -> "ItemOut":
        return cls(
            prediction_id=one.prediction_id,
            name=Path(one.path).name,
            page=f"/lines/{line}/results/{one.prediction_id}",
            source=one.source,
            blind=one.is_blind,
            predicted=one.predicted,
            p=one.p,
            inference_threshold=one.inference_threshold,
            width=one.width,
            height=one.height,
            nearest=one.nearest,
            other=one.other,
            person=one.person,
        )


class NextOut(BaseModel):
    """What to look at next, and how far it is."""

    items: list[ItemOut]
    lost: list[int] = Field(description="Of those on the screen: somebody else has them by now.")
    judged_today: int = Field(description="Images of the line, by all people, since midnight UTC.")
    waiting: int = Field(description="Images that are worth a look.")
    more_wait: bool = Field(description="Whether even more wait; they are not all counted.")


def kinds_of_lines(db: InspectionDatabase, trained_kinds: Callable[[str], Sequence[str]]) -> Callable[[str], list[str]]:
    """Return what tells the kinds of defect of a line: those of its last training's table, then those people named."""

    def kinds_of(line: str) -> list[str]:
        try:
            trained = trained_kinds(line)
        except VadError:  # its plan cannot be read: other pages say so
            trained = ()
        return list(dict.fromkeys([*trained, *kinds_said(db, line)]))[:MOST_KINDS]

    return kinds_of


def review_pages(
    db: InspectionDatabase, known: Callable[[str], str], kinds_of: Callable[[str], list[str]]
) -> APIRouter:
    """Return the routes of the review.

    Args:
        db: the inspection database.
        known: returns a line's name, or raises the right answer for one that is not watched.
        kinds_of: returns the kinds of defect of a line.
    """
    router = APIRouter(prefix="/lines/{line}/review", tags=["review"])
    KnownLine = Annotated[str, Depends(known)]

    @router.get("", response_class=HTMLResponse)
    def review(request: Request, line: KnownLine) -> HTMLResponse:
        """A page on which images are judged one after the other."""
        return render(request, "review.html", line=line, kinds=kinds_of(line))

    @router.post("/next")
    def following(line: KnownLine, wanted: NextIn, who: Who) -> NextOut:
        """Get the next images. Nobody else gets them for two minutes, or longer where this is asked again with them."""
        with refused_as_422():
            person = who.actor(wanted.person).person
        found = next_to_review(db, line, person, count=wanted.count, turn=wanted.turn, have=wanted.have)
        waiting = count_waiting(db, line, person)
        return NextOut(
            items=[ItemOut.of(line, one) for one in found.given],
            lost=found.lost,
            judged_today=count_judged_today(db, line),
            waiting=waiting,
            more_wait=waiting >= MOST_COUNTED,
        )

    return router
