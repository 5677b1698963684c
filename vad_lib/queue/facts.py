"""What waits in the queue, and which services are alive to work on it."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import case, delete, func, select

from vad_lib.inspection_db.database import InspectionDatabase, insert_many
from vad_lib.inspection_db.schema import PENDING, incoming_files, services
from vad_lib.processes import is_dead

ALIVE_SECONDS = 15.0
"""A service that did not say so for longer is not counted on."""

NEGLECTED_SECONDS = 300.0
"""A file that is offered for so long, while nobody is there to take it, is worth a warning."""


@dataclass(frozen=True)
class QueueFacts:
    """What waits on one line.

    Attributes:
        pending: files that are not decided.
        leased: how many of them a worker has in hand.
        later: how many are not offered yet, since an attempt failed.
        oldest_seconds: how long ago the oldest pending file arrived; 0 without any.
        unleased_seconds: how long the longest waiting file that is offered has been waiting; None where none is.
    """

    pending: int = 0
    leased: int = 0
    later: int = 0
    oldest_seconds: float = 0.0
    unleased_seconds: float | None = None


def queue_facts(db: InspectionDatabase) -> dict[str, QueueFacts]:
    """Return what waits, by line; lines on which nothing waits are not named."""
    files = incoming_files.c
    with db.reading() as connection:
        now = db.clock(connection)
        later = files.leased_by.is_(None) & (files.leased_until > now)
        offered = files.leased_by.is_(None) & (files.leased_until.is_(None) | (files.leased_until <= now))
        rows = connection.execute(
            select(
                files.line,
                func.count(),
                func.count(files.leased_by),
                func.sum(case((later, 1), else_=0)),
                func.min(files.arrived_at),
                func.min(case((offered, files.registered_at))),
            )
            .where(files.state == PENDING)
            .group_by(files.line)
        ).all()

    def since(moment: datetime) -> float:
        return max(0.0, (now - moment).total_seconds())

    return {
        line: QueueFacts(pending, leased, int(put_off), since(oldest), None if waiting is None else since(waiting))
        for line, pending, leased, put_off, oldest, waiting in rows
    }


def neglected(db: InspectionDatabase) -> dict[str, QueueFacts]:
    """Return the lines on which files are offered for long, and no service is there to take them. A run may be."""
    served = services_of(db)
    return {
        line: facts
        for line, facts in queue_facts(db).items()
        if (facts.unleased_seconds or 0.0) > NEGLECTED_SECONDS and line not in served
    }


def announce_service(db: InspectionDatabase, worker: str, serves: Collection[str]) -> None:
    """Say that a service is alive and works on the queues of these lines; nothing: that it ends."""
    with db.writing(durable=False) as connection:
        now = db.clock(connection)
        connection.execute(delete(services).where((services.c.worker == worker) | (services.c.alive_until <= now)))
        until = now + timedelta(seconds=ALIVE_SECONDS)
        row = {"worker": worker, "serves": json.dumps(sorted(serves)), "alive_until": until}
        insert_many(connection, db.insert_or_ignore(services), [row] if serves else [])


def services_of(db: InspectionDatabase) -> dict[str, list[str]]:
    """Return the services that are alive, by line."""
    with db.reading() as connection:
        now = db.clock(connection)
        rows = connection.execute(select(services).where(services.c.alive_until > now)).all()
    found: dict[str, list[str]] = {}
    for row in rows:
        for line in [] if is_dead(row.worker) else json.loads(row.serves):
            found.setdefault(line, []).append(row.worker)
    return found
