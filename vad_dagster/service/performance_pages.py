"""Pages of how well a line does in use, and of who changed what."""

# No `from __future__ import annotations`: FastAPI reads the annotations of handlers.

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import pandas as pd
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse

from vad_dagster.service.page_parts import LARGEST_NUMBER, Storable, render
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import newest_changes
from vad_lib.inspection_db.field_performance import FieldPerformance, field_performance

ROWS = 100
CHART = {"width": 720, "height": 220, "left": 52, "top": 10, "bottom": 24}


def performance_pages(db: InspectionDatabase, known: Callable[[str], str]) -> APIRouter:
    """Return the routes ``/lines/{line}/performance``, ``/lines/{line}/changes`` and ``/changes``.

    Args:
        db: the inspection database.
        known: returns a line's name, or raises the right answer for one that is not watched.
    """
    router = APIRouter(tags=["pages"])
    KnownLine = Annotated[str, Depends(known)]
    Before = Annotated[int | None, Query(ge=0, le=LARGEST_NUMBER, description="audit_id of the last row seen.")]
    Words = Annotated[Storable, Query(max_length=128)]

    @router.get("/lines/{line}/performance", response_class=HTMLResponse)
    def performance(request: Request, line: KnownLine) -> HTMLResponse:
        """A page of precision, recall and false alarms in use, by week, version and kind of defect."""
        found = field_performance(db, line, datetime.now(UTC))
        return render(request, "performance.html", line=line, found=found, chart=CHART, marks=_marks(found))

    @router.get("/lines/{line}/performance.json")
    def performance_data(line: KnownLine) -> JSONResponse:
        """The same as data."""
        return JSONResponse(json.loads(field_performance(db, line, datetime.now(UTC)).model_dump_json()))

    @router.get("/lines/{line}/changes", response_class=HTMLResponse)
    def changes_of_line(
        request: Request, line: KnownLine, before: Before = None, person: Words = "", action: Words = ""
    ) -> HTMLResponse:
        """A page of what people changed on a line, newest first."""
        return _changes(request, db, line, before, person, action)

    @router.get("/changes", response_class=HTMLResponse)
    def changes(request: Request, before: Before = None, person: Words = "", action: Words = "") -> HTMLResponse:
        """A page of what people changed on all lines, newest first."""
        return _changes(request, db, None, before, person, action)

    return router


def _changes(
    request: Request, db: InspectionDatabase, line: str | None, before: int | None, person: str, action: str
) -> HTMLResponse:
    rows = newest_changes(db, line, before_id=before, person=person, actions=[action] if action else [], limit=ROWS)
    values = {"rows": [_readable(row) for row in rows.to_dict("records")], "person": person, "action": action}
    last = int(rows["audit_id"].iloc[-1]) if len(rows) == ROWS else None
    return render(request, "changes.html", line=line, last=last, **values)


def _readable(row: dict[Any, Any]) -> dict[str, Any]:
    details = json.loads(row["details"]) if isinstance(row["details"], str) else {}
    texts = {name: row[name] if isinstance(row[name], str) else "" for name in ("line", "role", "reason")}
    when = pd.Timestamp(row["created_at"])
    return {**row, **texts, "when": when, "details": ", ".join(f"{name}: {value}" for name, value in details.items())}


def _marks(found: FieldPerformance) -> list[dict[str, Any]]:
    """Return where the points of the chart stand: for each week that is known, its place and that of its interval."""
    inner = CHART["height"] - CHART["top"] - CHART["bottom"]
    step = (CHART["width"] - CHART["left"]) / max(1, len(found.weeks))

    def y(share: float) -> float:
        return round(CHART["top"] + inner * (1 - share), 1)

    marks = []
    for place, (week, figures) in enumerate(found.weeks.items()):
        x = CHART["left"] + step * (place + 0.5)
        for name, shift in (("precision", -5), ("recall", 5)):
            one = getattr(figures, name)
            if one is not None:
                ends = {"y": y(one.value), "low": y(one.low), "high": y(one.high)}
                marks.append({"week": week, "name": name, "x": round(x + shift, 1), "said": f"{one} ({one.n})", **ends})
    return marks
