"""What all pages of the inference service share: their templates, and what stands in their addresses."""

# No `from __future__ import annotations`: FastAPI reads the annotations of handlers.

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import jinja2
from fastapi import Depends, HTTPException
from fastapi import Path as InPath
from pydantic import AfterValidator
from sqlalchemy import Row

from vad_lib.errors import InputError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.lineage import prediction_by_id

LARGEST_NUMBER = 2**63 - 1
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
)
"""Every text in them is escaped."""


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
