"""The page of a line's versions: who serves, how they compare on the same images, and what a person decides."""

# No `from __future__ import annotations`: FastAPI reads the annotations of handlers.

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from sqlalchemy import Row

from vad_dagster.promotions import promote_by_person, roll_back_by_person
from vad_dagster.registry import CHALLENGER, CHAMPION, PREVIOUS, LineRegistry, Version
from vad_dagster.resources import MLflowTracking
from vad_dagster.service.page_parts import LARGEST_NUMBER, Storable, recorded_by, refused_as_422, render
from vad_dagster.service.people import WhoApproves
from vad_lib.artifacts.version_card import LABELS
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import newest_changes
from vad_lib.inspection_db.version_comparison import compare_versions, differing_images
from vad_lib.metrics import auroc_interval, interval

A_PAGE = 24
SHOWN_VERSIONS = 30
COUNTS = ("tp", "fp", "tn", "fn")


class DecisionIn(BaseModel):
    """Why a version is to serve, and who says so."""

    reason: Storable = Field(min_length=1, max_length=2000)
    person: Storable = Field("", max_length=128, description="Where the login does not say it.")


class DecisionOut(BaseModel):
    """The version that serves now."""

    label: str


def version_pages(db: InspectionDatabase, known: Callable[[str], str]) -> APIRouter:
    """Return the routes below ``/lines/{line}/versions``.

    Args:
        db: the inspection database.
        known: returns a line's name, or raises the right answer for one that is not watched.
    """
    router = APIRouter(prefix="/lines/{line}/versions", tags=["versions"])
    KnownLine = Annotated[str, Depends(known)]
    Recorded = Annotated[Row[Any], Depends(recorded_by(db, known))]
    Number = Annotated[str, InPath(pattern=r"^\d{1,9}$", description="Of the version.")]
    tracking = MLflowTracking()

    @router.get("", response_class=HTMLResponse)
    def versions(
        request: Request,
        line: KnownLine,
        champion: Annotated[Storable, Query(max_length=9, description="Number; empty: the one that serves.")] = "",
        challenger: Annotated[Storable, Query(max_length=9, description="Number; empty: challenger or previous.")] = "",
        before: Annotated[
            int | None, Query(ge=0, le=LARGEST_NUMBER, description="prediction_id of the last seen.")
        ] = None,
    ) -> HTMLResponse:
        """A page of all versions, and of two of them side by side."""
        found, trouble = _versions(tracking, line)
        one, other = _pair(found, champion, challenger)
        compared, differing = None, []
        if one is not None and other is not None:
            compared = compare_versions(db, line, one.label, other.label)
            differing = differing_images(db, line, one.label, other.label, before_id=before, page=A_PAGE)
        changes = newest_changes(db, line, actions=("promote", "rollback", "threshold"), limit=20)
        return render(
            request,
            "versions.html",
            line=line,
            versions=[_shown(version, tracking) for version in found[:SHOWN_VERSIONS]],
            more=max(0, len(found) - SHOWN_VERSIONS),
            trouble=trouble,
            one=_shown(one, tracking) if one else None,
            other=_shown(other, tracking) if other else None,
            compared=compared,
            differing=[(image, Path(image.path).name) for image in differing],
            last=differing[-1].prediction_id if len(differing) == A_PAGE else None,
            changes=list(changes.fillna("").itertuples()),
        )

    @router.get("/{number}/labels", response_class=HTMLResponse)
    def labels(request: Request, line: KnownLine, number: Number) -> HTMLResponse:
        """A page of the labels of people that a version has learnt from or was measured by."""
        registry = _registry(tracking, line)
        with refused_as_422():
            version = registry.named(number)
        table = _labels_of(registry, version)
        rows = [] if table.empty else list(table.itertuples())
        return render(request, "version_labels.html", line=line, version=version, rows=rows)

    @router.get("/learnt/{prediction_id}", response_class=HTMLResponse)
    def learnt(request: Request, record: Recorded) -> HTMLResponse:
        """A page of the versions that were given a label on an image, from the newest of them on."""
        registry = _registry(tracking, record.line)
        found = []
        for version in registry.versions()[:SHOWN_VERSIONS]:
            table = _labels_of(registry, version)
            rows = table[table["sha256"] == record.sha256] if len(table) else table
            if len(rows):
                found.append((version, rows.iloc[0]))
        values = {"record": record, "name": Path(record.path).name, "found": found}
        return render(request, "image_versions.html", line=record.line, **values)

    @router.post("/{number}/promotion")
    def promote(line: KnownLine, number: Number, said: DecisionIn, who: WhoApproves) -> DecisionOut:
        """Let a version serve."""
        with refused_as_422():
            made = promote_by_person(db, _registry(tracking, line), number, who.actor(said.person), said.reason)
        return DecisionOut(label=made.label)

    @router.post("/rollback")
    def roll_back(line: KnownLine, said: DecisionIn, who: WhoApproves) -> DecisionOut:
        """Let the version serve again that served before."""
        with refused_as_422():
            made = roll_back_by_person(db, _registry(tracking, line), who.actor(said.person), said.reason)
        return DecisionOut(label=made.label)

    return router


