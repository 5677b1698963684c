"""Rows that wait until a worker has had a reply for them: descriptions, and questions of people.

Both tables have ``line``, ``state``, ``leased_by``, ``leased_until``, ``attempts`` and ``error``. A worker leases a
row, asks, and finishes it. Where nobody has the row, ``leased_until`` is the end of a pause, and ``error`` says why it
waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, Table, and_, or_, select, update

from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.schema import FAILED, WAITING
from vad_lib.processes import is_dead
from vad_lib.words.answer import plain_text

LONGEST_REASON = 1000


def is_due(table: Table, now: datetime) -> ColumnElement[bool]:
    """That a row waits, nobody has it, and its pause is over."""
    columns = table.c
    paused = or_(columns.leased_until.is_(None), columns.leased_until <= now)
    return and_(columns.state == WAITING, columns.leased_by.is_(None), paused)


def lines_due(db: InspectionDatabase, table: Table) -> list[str]:
    """Return the lines on which a row is due, by name: it waits and nobody has it, or who had it is gone."""
    columns = table.c
    with db.reading() as connection:
        now = db.clock(connection)
        due = select(columns.line).where(is_due(table, now)).distinct()
        held = select(columns.line, columns.leased_by, columns.leased_until).where(columns.leased_by.is_not(None))
        lost = {row.line for row in connection.execute(held) if _is_lost(row, now)}
        return sorted({*connection.execute(due).scalars(), *lost})


def offer_again(
    connection: Connection,
    table: Table,
    line: str,
    now: datetime,
    most_attempts: int,
    when_failed: Mapping[str, Any] | None = None,
) -> None:
    """Offer what workers had that died or were not heard of in time.

    Args:
        connection: of a transaction that writes.
        table: of the rows.
        line: of the rows.
        now: the database's time.
        most_attempts: a row that so many workers began has failed.
        when_failed: further columns of such a row.
    """
    columns = table.c
    held = select(_number(table).label("number"), columns.leased_by, columns.leased_until, columns.attempts)
    for row in connection.execute(held.where(columns.line == line, columns.leased_by.is_not(None))).all():
        if not _is_lost(row, now):
            continue
        free: dict[str, Any] = {"leased_by": None, "leased_until": None}
        if row.attempts >= most_attempts:
            free |= {"state": FAILED, "error": f"{row.attempts} workers began it, and none came to an end."}
            free |= when_failed or {}
        connection.execute(update(table).where(_number(table) == row.number).values(free))


def lease(connection: Connection, table: Table, number: int, worker: str, until: datetime) -> Row[Any]:
    """Give a row to a worker and return it; nobody else takes it before ``until``."""
    taken = update(table).where(_number(table) == number)
    values = {"leased_by": worker, "leased_until": until, "attempts": table.c.attempts + 1}
    return connection.execute(taken.values(values).returning(table)).one()


def finish(
    connection: Connection,
    table: Table,
    number: int,
    worker: str,
    values: Mapping[str, Any],
    waits_until: datetime | None,
) -> bool:
    """Write what became of a leased row, and return whether it still was this worker's.

    Args:
        connection: of a transaction that writes.
        table: of the row.
        number: of the row.
        worker: who had it.
        values: by column, ``state`` among them.
        waits_until: of a row that waits again: until when nobody takes it.
    """
    columns = table.c
    mine = update(table).where(_number(table) == number, columns.leased_by == worker, columns.state == WAITING)
    done = connection.execute(mine.values(**values, leased_by=None, leased_until=waits_until))
    return done.rowcount == 1


def note(connection: Connection, table: Table, line: str, reason: str) -> None:
    """Say on all that waits why it does; only where that is new, so that looking often writes nothing."""
    columns = table.c
    connection.execute(
        update(table)
        .where(columns.line == line, columns.state == WAITING, columns.leased_by.is_(None))
        .where(or_(columns.error.is_(None), columns.error != reason))
        .values(error=reason)
    )


def note_why_waiting(db: InspectionDatabase, table: Table, line: str, reason: str) -> None:
    """As ``note``, in a transaction of its own."""
    with db.writing(line=line, durable=False) as connection:
        note(connection, table, line, plain_text(reason, LONGEST_REASON))


def _number(table: Table) -> Column[int]:
    (number,) = table.primary_key
    return number


def _is_lost(row: Any, now: datetime) -> bool:
    return row.leased_until <= now or is_dead(row.leased_by)
