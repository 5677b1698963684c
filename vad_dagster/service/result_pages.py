"""Pages for people around one prediction: picture, heatmap, numbers, labels, and the way to all that led to it.

A browser sends the token as the password of the user name of its choice.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of handlers.

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import BaseModel, Field
from sqlalchemy import Row

from vad_dagster import provenance
from vad_dagster.resources import MLflowTracking
from vad_dagster.resources.tracking import dagster_url
from vad_dagster.service.heatmap_drawer import JPEG_TYPE, Drawer, bytes_as_scored, shown_by_browsers
from vad_dagster.service.page_parts import Storable, recorded_by, refused_as_422, render
from vad_dagster.service.people import Who
from vad_dagster.service.word_pages import WordPages
from vad_lib.ground_truth import load_labels
from vad_lib.images.paths import IMAGE_FORMATS, format_of
from vad_lib.inspection_db.labels import LONGEST_KIND, MOST_BOXES, Box, Said, record_label, withdraw_label
from vad_lib.inspection_db.lineage import lineage_of, neighbours_of
from vad_lib.inspection_db.reviews import hold
from vad_lib.inspection_db.schema import WITHDRAWN
from vad_lib.serving import InferenceService

PNG_TYPE = "image/png"
MEDIA_TYPES = {name: f"image/{name.lower()}" for name in IMAGE_FORMATS}
KEPT_BY_BROWSERS = {"Cache-Control": "private, max-age=86400, immutable"}
"""A prediction never changes, and neither does its picture."""
NO_PAGES = {"version": "", "run": "", "threshold": ""}


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


def result_pages(
    service: InferenceService,
    known: Callable[[str], str],
    drawer: Drawer,
    words: WordPages,
    kinds_of: Callable[[str], list[str]],
) -> APIRouter:
    """Return the routes of one prediction, below ``/lines/{line}/results``.

    Args:
        service: whose database is shown.
        known: returns a line's name, or raises the right answer for one that is not watched.
        drawer: draws heatmaps; what it cannot draw it says by errors, which the application answers.
        words: what stands in the pages about descriptions and dialogues.
        kinds_of: returns the kinds of defect of a line.
    """

    Recorded = Annotated[Row[Any], Depends(recorded_by(service.db, known))]
    router = APIRouter(prefix="/lines/{line}/results", tags=["pages"])
    tracking = MLflowTracking()

    @router.get("/{prediction_id}", response_class=HTMLResponse)
    def result(request: Request, record: Recorded) -> HTMLResponse:
        """A page of one prediction, with links to everything that led to it."""
        lineage, results = lineage_of(service.db, record), f"/lines/{record.line}/results"
        before, after = neighbours_of(service.db, record)
        size = lineage["images"][0] if lineage["images"] else {"width": 0, "height": 0}
        learnt = load_labels(service.watched[record.line].line.store / "validated_dataset")
        return render(
            request,
            "result.html",
            record=record,
            name=Path(record.path).name,
            here=f"{results}/{record.prediction_id}",
            before=f"{results}/{before}" if before is not None else "",
            after=f"{results}/{after}" if after is not None else "",
            size=(size["width"], size["height"]),
            kinds=kinds_of(record.line),
            trained=bool(lineage["labels"]) and lineage["labels"][0]["label_id"] in set(learnt["label_id"]),
            pages=NO_PAGES | provenance.model_pages(tracking, record.model_version),
            lineage=lineage,
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

    return router