def _registry(tracking: MLflowTracking, line: str) -> LineRegistry:
    try:
        return LineRegistry(tracking, line)
    except Exception as error:  # whatever MLflow or its database say
        raise HTTPException(503, f"MLflow cannot be asked now: {error}") from error


_KNOWN_LABELS: dict[str, pd.DataFrame] = {}
"""Labels of versions by label of the version: what a version was given never changes."""


def _labels_of(registry: LineRegistry, version: Version) -> pd.DataFrame:
    if version.label not in _KNOWN_LABELS:
        if len(_KNOWN_LABELS) >= 200:
            _KNOWN_LABELS.clear()
        _KNOWN_LABELS[version.label] = registry.labels_of(version)
    return _KNOWN_LABELS[version.label]


def _versions(tracking: MLflowTracking, line: str) -> tuple[list[Version], str]:
    """Return the versions, the newest first, and why there are none where MLflow cannot be asked."""
    try:
        return LineRegistry(tracking, line).versions(), ""
    except Exception as error:  # whatever MLflow or its database say: the rest of the page goes on
        return [], f"{type(error).__name__}: {error}"[:500]


def _pair(versions: list[Version], champion: str, challenger: str) -> tuple[Version | None, Version | None]:
    """Return the two versions that are compared: those asked for, else the champion beside challenger or previous."""

    def named(number: str, *aliases: str) -> Version | None:
        if number:
            return next((version for version in versions if version.number == number), None)
        return next((one for alias in aliases for one in versions if alias in one.aliases), None)

    one, other = named(champion, CHAMPION), named(challenger, CHALLENGER, PREVIOUS)
    return one, None if one is None or other is None or one.number == other.number else other


def _shown(version: Version, tracking: MLflowTracking) -> dict[str, Any]:
    """Return what the page says of a version."""
    tags = version.tags
    return {
        "number": version.number,
        "label": version.label,
        "aliases": version.aliases,
        "detector": tags.get("detector", ""),
        "threshold": _short(tags.get("threshold", "")),
        "threshold_method": tags.get("threshold_method", ""),
        "promoted_by": tags.get("promoted_by", "").removeprefix("person: "),
        "page": tracking.version_url(version.label.rpartition("/")[0], version.number),
        "figures": _figures(tags),
        "labels": tags.get(LABELS, ""),
    }


def _short(number: str) -> str:
    try:
        return f"{float(number):.6g}"
    except ValueError:
        return number


def _figures(tags: Any) -> list[tuple[str, str]]:
    """Return the figures on the validation rows, each with its interval and n, as far as the tags hold them."""
    try:
        counts = {name: int(float(tags[name])) for name in COUNTS if name in tags}
        area = float(tags["image_auroc"]) if "image_auroc" in tags else None
    except ValueError:
        return []
    normal, defects = (counts.get("tn", 0) + counts.get("fp", 0)), counts.get("tp", 0) + counts.get("fn", 0)
    told: list[tuple[str, str]] = []
    if area is not None and normal and defects:
        low, high = auroc_interval(area, normal, defects)
        told.append(("image AUROC", f"{area:.3f} ({low:.3f}–{high:.3f}), n {normal} + {defects}"))
    for name, count, of in (("missed", counts.get("fn"), defects), ("false alarms", counts.get("fp"), normal)):
        if count is not None and of:
            low, high = interval(count, of)
            told.append((name, f"{count} of {of} ({100 * low:.0f}–{100 * high:.0f} %)"))
    return told
