"""The web interface of the inference service.

Open to this machine only, unless a token is set: then every request but ``/health`` and ``/ready`` has to bring one.
What a person may do is in ``people.py``.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of handlers.

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles

from vad_dagster.service.api_page import api_page
from vad_dagster.service.connections import BODY_SECONDS, RequestBounds
from vad_dagster.service.describer import Describer, endpoint_of_settings
from vad_dagster.service.gallery_pages import gallery_pages
from vad_dagster.service.gauges import ServiceGauges
from vad_dagster.service.heatmap_drawer import Drawer, NoHeatmapError, PictureGoneError
from vad_dagster.service.line_states import LineOut, LineStates, served_lines
from vad_dagster.service.live_pages import live_pages
from vad_dagster.service.live_updates import LiveUpdates
from vad_dagster.service.page_parts import LARGEST_NUMBER, STATIC, Storable
from vad_dagster.service.people import Tokens, check_role
from vad_dagster.service.performance_pages import performance_pages
from vad_dagster.service.result_pages import MEDIA_TYPES, result_pages
from vad_dagster.service.review_pages import kinds_of_lines, review_pages
from vad_dagster.service.threshold_pages import threshold_pages
from vad_dagster.service.thumbnails import Thumbnails
from vad_dagster.service.uploads import NotAnImageError, WatchFolderError, newest_prediction, take_upload
from vad_dagster.service.version_pages import version_pages
from vad_dagster.service.word_pages import WordPages
from vad_dagster.web_gate import Application, Receive, Scope, Send, WebGate
from vad_lib.errors import DatabaseGoneError
from vad_lib.images.paths import FORMATS_TEXT
from vad_lib.serving import InferenceService
from vad_lib.settings import settings as app_settings

TITLE = "Visual anomaly detection: inference service"
UPLOADS_AT_ONCE = 4
"""Of the largest size; many more of the usual one."""
OPEN_PATHS = ("/health", "/ready")
"""Told without the token, but for the reasons."""
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; img-src 'self' data:"
SAFE_HEADERS = [
    (b"content-security-policy", f"{POLICY}; frame-ancestors 'none'".encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
]

logger = logging.getLogger("vad.service.web")

Digest = Annotated[Storable, InPath(max_length=64, description="Of the file's bytes.")]


@dataclass(frozen=True)
class WebSettings:
    """Who may ask, and how much at once.

    Attributes:
        tokens: of which a request has to bring one as ``Authorization: Bearer …``; none set: this machine only.
        max_upload_bytes: larger images are refused before they are read.
        max_waiting_seconds: the longest that a request may wait for its result.
        body_seconds: the longest that the body of a request may take to arrive.
    """

    tokens: Tokens = field(default_factory=Tokens)
    max_upload_bytes: int = 64 * 2**20
    max_waiting_seconds: float = 60.0
    body_seconds: float = BODY_SECONDS


class PredictionOut(BaseModel):
    """A prediction as it is recorded."""

    model_config = ConfigDict(protected_namespaces=())

    prediction_id: int
    line: str
    sha256: str = Field(description="Of the file's bytes.")
    path: str = Field(description="The file that was scored.")
    predicted: Literal["OK", "NG"]
    p: float = Field(description="Calibrated score; 0.5 exactly at the trained threshold.")
    certainty: float
    raw_score: float
    threshold: float = Field(description="On the raw score.")
    threshold_version: str
    inference_threshold: float = Field(description="On p; NG at or above it.")
    model_version: str
    source: str
    run_id: str | None
    created_at: datetime

    @classmethod
    def of(cls, row: Row[Any]) -> "PredictionOut":
        return cls.model_validate(dict(row._mapping))


def create_app(service: InferenceService, settings: WebSettings | None = None) -> FastAPI:
    """Return the web application around an inference service, which lives as long as it."""
    rules = settings or WebSettings()
    drawer, uploads = Drawer(service), UploadBudget(rules.max_upload_bytes)
    describer = Describer(service, drawer, endpoint_of_settings())

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(service.start)
        describer.start()
        try:
            yield
        finally:
            describer.stop()
            await run_in_threadpool(service.stop)

    app = FastAPI(
        title=TITLE,
        description="Scores images the moment they arrive, and answers about them.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(check_role)],
    )
    app.state.tokens, app.state.open_paths = rules.tokens, OPEN_PATHS
    app.add_middleware(
        RequestBounds,
        most_bytes=rules.max_upload_bytes,
        body_seconds=rules.body_seconds,
        always_answered=OPEN_PATHS,
    )
    app.add_middleware(SafeHeaders)
    hosts = app_settings().allowed_hosts.split(",")
    tokens = rules.tokens.given()
    app.add_middleware(WebGate, hosts=hosts, tokens=tokens, token_name="VAD_TOKEN", open_paths=OPEN_PATHS)
    gate = WebGate(app, tokens=tokens)

    @app.exception_handler(RequestValidationError)
    async def refused(_: Request, error: RequestValidationError) -> JSONResponse:
        # without what was sent, which JSON may not be able to say
        told = [{name: fault[name] for name in ("loc", "msg", "type")} for fault in error.errors()]
        return JSONResponse({"detail": told}, 422)

    async def no_database(_: Request, error: Exception) -> JSONResponse:
        logger.warning("the inspection database cannot be used: %s", error)
        told = "The inspection database cannot be used now. /ready and the log of the service say why."
        return JSONResponse({"detail": told}, 503, {"Retry-After": "5"})

    for kind in (DBAPIError, DatabaseGoneError):
        app.add_exception_handler(kind, no_database)

    async def no_picture(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 410 if isinstance(error, PictureGoneError) else 404)

    app.add_exception_handler(PictureGoneError, no_picture)
    app.add_exception_handler(NoHeatmapError, no_picture)

    def known(line: str) -> str:
        if line not in service.watched:
            raise HTTPException(
                404, f"There is no line {line!r}. There are: {', '.join(sorted(service.watched)) or 'none'}."
            )
        return line

    KnownLine = Annotated[str, Depends(known)]
    service.metrics.collect_from(ServiceGauges(service))

    # Neither of these waits for anything, and neither waits for a thread while requests that do wait have all of them.
    @app.get("/health", tags=["operation"], summary="Does the process work?")
    async def health() -> JSONResponse:
        alive = service.alive()
        return JSONResponse({"alive": alive}, 200 if alive else 503)

    @app.get("/ready", tags=["operation"], summary="Can every line with a champion be served?")
    async def ready(request: Request) -> JSONResponse:
        reasons = service.not_ready()
        told = reasons if gate.is_let_in(request.headers.get("authorization", "")) else dict.fromkeys(reasons, "")
        return JSONResponse({"ready": not reasons, "reasons": told}, 503 if reasons else 200)

    @app.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
    def metrics() -> PlainTextResponse:
        """Counts, times and queues, in the text format of Prometheus."""
        return PlainTextResponse(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/lines", tags=["lines"])
    def lines() -> list[LineOut]:
        """How each line is served."""
        return served_lines(service)

    @app.post(
        "/lines/{line}/images",
        tags=["images"],
        summary="Score an image",
        response_model=PredictionOut,
        responses={
            202: {"description": "It is in the queue; its result comes later at the address in Location."},
            403: {"description": "A page of another site sent it."},
            413: {"description": "Too large."},
            415: {"description": f"No {FORMATS_TEXT} file."},
            422: {"description": "The image was refused; the reason is in the answer."},
            503: {"description": "The line has no model yet, or its watch folder cannot be written to."},
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()},
            }
        },
    )
    async def score_image(
        request: Request,
        line: KnownLine,
        seconds: Annotated[float, Query(ge=0, description="How long to wait for the result.")] = 10.0,
    ) -> Response:
        """The bytes of an image file are the body. The image arrives like any other, so its result is recorded."""
        if not service.watched[line].model_version:
            raise HTTPException(503, f"The line {line!r} has no champion yet: train it first.")
        try:
            async with uploads.body_of(request) as data:
                answer = await take_upload(service, line, data, min(seconds, rules.max_waiting_seconds))
        except NotAnImageError as error:
            raise HTTPException(415, str(error)) from error
        except WatchFolderError as error:
            raise HTTPException(503, str(error)) from error
        location = {"Location": f"/lines/{line}/predictions/{answer.sha256}"}
        if answer.prediction is not None:
            out = PredictionOut.of(answer.prediction)
            return Response(out.model_dump_json(), 200, location, "application/json")
        if answer.state == "refused":
            raise HTTPException(422, answer.reason)
        return JSONResponse({"state": "waiting", "sha256": answer.sha256}, 202, location)

    @app.get("/lines/{line}/predictions", tags=["images"])
    def predictions(
        line: KnownLine,
        after: Annotated[int, Query(ge=0, le=LARGEST_NUMBER, description="prediction_id of the last seen.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[PredictionOut]:
        """Predictions in the order of being recorded."""
        table = service.db.predictions(line, after_id=after, limit=limit)
        return [PredictionOut.model_validate({str(k): v for k, v in row.items()}) for row in table.to_dict("records")]

    @app.get("/lines/{line}/predictions/{sha256}", tags=["images"])
    def prediction(line: KnownLine, sha256: Digest) -> PredictionOut:
        """The newest prediction of an image, by the sha256 of its file."""
        return PredictionOut.of(_recorded(service, line, sha256))

    @app.get(
        "/lines/{line}/heatmaps/{sha256}.png",
        tags=["images"],
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}},
    )
    def heatmap(line: KnownLine, sha256: Digest) -> Response:
        """The image beside its heatmap, drawn anew by the version that scored it."""
        record = _recorded(service, line, sha256)
        return Response(drawer.draw(record), media_type="image/png")

    words, states = WordPages(service.db, describer), LineStates(service)
    updates = LiveUpdates(service.db, lambda: sorted(service.watched), states)
    app.include_router(live_pages(service, known, states, updates))
    app.include_router(gallery_pages(service, known, Thumbnails(service, drawer), words))
    kinds_of = kinds_of_lines(service.db, lambda line: describer.facts(line).kinds)
    app.include_router(result_pages(service, known, drawer, words, kinds_of))
    app.include_router(words.routes(known))
    app.include_router(review_pages(service.db, known, kinds_of))
    app.include_router(performance_pages(service.db, known))
    app.include_router(version_pages(service.db, known))
    app.include_router(threshold_pages(service.db, known))
    app.include_router(api_page(TITLE))
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


class SafeHeaders:
    """Says to browsers that a page loads nothing from elsewhere and stands in no other site's frame."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *SAFE_HEADERS]
            await send(message)

        await self._application(scope, receive, send_with_headers)


class UploadBudget:
    """Bounds what all uploads together hold in memory."""

    def __init__(self, most: int) -> None:
        self._left = UPLOADS_AT_ONCE * most

    @asynccontextmanager
    async def body_of(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body of a request, and give its room back afterwards.

        Raises:
            HTTPException: 503 where too many are under way; or see ``RequestBounds``.
        """
        data = bytearray()
        try:
            async for piece in request.stream():
                data += piece
                self._left -= len(piece)
                if self._left < 0:
                    raise HTTPException(503, "Too many images are being sent at once: try again.", {"Retry-After": "1"})
            yield bytes(data)
        finally:
            self._left += len(data)


def _recorded(service: InferenceService, line: str, sha256: str) -> Row[Any]:
    found = newest_prediction(service.db, line, sha256)
    if found is None:
        raise HTTPException(404, f"The line {line!r} has no prediction of an image with the sha256 {sha256!r}.")
    return found
