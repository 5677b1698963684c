"""The gallery: the results of a line as pictures, by what a person looks for, and small pictures of them."""

# No `from __future__ import annotations`: FastAPI reads the annotations of handlers.

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse, HTMLResponse
from pydantic import AfterValidator, BeforeValidator, Field
from starlette.concurrency import run_in_threadpool

from vad_dagster import provenance
from vad_dagster.registry import registered_model
from vad_dagster.resources import MLflowTracking
from vad_dagster.resources.tracking import dagster_url
from vad_dagster.service.languages import language_of
from vad_dagster.service.page_parts import LARGEST_NUMBER, Storable, recorded_by, refused_as_422, render, text_of
from vad_dagster.service.thumbnails import NOT_FOR_LONG, Thumbnails
from vad_dagster.service.word_pages import WordPages
from vad_lib.inspection_db.labels import LONGEST_KIND, agreement
from vad_lib.inspection_db.result_lists import (
    MOST_COUNTED,
    Order,
    ToldByPeople,
    Wanted,
    count_results,
    find_refused,
    find_results,
    kinds_of,
    refused_file,
    versions_of,
)
from vad_lib.serving import InferenceService

MOST_ROWS = 1000
A_PAGE = 60


def _none_if_empty(given: Any) -> Any:
    """A form sends its empty fields too."""
    return None if given == "" else given


def _in_utc(moment: datetime) -> datetime:
    """A time without a zone is meant in UTC, as the pages show times."""
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError("this time is none in UTC") from error


Number = Annotated[Annotated[int, Field(ge=0, le=LARGEST_NUMBER)] | None, BeforeValidator(_none_if_empty)]
PredictionId = Annotated[int, InPath(ge=0, le=LARGEST_NUMBER)]
Moment = Annotated[Annotated[datetime, AfterValidator(_in_utc)] | None, BeforeValidator(_none_if_empty)]


