"""Pages for people around one prediction: picture, heatmap, numbers, labels, and the way to all that led to it.

A browser sends the token as the password of the user name of its choice.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of handlers.

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import BaseModel, Field
from sqlalchemy import Row

from vad_dagster import provenance
from vad_dagster.registry import registered_model
from vad_dagster.resources import MLflowTracking
from vad_dagster.resources.tracking import dagster_url
from vad_dagster.service.heatmap_drawer import JPEG_TYPE, Drawer, bytes_as_scored, shown_by_browsers
from vad_dagster.service.page_parts import LARGEST_NUMBER, Storable, recorded_by, refused_as_422, render
from vad_dagster.service.people import Who
from vad_dagster.service.word_pages import WordPages
from vad_lib.images.paths import IMAGE_FORMATS, format_of
from vad_lib.inspection_db.labels import LONGEST_KIND, MOST_BOXES, Box, Said, agreement, record_label, withdraw_label
from vad_lib.inspection_db.lineage import lineage_of, newest_results
from vad_lib.inspection_db.monitoring import standing_alarms
from vad_lib.inspection_db.reviews import hold
from vad_lib.inspection_db.schema import WITHDRAWN
from vad_lib.queue import QueueFacts, queue_facts
from vad_lib.queue.latency import latencies
from vad_lib.serving import InferenceService

PNG_TYPE = "image/png"
MEDIA_TYPES = {name: f"image/{name.lower()}" for name in IMAGE_FORMATS}
MOST_ROWS = 1000
KEPT_BY_BROWSERS = {"Cache-Control": "private, max-age=86400, immutable"}
"""A prediction never changes, and neither does its picture."""
NO_PAGES = {"version": "", "run": "", "threshold": ""}


class LineOut(BaseModel):
    """How a line is served."""

    line: str
    folder: str = Field(description="Its watch folder.")
    champion: str = Field(description="Label of the version that serves; empty: none.")
    warm: str = Field(description="Label of the version in memory; empty: none.")
    waiting: int = Field(description="Images in the queue that are not decided.")
    leased: int = Field(description="Images that a worker has in hand.")
    trouble: str
    drift: list[str] = Field(description="Alarms that stand: what changed, since when, and what to do.")


def served_lines(service: InferenceService) -> list[LineOut]:
    """Return how each line is served, by name."""
    warm, reasons, facts = service.models.versions(), service.not_ready(), queue_facts(service.db)
    nothing, drift = QueueFacts(), standing_alarms(service.db)
    return [
        LineOut(
            line=name,
            folder=str(line.folder),
            champion=line.model_version,
            warm=warm.get(name, ""),
            waiting=facts.get(name, nothing).pending,
            leased=facts.get(name, nothing).leased,
            trouble=reasons.get(name, ""),
            drift=list(drift.get(name, {}).values()),
        )
        for name, line in sorted(service.watched.items())
    ]


class LabelIn(BaseModel):
    """What a person says that a part is."""

    label: Said
    kind: Storable = Field("", max_length=LONGEST_KIND, description="Of NG: the kind of defect.")
    boxes: list[Box] = Field([], max_length=MOST_BOXES, description="Of NG: left, top, right, bottom in pixels.")
    person: Storable = Field("", max_length=128, description="Who says so, where the login does not say it.")
    note: Storable = Field("", max_length=2000)
    key: Storable | None = Field(None, min_length=8, max_length=64, description="Sent again with it: written once.")


class WithdrawIn(BaseModel):
    """Who takes back what was said last."""

    person: Storable = Field("", max_length=128)
    note: Storable = Field("", max_length=2000)
    key: Storable | None = Field(None, min_length=8, max_length=64, description="Sent again with it: written once.")
    undo: bool = Field(False, description="An own label only, and the image stays with who says it anew.")


class LabelOut(BaseModel):
    """The label as it is recorded."""

    label_id: int
    prediction_id: int
    label: Said | Literal["withdrawn"]


def result_pages(service: InferenceService, known: Callable[[str], str], drawer: Drawer, words: WordPages) -> APIRouter:
    """Return the routes of the page of all lines, and those below ``/lines/{line}/results``.

    Args:
        service: whose database and models are shown.
        known: returns a line's name, or raises the right answer for one that is not watched.
        drawer: draws heatmaps; what it cannot draw it says by errors, which the application answers.
        words: what stands in the pages about descriptions and dialogues.
    """

    KnownLine = Annotated[str, Depends(known)]
    Recorded = Annotated[Row[Any], Depends(recorded_by(service.db, known))]
    pages = APIRouter(tags=["pages"])
    router = APIRouter(prefix="/lines/{line}/results", tags=["pages"])
    tracking = MLflowTracking()

    @pages.get("/", response_class=HTMLResponse)
    def lines(request: Request) -> HTMLResponse:
        """A page of all lines: whether they are served, what waits, and how long results took."""
        return render(
            request,
            "lines.html",
            lines=served_lines(service),
            latencies=latencies(service.db, list(service.watched)),
            trouble=service.not_ready().get("*", ""),
            dagster=dagster_url(""),
            mlflow=tracking.models_url(),
        )

    @router.get("", response_class=HTMLResponse)
    def results(
        request: Request,
        line: KnownLine,
        version: Annotated[Storable, Query(max_length=128, description="Number of a model version.")] = "",
        run: Annotated[Storable, Query(max_length=128, description="Id of a Dagster run.")] = "",
        first: Annotated[int | None, Query(ge=0, le=LARGEST_NUMBER, description="Lowest prediction_id.")] = None,
        last: Annotated[int | None, Query(ge=0, le=LARGEST_NUMBER, description="Highest prediction_id.")] = None,
        predicted: Annotated[Literal["OK", "NG"] | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 100,
    ) -> HTMLResponse:
        """A page of the newest predictions."""
        label = f"{registered_model(line)}/{version}" if version.isdecimal() else version or None
        rows, count = newest_results(
            service.db, line, model_version=label, run_id=run or None, first=first, last=last, predicted=predicted,
            limit=limit,
        )  # fmt: skip
        return render(
            request,
            "results.html",
            line=line,
            version=version,
            rows=list(rows.itertuples()),
            said=words.said_about(line, list(rows["prediction_id"])),
            words=words.of_line(line),
            count=count,
            agreed=agreement(service.db, line, label),
            events=provenance.line_events_page(line),
            version_page=tracking.version_url(*label.rsplit("/", 1)) if label and "/" in label else "",
            run_page=dagster_url(f"runs/{run}") if run else "",
        )

    @router.get("/{prediction_id}", response_class=HTMLResponse)
    def result(request: Request, record: Recorded) -> HTMLResponse:
        """A page of one prediction, with links to everything that led to it."""
        return render(
            request,
            "result.html",
            record=record,
            name=Path(record.path).name,
            here=f"/lines/{record.line}/results/{record.prediction_id}",
            results=f"/lines/{record.line}/results",
            pages=NO_PAGES | provenance.model_pages(tracking, record.model_version),
            lineage=lineage_of(service.db, record),
            words=words.of_prediction(record),
        )

    @router.get("/{prediction_id}/row")
    def row(record: Recorded) -> JSONResponse:
        """The row of the inspection database, and the rows of other tables that belong to it."""
        here = provenance.service_url(f"lines/{record.line}/results/{record.prediction_id}")
        links = {
            "page": here,
            "dagster_event": f"{here}/event",
            **provenance.model_pages(tracking, record.model_version),
        }
        lineage = lineage_of(service.db, record)
        return JSONResponse(jsonable_encoder({"predictions": dict(record._mapping), **lineage, "links": links}))

    @router.get("/{prediction_id}/event", response_class=RedirectResponse, status_code=303)
    def event(record: Recorded) -> RedirectResponse:
        """Go to the run or the event in Dagster that stands for the prediction."""
        if record.run_id:
            return RedirectResponse(dagster_url(f"runs/{record.run_id}"), 303)
        import dagster as dg

        scored: datetime = record.created_at
        with dg.DagsterInstance.get() as instance:
            page = provenance.event_page(instance, record.line, record.prediction_id, scored.timestamp())
        return RedirectResponse(page or provenance.line_events_page(record.line), 303)

    @router.get("/{prediction_id}/image", response_class=Response)
    def image(record: Recorded) -> Response:
        """The image as it was scored, byte for byte."""
        data = bytes_as_scored(record)
        return Response(data, media_type=MEDIA_TYPES[format_of(data)])

    @router.get("/{prediction_id}/heatmap.png", response_class=Response)
    def heatmap(record: Recorded) -> Response:
        """The image beside its heatmap, drawn by the version that made the prediction."""
        return Response(drawer.draw(record), media_type=PNG_TYPE)

    @router.get("/{prediction_id}/picture", response_class=Response)
    def picture(record: Recorded) -> Response:
        """The image as browsers can show it; a large one is made smaller."""
        data, kind = shown_by_browsers(record)
        return Response(data, media_type=kind, headers=KEPT_BY_BROWSERS)

    @router.get("/{prediction_id}/overlay.jpg", response_class=Response)
    def overlay(record: Recorded) -> Response:
        """The image under its heatmap."""
        return Response(drawer.overlay(record), media_type=JPEG_TYPE, headers=KEPT_BY_BROWSERS)

    @router.post("/{prediction_id}/labels", status_code=201)
    def give_label(record: Recorded, said: LabelIn, who: Who) -> LabelOut:
        """Say what the part is. The last label on an image holds; those before it stay."""
        with refused_as_422():
            number = record_label(
                service.db,
                record.prediction_id,
                said.label,
                by=who.actor(said.person),
                note=said.note,
                kind=said.kind,
                boxes=said.boxes,
                key=said.key,
            )
        return LabelOut(label_id=number, prediction_id=record.prediction_id, label=said.label)

    @router.post("/{prediction_id}/labels/withdraw", status_code=201)
    def take_back(record: Recorded, said: WithdrawIn, who: Who) -> LabelOut:
        """Take back what was said last about the image. All that was said stays in the history."""
        with refused_as_422():
            by = who.actor(said.person)
            number = withdraw_label(
                service.db, record.prediction_id, by=by, note=said.note, only_own=said.undo, key=said.key
            )
        if said.undo:
            hold(service.db, record.line, by.person, record.prediction_id)
        return LabelOut(label_id=number, prediction_id=record.prediction_id, label=WITHDRAWN)

    pages.include_router(router)
    return pages
