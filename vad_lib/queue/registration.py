"""Register files that have arrived: from then on somebody inspects them, whatever dies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, delete, select, tuple_

from vad_lib.ingest import Arrival, FileSeen, FileVersion
from vad_lib.ingest.scan import NOT_AN_IMAGE
from vad_lib.inspection_db.database import MAX_PARAMETERS, InspectionDatabase, chunks, insert_many
from vad_lib.inspection_db.schema import PENDING, REFUSED, VANISHED, incoming_files
from vad_lib.queue.outbox import notify

MOST_LOOKED_UP = 2000
"""Versions up to which each is looked up by itself: one look at everything is quicker than very many at parts of it."""
KEY = (
    *(incoming_files.c.path, incoming_files.c.size, incoming_files.c.mtime_ns),
    *(incoming_files.c.inode, incoming_files.c.ctime_ns),
)


def known_versions(
    db: InspectionDatabase, line: str, versions: Sequence[FileVersion], *, decided: bool = False
) -> set[FileVersion]:
    """Return those of these versions of files that are registered, or, where ``decided`` is said, that are decided.

    A version that had vanished when it was to be read is not among them: the same file coming back is registered anew.
    A folder that its owner empties stays quick to look at, however much has arrived in it over the years.
    """
    chosen = select(*KEY).where(
        incoming_files.c.line == line, incoming_files.c.rule.is_(None) | (incoming_files.c.rule != VANISHED)
    )
    if decided:
        chosen = chosen.where(incoming_files.c.state != PENDING)
    parts = (
        [chosen]
        if len(versions) > MOST_LOOKED_UP
        else [chosen.where(tuple_(*KEY).in_(part)) for part in chunks(versions, MAX_PARAMETERS // len(KEY))]
    )
    with db.reading() as connection:
        return {FileVersion(*row) for part in parts for row in connection.execute(part)}


def register(
    db: InspectionDatabase, line: str, folder: Path, arrivals: Sequence[Arrival], refused: Sequence[FileSeen] = ()
) -> None:
    """Put complete files into the queue, and write down what is refused by name or kind, in one transaction.

    What is registered already stays as it is, so doing it again does nothing.

    Args:
        db: the inspection database.
        line: name of the line.
        folder: its watch folder, absolute.
        arrivals: complete images.
        refused: files with the rule and reason of their refusal.
    """
    if not arrivals and not refused:
        return
    # Whoever watches does not look at these files again. A power cut ends it too, but a server may crash without it.
    with db.writing(line=line, durable=db.is_postgresql) as connection:
        now = db.clock(connection)
        _forget_vanished(connection, line, [each.version.path for each in arrivals])
        common = {"line": line, "folder": str(folder), "deliveries": 0, "registered_at": now}
        insert_many(
            connection,
            db.insert_or_ignore(incoming_files),
            [
                {
                    **common,
                    **version._asdict(),
                    "state": PENDING,
                    "arrived_at": min(now, datetime.fromtimestamp(seconds, UTC)),
                }
                for version, seconds in arrivals
            ],
        )
        insert_many(
            connection,
            db.insert_or_ignore(incoming_files),
            [
                {
                    **common,
                    **seen.version._asdict(),
                    "state": REFUSED,
                    "arrived_at": now,
                    "decided_at": now,
                    "rule": seen.rule,
                    "reason": seen.reason,
                    # Others are refused for what they are: following them could lead out of the folder, or never end.
                    "quarantine_note": None if seen.rule == NOT_AN_IMAGE else f"not copied: {seen.reason}",
                }
                for seen in refused
            ],
        )
        for part in chunks([seen.version.path for seen in refused]):
            notify(db, connection, line, incoming_files.c.path.in_(part), now)


def _forget_vanished(connection: Connection, line: str, paths: Sequence[str]) -> None:
    """Remove the rows of versions that had vanished, where the file has come back."""
    for part in chunks(paths):
        connection.execute(
            delete(incoming_files).where(
                incoming_files.c.line == line, incoming_files.c.path.in_(part), incoming_files.c.rule == VANISHED
            )
        )