def gallery_pages(
    service: InferenceService, known: Callable[[str], str], thumbnails: Thumbnails, words: WordPages
) -> APIRouter:
    """Return the routes of the gallery, below ``/lines/{line}``.

    Args:
        service: whose results are shown.
        known: returns a line's name, or raises the right answer for one that is not watched.
        thumbnails: draws small pictures.
        words: what is said about results, and the dialogue about the line.
    """
    KnownLine = Annotated[str, Depends(known)]
    recorded = recorded_by(service.db, known)
    router, tracking = APIRouter(prefix="/lines/{line}", tags=["pages"]), MLflowTracking()

    @router.get("/results", response_class=HTMLResponse)
    def results(
        request: Request,
        line: KnownLine,
        predicted: Annotated[Literal["", "OK", "NG", "refused"], Query(description="Empty: OK and NG.")] = "",
        told: Annotated[ToldByPeople, Query(description="What people said about the image.")] = "",
        kind: Annotated[Storable, Query(max_length=LONGEST_KIND, description="Of defect, as people said.")] = "",
        version: Annotated[Storable, Query(max_length=128, description="Number of a model version.")] = "",
        run: Annotated[Storable, Query(max_length=128, description="Id of a Dagster run.")] = "",
        first: Annotated[Number, Query(description="Lowest prediction_id.")] = None,
        last: Annotated[Number, Query(description="Highest prediction_id.")] = None,
        since: Annotated[Moment, Query(alias="from", description="UTC where no zone is given.")] = None,
        until: Annotated[Moment, Query(alias="to", description="UTC where no zone is given.")] = None,
        uncertain: Annotated[bool, Query(description="Only scores near the threshold.")] = False,
        name: Annotated[Storable, Query(max_length=200, description="A text in the name of the file.")] = "",
        order: Annotated[Order, Query()] = "newest",
        view: Annotated[Literal["pictures", "table"], Query()] = "pictures",
        after: Annotated[Storable, Query(max_length=120, description="Where the page before ended.")] = "",
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = A_PAGE,
    ) -> HTMLResponse:
        """A page of results, as pictures or as a table; the address says all that was chosen."""
        label = f"{registered_model(line)}/{version}" if version.isdecimal() else version
        given = {key: value for key, value in request.query_params.items() if value}
        wanted = Wanted(
            "" if predicted == "refused" else predicted,
            *(told, kind, label, run, first, last, since, until, uncertain, name.strip(), order),
        )
        values: dict[str, Any] = {"rows": [], "said": {}, "count": 0, "refused": []}
        with refused_as_422():
            if predicted == "refused":
                before = int(after) if after.isdecimal() else None
                some = find_refused(
                    *(service.db, line), name=wanted.name, since=wanted.since, until=wanted.until, before=before,
                    limit=limit + 1,
                )  # fmt: skip
                goes_on = str(some[limit - 1].file_id) if len(some) > limit else ""
                values["refused"] = some[:limit]
            else:
                rows, goes_on = find_results(service.db, line, wanted, after=after, limit=limit)
                values["rows"] = rows
                if after or goes_on:
                    values["count"] = None if wanted.is_searched else count_results(service.db, line, wanted)
                else:
                    values["count"] = len(rows)
                values["said"] = words.said_about(line, [row.prediction_id for row in rows])
        return render(
            request,
            "gallery.html",
            line=line,
            version=version,
            given=defaultdict(str, given),
            predicted=predicted,
            view=view,
            most_counted=MOST_COUNTED,
            next_page=_address(given, after=goes_on) if goes_on else "",
            first_page=_address(given, after="") if after else "",
            other_view=_address(given, view="table" if view == "pictures" else ""),
            is_narrowed=bool(given.keys() - {"view", "order", "limit", "after"}),
            versions=versions_of(service.db, line),
            kinds=kinds_of(service.db, line),
            orders=get_args(Order),
            words=words.of_line(line),
            agreed=agreement(service.db, line, label or None),
            dagster_page=provenance.line_events_page(line),
            version_page=tracking.version_url(*label.rsplit("/", 1)) if "/" in label else "",
            run_page=dagster_url(f"runs/{run}") if run else "",
            **values,
        )

    @router.get("/results/{prediction_id}/thumbnail.jpg", response_class=Response)
    async def thumbnail(request: Request, line: str, prediction_id: PredictionId) -> Response:
        """A small picture of the image; of an NG one with the contour of what was found."""
        # Every open page asks for every picture: what is drawn is answered without the database and without a thread.
        drawn = thumbnails.drawn(known(line), prediction_id)
        if drawn is None:
            record = await run_in_threadpool(recorded, line, prediction_id)
            drawn = await thumbnails.of(record, request.is_disconnected)
        if drawn is None:
            text = text_of("gone_picture.html", language_of(request.headers, request.cookies))
            return Response(text, media_type="image/svg+xml", headers={"Cache-Control": NOT_FOR_LONG})
        return Response(drawn.data, media_type="image/jpeg", headers={"Cache-Control": drawn.kept})

    @router.get("/refused/{file_id}/copy", response_class=FileResponse)
    def copy(line: KnownLine, file_id: int) -> FileResponse:
        """The copy of a refused file, to be looked at elsewhere: browsers do not open it."""
        row = refused_file(service.db, line, file_id) if 0 <= file_id <= LARGEST_NUMBER else None
        folder = service.watched[line].line.quarantine.resolve()
        file = Path(row.quarantine_file).resolve() if row is not None and row.quarantine_file else None
        if file is None or not file.is_relative_to(folder) or not file.is_file():
            raise HTTPException(404, "There is no copy of this file any more.")
        return FileResponse(file, media_type="application/octet-stream", filename=file.name)

    return router


def _address(given: dict[str, str], **changed: str) -> str:
    """Return the query of this page with something changed; where a page went on is never kept but on purpose."""
    values = {key: value for key, value in (given | {"after": ""} | changed).items() if value}
    return "?" + urlencode(values)
