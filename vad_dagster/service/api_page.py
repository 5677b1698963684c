"""The page that describes the web interface for programs, with a Swagger UI that comes from this machine."""

# No `from __future__ import annotations`: FastAPI reads the annotations of handlers.

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

SCRIPT, STYLE = "swagger-ui-bundle.js", "swagger-ui.css"
TYPES = {SCRIPT: "text/javascript", STYLE: "text/css"}


def api_page(title: str) -> APIRouter:
    """Return the routes of ``/docs``, for an application that describes itself at ``/openapi.json``."""
    router = APIRouter(include_in_schema=False)
    # looked for and not imported: the package is one for other web frameworks
    spec = find_spec("swagger_ui")
    folder = Path(next(iter(spec.submodule_search_locations or ()), "") if spec else "") / "static"

    @router.get("/docs", response_class=HTMLResponse)
    def page() -> HTMLResponse:
        # addresses without a first slash are right behind a proxy that puts a path before them, too
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=title,
            swagger_js_url=f"docs/{SCRIPT}",
            swagger_css_url=f"docs/{STYLE}",
            swagger_favicon_url="data:,",
            # else Swagger UI has the description judged by a server in the internet
            swagger_ui_parameters={"validatorUrl": None},
        )

    @router.get("/docs/{name}", response_class=FileResponse)
    def asset(name: Literal["swagger-ui-bundle.js", "swagger-ui.css"]) -> FileResponse:
        return FileResponse(folder / name, media_type=TYPES[name])

    return router
