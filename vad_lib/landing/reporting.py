"""What waits, as the inspection database tells it."""

from __future__ import annotations

import time

from sqlalchemy import func, select

from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.schema import OPEN, PENDING, batches, landings


def queue_facts(db: InspectionDatabase, line: str, *, now: float | None = None) -> dict[str, float]:
    """Return what waits in the database: ``pending`` landings, open ``batches`` and ``oldest_seconds`` of waiting."""
    moment = time.time() if now is None else now
    with db.reading() as connection:
        pending, oldest = connection.execute(
            select(func.count(), func.min(landings.c.first_seen)).where(
                landings.c.line == line, landings.c.state == PENDING
            )
        ).one()
        opened = connection.execute(
            select(func.count()).select_from(batches).where(batches.c.line == line, batches.c.state == OPEN)
        ).scalar_one()
    return {
        "pending": float(pending),
        "batches": float(opened),
        "oldest_seconds": max(0.0, moment - oldest.timestamp()) if oldest else 0.0,
    }
