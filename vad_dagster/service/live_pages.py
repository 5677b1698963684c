"""Live: all lines at a glance, the newest images of one line, and its pause."""

# No `from __future__ import annotations`: FastAPI reads the annotations of handlers.

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel, Field

from vad_dagster.provenance import line_events_page
from vad_dagster.resources import MLflowTracking
from vad_dagster.resources.tracking import dagster_url
from vad_dagster.service.languages import language_of
from vad_dagster.service.line_states import LineOut, LineStates, served_lines
from vad_dagster.service.live_updates import LiveUpdates
from vad_dagster.service.page_parts import LARGEST_NUMBER, Storable, refused_as_422, render
from vad_dagster.service.people import WhoApproves
from vad_lib.inspection_db.audit import LONGEST_NAME, LONGEST_NOTE
from vad_lib.inspection_db.result_lists import find_results
from vad_lib.queue import pause_line, resume_line
from vad_lib.serving import InferenceService

SHOWN = 12
"""Newest images on the page of a line."""
SHOWN_ON_CARD = 4
"""Newest images of each line on the page of all lines."""
MOST_CARDS_WITH_PICTURES = 60
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""A proxy has to hand events on at once."""


class PauseIn(BaseModel):
    """Why a line is paused."""

    reason: Storable = Field(max_length=LONGEST_NOTE, description="Others will ask.")
    person: Storable = Field("", max_length=LONGEST_NAME, description="Who says so, where the login does not say it.")


class ResumeIn(BaseModel):
    """Who resumes a line."""

    reason: Storable = Field("", max_length=LONGEST_NOTE)
    person: Storable = Field("", max_length=LONGEST_NAME, description="Who says so, where the login does not say it.")


def live_pages(
    service: InferenceService, known: Callable[[str], str], states: LineStates, updates: LiveUpdates
) -> APIRouter:
    """Return the routes of Live.

    Args:
        service: whose lines are shown.
        known: returns a line's name, or raises the right answer for one that is not watched.
        states: of all lines.
        updates: tells pages what comes.
    """
    KnownLine = Annotated[str, Depends(known)]
    pages = APIRouter(tags=["pages"])
    tracking = MLflowTracking()

    @pages.get("/", response_class=HTMLResponse)
    def plant(request: Request) -> HTMLResponse:
        """All lines at a glance: how each is served, what waits, the share of NG and the newest images."""
        glances = states.glances()
        shown = {
            name: find_results(service.db, name, limit=SHOWN_ON_CARD).rows
            for name in list(glances)[:MOST_CARDS_WITH_PICTURES]
        }
        return render(
            request,
            "plant.html",
            glances=glances,
            shown=shown,
            newest=max((rows[0].prediction_id for rows in shown.values() if rows), default=0),
            trouble=service.not_ready().get("*", ""),
            dagster=dagster_url(""),
            mlflow=tracking.models_url(),
        )

    @pages.get("/lines/{line}", response_class=HTMLResponse)
    def live(request: Request, line: KnownLine) -> HTMLResponse:
        """The newest images of a line, as they come."""
        glance = states.glances().get(line)
        if glance is None:
            raise HTTPException(404, f"The line {line!r} has only just been added: load this page again.")
        rows = find_results(service.db, line, limit=SHOWN).rows
        return render(request, "live.html", line=line, one=glance, rows=rows, events=line_events_page(line))

    @pages.get(
        "/events", response_class=StreamingResponse, responses={503: {"description": "Too many follow already."}}
    )
    async def events(
        request: Request,
        line: Annotated[Storable, Query(max_length=63, description="Empty: all lines.")] = "",
        after: Annotated[int, Query(ge=0, le=LARGEST_NUMBER, description="prediction_id of the last seen.")] = 0,
    ) -> StreamingResponse:
        """New results and states of lines as server-sent events; the data of each are JSON with parts of pages."""
        if line:
            known(line)
        updates.require_room()
        last = request.headers.get("last-event-id", "")
        seen = int(last) if last.isascii() and last.isdecimal() and len(last) < 20 else after
        language = language_of(request.headers, request.cookies)
        stream = updates.stream(line, language, min(seen, LARGEST_NUMBER))
        return StreamingResponse(stream, media_type="text/event-stream", headers=STREAM_HEADERS)

    def now(line: str) -> LineOut:
        states.forget()
        return next(one for one in served_lines(service) if one.line == line)

    @pages.post("/lines/{line}/pause")
    def pause(line: KnownLine, said: PauseIn, who: WhoApproves) -> LineOut:
        """Let the images of a line wait until somebody resumes it. What is in hand is finished."""
        with refused_as_422():
            pause_line(service.db, line, who.actor(said.person), said.reason)
        return now(line)

    @pages.post("/lines/{line}/resume")
    def resume(line: KnownLine, said: ResumeIn, who: WhoApproves) -> LineOut:
        """Let the images of a paused line be inspected again."""
        with refused_as_422():
            resume_line(service.db, line, who.actor(said.person), said.reason)
        return now(line)

    return pages
