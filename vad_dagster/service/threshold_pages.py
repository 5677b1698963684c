"""The page on which a person tries another threshold on scores that there are, and saves it."""

# No `from __future__ import annotations`: FastAPI reads the annotations of handlers.

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from sqlalchemy import select

from vad_dagster.plans import plan_of
from vad_dagster.registry import CHAMPION, LineRegistry, Version
from vad_dagster.resources import MLflowTracking
from vad_dagster.service.page_parts import Storable, refused_as_422, render
from vad_dagster.service.people import WhoApproves
from vad_dagster.service.version_pages import DecisionOut
from vad_dagster.thresholds import save_threshold, validation_scores_of
from vad_lib.errors import VadError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.labels import labels_by_content
from vad_lib.inspection_db.schema import predictions
from vad_lib.lines import Home
from vad_lib.plan.arguments import TrainArguments
from vad_lib.thresholds import Costs

RECENT = 500
"""Predictions of the version that serves that are judged again on the page."""


class ThresholdIn(BaseModel):
    """Another threshold, with the reason."""

    threshold: float = Field(allow_inf_nan=False, description="On the raw score; NG at or above it.")
    reason: Storable = Field(min_length=1, max_length=2000)
    person: Storable = Field("", max_length=128, description="Where the login does not say it.")


def threshold_pages(db: InspectionDatabase, known: Callable[[str], str]) -> APIRouter:
    """Return the routes of ``/lines/{line}/threshold``.

    Args:
        db: the inspection database.
        known: returns a line's name, or raises the right answer for one that is not watched.
    """
    router = APIRouter(prefix="/lines/{line}/threshold", tags=["versions"])
    KnownLine = Annotated[str, Depends(known)]
    tracking = MLflowTracking()

    @router.get("", response_class=HTMLResponse)
    def page(request: Request, line: KnownLine) -> HTMLResponse:
        """A page that judges validation images and recent ones by the threshold that a slider chooses."""
        champion, trouble = _champion(tracking, line)
        data = _scores(db, champion) if champion else None
        return render(
            request, "threshold.html", line=line, champion=champion, trouble=trouble, data=data, costs=_costs(line)
        )

    @router.post("", status_code=201)
    def save(line: KnownLine, said: ThresholdIn, who: WhoApproves) -> DecisionOut:
        """Save the threshold as a version of its own, which serves from then on. It takes some seconds."""
        with refused_as_422():
            made = save_threshold(db, tracking, line, said.threshold, who.actor(said.person), said.reason)
        return DecisionOut(label=made.label)

    return router


def _champion(tracking: MLflowTracking, line: str) -> tuple[Version | None, str]:
    try:
        return LineRegistry(tracking, line).at(CHAMPION), ""
    except Exception as error:  # whatever MLflow or its database say
        return None, f"{type(error).__name__}: {error}"[:500]


def _scores(db: InspectionDatabase, version: Version) -> dict[str, Any]:
    """Return what the script of the page judges: scores with what is known of their images."""
    rows, held, columns = validation_scores_of(version), labels_by_content(version.line), predictions.c
    newest = (
        select(columns.prediction_id, columns.path, columns.raw_score, columns.predicted, columns.sha256)
        .where(columns.line == version.line, columns.model_version == version.label)
        .order_by(columns.prediction_id.desc())
        .limit(RECENT)
    )
    with db.reading() as connection:
        recent = connection.execute(newest).all()
        of_page = held.c.sha256.in_([row.sha256 for row in recent])
        said = {row.sha256: row.label for row in connection.execute(select(held).where(of_page))}
    return {
        "threshold": float(version.tags.get("threshold", "nan")),
        "validation": [
            {"score": float(score), "ng": bool(is_anomalous), "label": str(label)}
            for score, is_anomalous, label in zip(rows["raw_score"], rows["is_anomalous"], rows["label"], strict=True)
        ],
        "recent": [
            {
                "score": row.raw_score,
                "id": row.prediction_id,
                "name": Path(row.path).name,
                "was": row.predicted,
                "said": said.get(row.sha256, ""),
            }
            for row in recent
        ],
    }


def _costs(line: str) -> Costs:
    """Return the costs of the line's plan; the defaults where it cannot be read."""
    try:
        train = plan_of(Home.from_environment().line(line)).train
    except VadError:
        train = TrainArguments(model_name=str(TrainArguments.model_fields["model_name"].default))
    return train.learning_rule("Cost").costs
