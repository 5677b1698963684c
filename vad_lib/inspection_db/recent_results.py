"""What was decided on a line lately: how much, and what came since somebody looked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, column, desc, func, select, values
from sqlalchemy.types import String

from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.schema import predictions

_ROW = predictions.c


def first_since(connection: Connection, line: str, since: datetime) -> int:
    """Return a number such that predictions from it on were scored at or after a time, and those before it earlier.

    They are numbered in order of time on a line, so halving finds it without an index on the time.
    """
    low = 0
    newest = connection.execute(select(func.max(_ROW.prediction_id)).where(_ROW.line == line)).scalar()
    high = (newest or 0) + 1
    while low < high:
        middle = (low + high) // 2
        found = connection.execute(
            select(_ROW.prediction_id, _ROW.created_at)
            .where(_ROW.line == line, _ROW.prediction_id >= middle)
            .order_by(_ROW.prediction_id)
            .limit(1)
        ).one_or_none()
        if found is None or found.created_at >= since:
            high = middle
        else:
            low = found.prediction_id + 1
    return low


def newest_numbers(db: InspectionDatabase, lines: Sequence[str]) -> dict[str, int]:
    """Return the highest ``prediction_id`` of each line; 0 where it has none.

    One query that takes one step along an index for each line.
    """
    if not lines:
        return {}
    named = values(column("line", String)).data([(line,) for line in lines]).cte("named")
    newest = select(func.max(_ROW.prediction_id)).where(_ROW.line == named.c.line).scalar_subquery()
    with db.reading() as connection:
        return {line: number or 0 for line, number in connection.execute(select(named.c.line, newest))}


class News(NamedTuple):
    """What came on a line: some of it, oldest first, and how many came in all."""

    rows: list[Row[Any]]
    images: int


def news_of(db: InspectionDatabase, line: str, after: int, until: int, *, most: int) -> News:
    """Return predictions with ``after < prediction_id <= until``: NG ones first if not all can be shown."""
    mine = _ROW.line == line, _ROW.prediction_id > after, _ROW.prediction_id <= until
    chosen = select(predictions, func.count().over().label("together")).where(*mine)
    with db.reading() as connection:
        rows = list(connection.execute(chosen.order_by(_ROW.predicted, desc(_ROW.prediction_id)).limit(most)).all())
    return News(sorted(rows, key=lambda row: row.prediction_id), rows[0].together if rows else 0)


class Decided(NamedTuple):
    """How many images were decided OK and NG within a stretch, and the numbers between which it lies."""

    ok: int = 0
    ng: int = 0
    first: int = 0
    last: int = 0


def decided_since(db: InspectionDatabase, line: str, since: datetime, before: Decided | None = None) -> Decided:
    """Return how many images of a line were decided since a time.

    Args:
        db: the inspection database.
        line: its name.
        since: aware.
        before: what was returned for an earlier time: only what came and what went is counted then.
    """
    with db.reading() as connection:
        first = first_since(connection, line, since)
        last = connection.execute(select(func.max(_ROW.prediction_id)).where(_ROW.line == line)).scalar() or 0
        if before is None or not before.first <= first <= before.last + 1:
            return Decided(*_decided(connection, line, first, last), first, last)
        came = _decided(connection, line, before.last + 1, last)
        went = _decided(connection, line, before.first, first - 1)
    return Decided(before.ok + came[0] - went[0], before.ng + came[1] - went[1], first, last)


def _decided(connection: Connection, line: str, first: int, last: int) -> tuple[int, int]:
    """Return how many predictions from one number to another, both included, are OK and NG."""
    counted = [
        select(func.count()).where(
            *(_ROW.line == line, _ROW.predicted == predicted),
            *(_ROW.prediction_id >= first, _ROW.prediction_id <= last),
        )
        for predicted in ("OK", "NG")
    ]
    ok, ng = (connection.execute(each).scalar_one() for each in counted)
    return int(ok), int(ng)
