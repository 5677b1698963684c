"""The outbox: results that are to be sent on, and what became of each attempt.

What is to be sent is written in one transaction with the decision, so a result is sent at least once whatever dies; the
receiver knows a repetition by its id. Each decided file has one notification a sink, whoever decided it, with its
result or the reason why it has none. How they are sent is ``vad_lib.serving.sinks``.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, delete, exists, func, literal, select, tuple_, update

from vad_lib.inspection_db.database import InspectionDatabase, chunks, insert_many
from vad_lib.inspection_db.schema import (
    PENDING,
    REFUSED,
    UtcDateTime,
    incoming_files,
    is_not_superseded,
    notifications,
    predictions,
    sinks,
)
from vad_lib.processes import is_dead

WAITING, SENT, GIVEN_UP = "waiting", "sent", "given_up"
AT_ONCE = 200
SINK_LEASE_SECONDS = 60.0
FIRST_DELAY, LONGEST_DELAY = 1.0, 300.0
GIVE_UP_AFTER = timedelta(hours=24)
KEEP_SENT = timedelta(days=7)


class Attempt(NamedTuple):
    """What became of one attempt. ``only_this``: another notification may do better."""

    state: Literal["sent", "failed"]
    error: str = ""
    only_this: bool = False


def open_sinks(db: InspectionDatabase, wanted: Mapping[str, Collection[str]]) -> None:
    """Say where the results of each line go from now on: line -> names of its sinks."""
    pairs = {(line, sink) for line, names in wanted.items() for sink in names}
    with db.reading() as connection:
        present = {(row.line, row.sink) for row in connection.execute(select(sinks))}
    if present == pairs:
        return
    with db.writing() as connection:
        for line, sink in present - pairs:
            connection.execute(delete(sinks).where(sinks.c.line == line, sinks.c.sink == sink))
        rows = [{"line": line, "sink": sink} for line, sink in sorted(pairs - present)]
        insert_many(connection, db.insert_or_ignore(sinks), rows)


def notify(
    db: InspectionDatabase, connection: Connection, line: str, chosen: ColumnElement[bool], now: datetime
) -> None:
    """Put the decided files among ``chosen`` into the outbox, for each sink of the line, inside a transaction.

    Of a version of a file that is no more nothing can be said; the version that took its place has its own.
    """
    moment = literal(now, UtcDateTime())
    decided = (
        select(
            *(incoming_files.c.file_id, sinks.c.sink, incoming_files.c.line),
            *(literal(WAITING), literal(0), moment, moment),
        )
        .join(sinks, sinks.c.line == incoming_files.c.line)
        .where(
            *(incoming_files.c.line == line, chosen, incoming_files.c.state != PENDING),
            is_not_superseded(incoming_files.c.rule),
        )
    )
    columns = ["file_id", "sink", "line", "state", "attempts", "created_at", "next_try_at"]
    connection.execute(db.insert_or_ignore(notifications).from_select(columns, decided))


@dataclass(frozen=True)
class Notification:
    """One result to send on."""

    file_id: int
    sink: str
    line: str
    attempts: int
    created_at: datetime
    file: Path
    content: dict[str, Any]
    superseded: bool = False
    """A newer version of the same file has a notification of this sink."""

    @property
    def id(self) -> str:
        """The same in each attempt."""
        return f"{self.line}-{self.file_id}"


def lease_sinks(db: InspectionDatabase, pairs: Collection[tuple[str, str]], worker: str) -> set[tuple[str, str]]:
    """Take those of some pairs of line and sink that have something due and no other service; return them.

    One service sends what is due for a pair, in order, until its lease runs out or it dies.
    """
    due = (
        select(notifications.c.line, notifications.c.sink)
        .where(notifications.c.state == WAITING, tuple_(notifications.c.line, notifications.c.sink).in_(sorted(pairs)))
        .distinct()
    )
    held = tuple_(sinks.c.line, sinks.c.sink)
    with db.reading() as connection:
        now = db.clock(connection)
        wanted = sorted(map(tuple, connection.execute(due.where(notifications.c.next_try_at <= now))) if pairs else [])
        rows = connection.execute(select(sinks).where(held.in_(wanted))).all() if wanted else []
    soon = now + timedelta(seconds=SINK_LEASE_SECONDS / 2)
    mine = {(row.line, row.sink) for row in rows if row.leased_by == worker and row.leased_until > soon}
    free = [row for row in rows if (row.line, row.sink) not in mine and _is_free(row, worker, now)]
    if free:
        with db.writing(durable=False) as connection:
            for row in free:
                # As it was when it was looked at: another service may have been quicker.
                same = sinks.c.leased_by.is_(None) if row.leased_by is None else sinks.c.leased_by == row.leased_by
                this = update(sinks).where(sinks.c.line == row.line, sinks.c.sink == row.sink, same)
                until = now + timedelta(seconds=SINK_LEASE_SECONDS)
                if connection.execute(this.values(leased_by=worker, leased_until=until)).rowcount:
                    mine.add((row.line, row.sink))
    return mine


def _is_free(row: Row[Any], worker: str, now: datetime) -> bool:
    return row.leased_by in (None, worker) or row.leased_until <= now or is_dead(row.leased_by)


def release_sinks(db: InspectionDatabase, worker: str) -> None:
    """Let others send what this service sent."""
    with db.writing(durable=False) as connection:
        connection.execute(update(sinks).where(sinks.c.leased_by == worker).values(leased_by=None, leased_until=None))


def due_notifications(db: InspectionDatabase, pairs: Collection[tuple[str, str]]) -> list[Notification]:
    """Return notifications of these pairs of line and sink whose time has come, oldest first."""
    if not pairs:
        return []
    newer, newer_sent = incoming_files.alias(), notifications.alias()
    superseded = exists().where(
        newer.c.line == incoming_files.c.line,
        newer.c.path == incoming_files.c.path,
        newer.c.file_id > incoming_files.c.file_id,
        newer_sent.c.file_id == newer.c.file_id,
        newer_sent.c.sink == notifications.c.sink,
    )
    files, due = incoming_files.c, notifications.c
    statement = (
        select(
            *(due.file_id, due.sink, due.line, due.attempts, due.created_at),
            *(files.path, files.sha256, files.rule, files.reason, files.duplicate_of, files.decided_at, files.folder),
            *(files.state.label("file_state"), superseded.label("superseded")),
        )
        .join(incoming_files, files.file_id == due.file_id)
        .where(due.state == WAITING, tuple_(due.line, due.sink).in_(sorted(pairs)))
        .order_by(due.file_id)
        .limit(AT_ONCE)
    )
    with db.reading() as connection:
        rows = connection.execute(statement.where(due.next_try_at <= db.clock(connection))).all()
        known = _predictions_of(connection, [(row.line, row.sha256) for row in rows if row.sha256])
    return [
        Notification(
            file_id=row.file_id,
            sink=row.sink,
            line=row.line,
            attempts=row.attempts,
            created_at=row.created_at,
            file=Path(row.folder) / row.path,
            content=_content(row, known.get((row.line, row.sha256))),
            superseded=bool(row.superseded),
        )
        for row in rows
    ]


def _predictions_of(connection: Connection, contents: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Row[Any]]:
    found: dict[tuple[str, str], Row[Any]] = {}
    for part in chunks(sorted({sha for _, sha in contents})):
        rows = connection.execute(
            select(predictions).where(predictions.c.sha256.in_(part)).order_by(predictions.c.prediction_id)
        )
        found.update(((row.line, row.sha256), row) for row in rows)
    return found


def _content(row: Any, known: Row[Any] | None) -> dict[str, Any]:
    content: dict[str, Any] = {
        "id": f"{row.line}-{row.file_id}",
        "line": row.line,
        "image_path": row.path,
        "sha256": row.sha256,
        "state": row.file_state,
        "rule": row.rule,
        "reason": row.reason,
        "duplicate_of": row.duplicate_of,
        "decided_at": row.decided_at.isoformat() if row.decided_at else None,
    }
    # A duplicate has no decision of its own: whoever counts decisions counts the part once.
    known = None if row.file_state == REFUSED else known
    for name in (
        *("predicted", "p", "certainty", "raw_score", "inference_threshold"),
        *("threshold", "threshold_version", "model_version", "source", "prediction_id"),
    ):
        content[name] = getattr(known, name) if known is not None else None
    return content


def record_attempts(db: InspectionDatabase, attempts: Sequence[tuple[Notification, Attempt]]) -> None:
    """Write down what became of attempts: sent, to be tried again later, or given up."""
    rows = notifications.c
    with db.writing() as connection:
        now = db.clock(connection)
        for notification, attempt in attempts:
            values: dict[str, Any] = {"attempts": notification.attempts + 1, "error": attempt.error[:500] or None}
            if attempt.state == "sent":
                values |= {"state": SENT, "sent_at": now}
            elif now - notification.created_at > GIVE_UP_AFTER:
                values |= {"state": GIVEN_UP}
            else:
                values |= {"next_try_at": now + timedelta(seconds=delay_before(notification.attempts + 1))}
            this = (rows.file_id == notification.file_id, rows.sink == notification.sink, rows.state == WAITING)
            connection.execute(update(notifications).where(*this).values(**values))
        connection.execute(delete(notifications).where(rows.state == SENT, rows.sent_at < now - KEEP_SENT))


def delay_before(attempt: int) -> float:
    """Return seconds to wait before an attempt (1 is the second one): doubling, and spread so that no herd forms."""
    longest = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempt - 1, 20))
    return longest * (0.5 + random.random() / 2)


def notification_counts(db: InspectionDatabase) -> dict[str, int]:
    """Return how many notifications wait and were given up."""
    counts = {WAITING: 0, GIVEN_UP: 0}
    with db.reading() as connection:
        rows = connection.execute(
            select(notifications.c.state, func.count()).where(notifications.c.state != SENT).group_by("state")
        )
        counts.update((state, count) for state, count in rows)
    return counts
