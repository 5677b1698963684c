"""What all pages of the inference service share: how they are made, and what stands in their addresses."""

# No `from __future__ import annotations`: FastAPI reads the annotations of handlers.

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import jinja2
from fastapi import Depends, HTTPException, Request
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse
from pydantic import AfterValidator
from sqlalchemy import Row

from vad_dagster.service.languages import language_of, languages, translations
from vad_lib.errors import InputError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.lineage import prediction_by_id

LARGEST_NUMBER = 2**63 - 1
TEMPLATES, STATIC = Path(__file__).with_name("templates"), Path(__file__).with_name("static")


def render(request: Request, template: str, **values: Any) -> HTMLResponse:
    """Return a page, or a part of one, in the language that the browser asks for. Every text in it is escaped.

    Args:
        request: who asks. The template sees the person as ``visitor``.
        template: name of a file in ``templates``.
        values: what it shows.
    """
    language = language_of(request.headers, request.cookies)
    values |= {"visitor": request.state.visitor, "languages": languages()}
    return HTMLResponse(text_of(template, language, **values))


def text_of(template: str, language: str, **values: Any) -> str:
    """Return the text of a page, or of a part of one, in a language, for whoever asks. Every text in it is escaped."""
    return _templates(language).get_template(template).render(values | {"language": language, "static": static})


@lru_cache(maxsize=32)
def _templates(language: str) -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
    )
    made.filters["moment"] = moment
    made.install_gettext_translations(translations(language), newstyle=False)  # type: ignore[attr-defined]
    made.policies["ext.i18n.trimmed"] = True
    return made


def moment(time: datetime) -> str:
    """Say a time in UTC to the minute."""
    return time.strftime("%Y-%m-%d %H:%M")


@lru_cache(maxsize=64)
def static(name: str) -> str:
    """Return the address of a file in ``static``; another content has another one, so browsers may keep it."""
    return f"/static/{name}?{sha256((STATIC / name).read_bytes()).hexdigest()[:12]}"


def _storable(text: str) -> str:
    """Return a text that every database can be asked about: PostgreSQL takes no NUL."""
    if "\0" in text:
        raise ValueError("A text cannot hold the character NUL.")
    return text


Storable = Annotated[str, AfterValidator(_storable)]


def recorded_by(db: InspectionDatabase, known: Callable[[str], str]) -> Callable[..., Row[Any]]:
    """Return what finds the prediction that an address names, or answers that there is none.

    Args:
        db: the inspection database.
        known: returns a line's name, or raises the right answer for one that is not watched.
    """

    def recorded(
        line: Annotated[str, Depends(known)], prediction_id: Annotated[int, InPath(ge=0, le=LARGEST_NUMBER)]
    ) -> Row[Any]:
        found = prediction_by_id(db, line, prediction_id)
        if found is None:
            raise HTTPException(404, f"The line {line!r} has no prediction {prediction_id}.")
        return found

    return recorded


@contextmanager
def refused_as_422() -> Iterator[None]:
    """Answer what is wrong with a request, where the block refuses it."""
    try:
        yield
    except InputError as error:
        raise HTTPException(422, str(error)) from error
