"""Keep copies of refused files where they can be looked at. Never a reason for anything else to fail.

A copy is made of the bytes that were read. A link would become the next picture as soon as that is written in place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import literal_column, select, update

from vad_lib.atomic_files import write_whole
from vad_lib.errors import UnreadableImageError, UnsafePathError
from vad_lib.images.paths import read_with_facts
from vad_lib.ingest import FileVersion
from vad_lib.ingest.scan import NOT_AN_IMAGE
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.schema import incoming_files
from vad_lib.lines import Line

MAX_BYTES = 256 * 2**20
AT_ONCE = 50


class Kept(NamedTuple):
    """Where the copy is, or why there is none."""

    file: str | None = None
    note: str | None = None


def keep(line: Line, file_id: int, path: str, data: bytes | None) -> Kept:
    """Write a copy of a refused file into ``line.quarantine``. Doing it again replaces the copy."""
    if data is None:
        return Kept(note="not copied: it could not be read")
    if len(data) > MAX_BYTES:
        return Kept(note=f"not copied: {len(data)} bytes are too many")
    target = line.quarantine / _safe_name(file_id, path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, data, durable=False)
    except OSError as error:
        return Kept(note=f"not copied: {error.strerror or error}")
    return Kept(file=str(target))


def read_for_keeping(folder: Path, version: FileVersion) -> bytes | None:
    """Return the bytes of a file; None where it cannot be read, or is another version by now."""
    try:
        data, facts = read_with_facts(folder / version.path, MAX_BYTES, inside=folder)
    except (UnreadableImageError, UnsafePathError):
        return None
    return data if FileVersion.of(version.path, facts) == version else None


def keep_files_refused_by_name(db: InspectionDatabase, line: Line) -> None:
    """Copy files that no worker ever read, some at a time: those that are no images by their names."""
    files = incoming_files.c
    chosen = (
        select(incoming_files)
        .where(files.line == line.name, files.rule == literal_column(f"'{NOT_AN_IMAGE}'"))
        .where(files.quarantine_file.is_(None), files.quarantine_note.is_(None))
        .limit(AT_ONCE)
    )
    with db.reading() as connection:
        rows = connection.execute(chosen).all()
    for row in rows:
        version = FileVersion.of_row(row)
        kept = keep(line, row.file_id, row.path, read_for_keeping(Path(row.folder), version))
        with db.writing(durable=False) as connection:
            this = update(incoming_files).where(files.file_id == row.file_id)
            connection.execute(this.values(quarantine_file=kept.file, quarantine_note=kept.note))


def _safe_name(file_id: int, path: str) -> str:
    """A name of at most 200 bytes, unique by the number, with the end of the original."""
    name = re.sub(r"[\x00-\x1f/\\]", "_", path.rpartition("/")[2])
    return f"{file_id:06d}_{name.encode()[-190:].decode(errors='ignore')}"
