"""How long images waited for their results, and what the service did, for those who were not there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import case, func, select

from vad_lib.forecast.records import OBJECTIVE_SECONDS
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.schema import DONE, ONLINE, PENDING, UNREADABLE, incoming_files, predictions
from vad_lib.queue.facts import services_of

MOST_PREDICTIONS = 20_000


@dataclass(frozen=True)
class ScoredImages:
    """Online predictions of one line and model version, within a stretch of ``prediction_id``."""

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


def scored_since(
    db: InspectionDatabase, lines: Collection[str], after: Mapping[str, int], *, limit: int = MOST_PREDICTIONS
) -> tuple[list[ScoredImages], dict[str, int]]:
    """Return what services scored on each line after a ``prediction_id``, and the ids to go on from.

    Ids are in order of time within a line only: two lines are written at once.
    """
    columns = predictions.c
    found: list[ScoredImages] = []
    reached = dict(after)
    with db.reading() as connection:
        for line in sorted(lines):
            begin = after.get(line, 0)
            mine = columns.line == line, columns.prediction_id > begin
            newest = connection.execute(select(func.max(columns.prediction_id)).where(*mine)).scalar()
            if newest is None:
                continue
            until = min(newest, begin + limit)
            rows = connection.execute(
                select(
                    *(columns.line, columns.model_version, func.count()),
                    func.sum(case((columns.predicted == "OK", 1), else_=0)),
                    func.sum(case((columns.predicted == "NG", 1), else_=0)),
                    *(func.min(columns.prediction_id), func.max(columns.prediction_id)),
                    *(func.min(columns.created_at), func.max(columns.created_at)),
                )
                .where(*mine, columns.prediction_id <= until, columns.source == ONLINE)
                .group_by(columns.line, columns.model_version)
                .order_by(func.max(columns.prediction_id))
            ).all()
            found += [ScoredImages(*row) for row in rows]
            reached[line] = until
    return found, reached


@dataclass(frozen=True)
class Latency:
    """How long images waited for their results, in seconds, those that wait still included with their age.

    Attributes:
        images: decided by a service within the window, or waiting for one.
        waiting: how many of them wait still.
        p50, p95, worst: None without images.
        oldest_waiting: age of the oldest that waits.
        objective: what p95 must not exceed.
    """

    images: int
    waiting: int
    p50: float | None
    p95: float | None
    worst: float | None
    oldest_waiting: float
    objective: float

    @property
    def is_met(self) -> bool:
        """True without images: nothing was promised about them."""
        return self.p95 is None or self.p95 <= self.objective

    def __str__(self) -> str:
        if self.p95 is None:
            return "No inference service has decided an image in this time."
        verb = "had its result" if self.is_met else "waited for longer than the objective: it had its result"
        return (
            f"Of {self.images} images, 95 of 100 {verb} within {self.p95:.2f} s of its arrival "
            f"(objective: {self.objective:g} s); {self.waiting} wait still."
        )


def latencies(
    db: InspectionDatabase,
    lines: Collection[str],
    *,
    window: timedelta = timedelta(hours=1),
    objective: float = OBJECTIVE_SECONDS,
) -> dict[str, Latency]:
    """Return how long images waited on those lines that a service works on, or has worked on within the window."""
    files = incoming_files.c
    served = services_of(db)
    with db.reading() as connection:
        now = db.clock(connection)
        decided = connection.execute(
            select(files.line, files.arrived_at, files.decided_at).where(
                files.line.in_(lines),
                files.decided_at >= now - window,
                files.run_id.is_(None),
                (files.state == DONE) | (files.rule == UNREADABLE),
            )
        ).all()
        pending = select(files.line, files.arrived_at).where(files.line.in_(lines), files.state == PENDING)
        waiting = connection.execute(pending).all()
    waits: dict[str, list[float]] = {}
    for line, arrived_at, decided_at in decided:
        waits.setdefault(line, []).append((decided_at - arrived_at).total_seconds())
    ages: dict[str, list[float]] = {}
    for line, arrived_at in waiting:
        if line in served or line in waits:
            ages.setdefault(line, []).append((now - arrived_at).total_seconds())
    return {
        line: _latency(waits.get(line, []), ages.get(line, []), objective)
        for line in sorted({*waits, *ages, *served} & set(lines))
    }


def _latency(waits: Sequence[float], ages: Sequence[float], objective: float) -> Latency:
    every = [*waits, *ages]
    oldest = max([0.0, *ages])
    if not every:
        return Latency(0, 0, None, None, None, oldest, objective)
    p50, p95 = np.quantile(np.maximum(every, 0.0), [0.5, 0.95], method="higher")
    return Latency(len(every), len(ages), float(p50), float(p95), float(max(every)), oldest, objective)
