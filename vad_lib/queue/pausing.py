"""Pause a line: its images are registered and wait, and nobody leases them, until somebody resumes it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select

from vad_lib.errors import InputError
from vad_lib.inspection_db.audit import Actor, record_change
from vad_lib.inspection_db.database import InspectionDatabase, utc_now
from vad_lib.inspection_db.schema import paused_lines


@dataclass(frozen=True)
class Pause:
    """Who paused a line, why, and since when."""

    person: str
    reason: str
    since: datetime


def pause_line(db: InspectionDatabase, line: str, by: Actor, reason: str) -> None:
    """Let the images of a line wait. What a worker has in hand is finished.

    Raises:
        InputError: there is no reason.
    """
    if not (reason := reason.strip()):
        raise InputError("Say why the line is paused: others will ask.")
    with db.writing(line=line) as connection:
        if connection.execute(select(paused_lines).where(paused_lines.c.line == line)).first() is None:
            row = {"line": line, "person": by.person, "reason": reason, "since": utc_now()}
            connection.execute(paused_lines.insert().values(row))
            record_change(connection, by, "pause", line=line, subject=line, reason=reason)


def resume_line(db: InspectionDatabase, line: str, by: Actor, reason: str = "") -> None:
    """Let the images of a line be inspected again; a line that is not paused stays as it is."""
    with db.writing(line=line) as connection:
        if connection.execute(delete(paused_lines).where(paused_lines.c.line == line)).rowcount:
            record_change(connection, by, "resume", line=line, subject=line, reason=reason)


def pauses(db: InspectionDatabase) -> dict[str, Pause]:
    """Return the lines that are paused."""
    with db.reading() as connection:
        rows = connection.execute(select(paused_lines)).all()
    return {row.line: Pause(row.person, row.reason, row.since) for row in rows}
