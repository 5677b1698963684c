"""What the fast lane has done, for those who were not there: views of the database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from sqlalchemy import case, func, select, update

from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.schema import PENDING, landings, predictions
from vad_lib.scorer.tables import landing_times

FAST = "fast"
PROMISE_SECONDS = 3.0


@dataclass(frozen=True)
class ScoredImages:
    """Predictions of one line and model version by the fast lane, within a stretch of ``prediction_id``."""

    line: str
    model_version: str
    images: int
    ok: int
    ng: int
    first_id: int
    last_id: int
    first_at: datetime
    last_at: datetime

    @property
    def images_per_second(self) -> float:
        """Over the time from the first to the last; 0 for a single moment."""
        seconds = (self.last_at - self.first_at).total_seconds()
        return (self.images - 1) / seconds if seconds > 0 else 0.0


def scored_since(db: InspectionDatabase, after: int, *, limit: int = 20_000) -> tuple[list[ScoredImages], int]:
    """Return what the fast lane scored after a ``prediction_id``, and the id to go on from."""
    last = after + limit
    columns = predictions.c
    with db.reading() as connection:
        newest = select(func.max(columns.prediction_id)).where(columns.prediction_id > after)
        newest = newest.where(columns.prediction_id <= last)
        until = connection.execute(newest).scalar_one()
        if until is None:
            return [], after
        rows = connection.execute(
            select(
                *(columns.line, columns.model_version, func.count()),
                func.sum(case((columns.predicted == "OK", 1), else_=0)),
                func.sum(case((columns.predicted == "NG", 1), else_=0)),
                *(func.min(columns.prediction_id), func.max(columns.prediction_id)),
                *(func.min(columns.created_at), func.max(columns.created_at)),
            )
            .where(columns.prediction_id > after, columns.prediction_id <= until, columns.lane == FAST)
            .group_by(columns.line, columns.model_version)
            .order_by(columns.line, func.max(columns.prediction_id))
        ).all()
    return [ScoredImages(*row) for row in rows], int(until)


@dataclass(frozen=True)
class Promise:
    """How long images waited for their results, in seconds, those that wait still included with their age.

    Attributes:
        images: taken up by the fast lane and decided within the window, or waiting.
        waiting: how many of them wait still.
        p50, p95, worst: None without images.
        limit: what p95 must not exceed.
    """

    images: int
    waiting: int
    p50: float | None
    p95: float | None
    worst: float | None
    oldest_waiting: float
    limit: float

    @property
    def kept(self) -> bool:
        """True without images: nothing was promised about them."""
        return self.p95 is None or self.p95 <= self.limit

    def __str__(self) -> str:
        if self.p95 is None:
            return "The fast lane has taken up no image in this time."
        verb = "had its result" if self.kept else "waited for longer than promised: it had its result"
        return (
            f"Of {self.images} images, 95 of 100 {verb} within {self.p95:.2f} s of landing "
            f"(promised: {self.limit:g} s); {self.waiting} wait still."
        )


def promise(
    db: InspectionDatabase,
    line: str,
    *,
    window: timedelta = timedelta(hours=1),
    limit: float = PROMISE_SECONDS,
    now: float | None = None,
) -> Promise:
    """Return how well the fast lane kept its promise to a line."""
    moment = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    settle_times(db, line)
    with db.reading() as connection:
        decided = connection.execute(
            select(landing_times.c.landed_at, landing_times.c.decided_at).where(
                landing_times.c.line == line, landing_times.c.decided_at >= moment - window
            )
        ).all()
        waiting = connection.execute(
            select(landing_times.c.landed_at).where(landing_times.c.line == line, landing_times.c.decided_at.is_(None))
        ).all()
    ages = [(moment - row.landed_at).total_seconds() for row in waiting]
    waits = [(row.decided_at - row.landed_at).total_seconds() for row in decided] + ages
    p50, p95, worst = _quantiles(waits)
    return Promise(len(waits), len(ages), p50, p95, worst, max([0.0, *ages]), limit)


def promises(db: InspectionDatabase) -> dict[str, Promise]:
    """Return how well the fast lane kept its promise to each line that it has taken up images of."""
    with db.reading() as connection:
        names = connection.execute(select(landing_times.c.line).distinct()).scalars().all()
    return {name: promise(db, name) for name in sorted(names)}


def _quantiles(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    if not values:
        return None, None, None
    p50, p95 = np.quantile(np.maximum(values, 0.0), [0.5, 0.95], method="higher")
    return float(p50), float(p95), float(max(values))


def settle_times(db: InspectionDatabase, line: str) -> None:
    """Note when landings were decided that the bulk lane took over."""
    decided = (
        select(landing_times.c.seq)
        .join(landings, landings.c.seq == landing_times.c.seq)
        .where(landing_times.c.line == line, landing_times.c.decided_at.is_(None), landings.c.state != PENDING)
        .limit(1)
    )
    with db.reading() as connection:
        if connection.execute(decided).first() is None:
            return
    with db.writing() as connection:
        connection.execute(
            update(landing_times)
            .where(landing_times.c.line == line, landing_times.c.decided_at.is_(None))
            .values(
                decided_at=select(landings.c.decided_at).where(landings.c.seq == landing_times.c.seq).scalar_subquery()
            )
        )
