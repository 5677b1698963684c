"""Who works on what: lease, renew and expire."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import ColumnElement, exists, or_, select, update

from vad_lib.ingest import FileVersion
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.schema import PENDING, incoming_files, paused_lines
from vad_lib.processes import is_dead, me

LEASE_SECONDS = 120.0
"""Renewed while the worker lives. On the same machine a death is seen at once; this is for all other cases."""
SUSPECT = 2
"""Deliveries from which a file is in hand with no other file of its process: two that were in hand in two threads when
their process died would else come together again, and the innocent one would be blamed as often as the other."""
PATIENCE_SECONDS = 60.0
logger = logging.getLogger("vad.queue")


def new_worker() -> str:
    """Return a name for a worker of this process: whether the process lives can be told by it."""
    return f"{me()}:{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Leased:
    """One file in a worker's hand.

    Attributes:
        file_id: its row.
        folder: the watch folder, absolute.
        version: as it was when it was registered.
        deliveries: how many workers took it and did not finish it.
        trouble: what the last of them could say about it.
    """

    file_id: int
    folder: Path
    version: FileVersion
    deliveries: int = 0
    trouble: str = ""

    @property
    def file(self) -> Path:
        """Absolute path."""
        return self.folder / self.version.path


class LeasedFiles(NamedTuple):
    """What a worker has taken, and whether more may wait."""

    files: list[Leased]
    more: bool


def lease(db: InspectionDatabase, line: str, worker: str, count: int) -> LeasedFiles:
    """Take at most ``count`` files of a line that wait, oldest first; none where nothing waits.

    A file that a worker did not finish comes alone, and after all others for ``PATIENCE_SECONDS``: if it kills this
    worker too, it alone is to blame. Threads share the name of their process' worker; from ``SUSPECT`` deliveries on, a
    file comes only while they have nothing else. Of one path, no version is offered while a worker has an earlier one:
    whether something changed can be said only when that is decided. Of a line that is paused nothing is offered.
    """
    files, earlier, mine = incoming_files.c, incoming_files.alias(), incoming_files.alias()
    has_any = exists().where(mine.c.leased_by == worker)
    has_suspect = exists().where(mine.c.leased_by == worker, mine.c.deliveries >= SUSPECT)
    in_hand = exists().where(
        *(earlier.c.line == files.line, earlier.c.path == files.path, earlier.c.file_id < files.file_id),
        earlier.c.leased_by.is_not(None),
    )
    with _turn_of(worker), db.writing(durable=False) as connection:
        now = db.clock(connection)
        waiting = (
            select(incoming_files)
            .where(files.line == line, files.state == PENDING, files.leased_by.is_(None))
            .where(or_(files.leased_until.is_(None), files.leased_until <= now), ~in_hand)
            .where(~has_suspect, or_(files.deliveries < SUSPECT, ~has_any))
            .where(~exists().where(paused_lines.c.line == line))
            .order_by(files.deliveries, files.file_id)
            .limit(count)
            .with_for_update(skip_locked=True)
        )
        # On a line that is never idle they would never come.
        patience = now - timedelta(seconds=PATIENCE_SECONDS)
        overdue = waiting.where(files.deliveries > 0, files.registered_at <= patience).limit(1)
        first = connection.execute(overdue).all()
        found = first or connection.execute(waiting).all()
        rows = [row for row in found if not row.deliveries] or found[:1]
        if rows:
            connection.execute(
                update(incoming_files)
                .where(files.file_id.in_([row.file_id for row in rows]))
                .values(leased_by=worker, leased_until=now + timedelta(seconds=LEASE_SECONDS))
            )
    taken = [
        Leased(
            file_id=row.file_id,
            folder=Path(row.folder),
            version=FileVersion.of_row(row),
            deliveries=row.deliveries,
            trouble=row.reason or "",
        )
        for row in rows
    ]
    return LeasedFiles(taken, more=bool(first) or len(found) == count or len(rows) < len(found))


@lru_cache(maxsize=1024)
def _turn_of(worker: str) -> threading.Lock:
    """Two threads of one worker that lease at once would not see what the other one takes."""
    return threading.Lock()


def renew(db: InspectionDatabase, worker: str) -> None:
    """Keep what a worker has for another term."""
    with db.writing(durable=False) as connection:
        until = db.clock(connection) + timedelta(seconds=LEASE_SECONDS)
        held = _unlocked(incoming_files.c.leased_by == worker)
        connection.execute(update(incoming_files).where(held).values(leased_until=until))


@contextmanager
def kept_leases(db: InspectionDatabase, worker: str) -> Iterator[None]:
    """While it is open, renew the leases of a worker now and then, in a thread."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(LEASE_SECONDS / 3):
            try:
                renew(db, worker)
            except Exception:  # the database may be back in time
                logger.exception("leases cannot be renewed now")

    thread = threading.Thread(target=keep, name="vad-leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1.0)


def expire(db: InspectionDatabase) -> int:
    """Offer again what workers had that died, or that were not heard of in time; return how many files.

    Anybody may call it at any time.
    """
    files = incoming_files.c
    with db.reading() as connection:
        now = db.clock(connection)
        held = connection.execute(select(files.leased_by, files.leased_until).where(files.leased_by.is_not(None))).all()
    gone = sorted({row.leased_by for row in held if row.leased_until <= now or is_dead(row.leased_by)})
    if not gone:
        return 0
    with db.writing(durable=False) as connection:
        now = db.clock(connection)
        dead = [worker for worker in gone if is_dead(worker)]
        unfinished = _unlocked(files.leased_by.in_(gone), or_(files.leased_by.in_(dead), files.leased_until <= now))
        free = {"leased_by": None, "leased_until": None, "deliveries": files.deliveries + 1}
        return connection.execute(update(incoming_files).where(unfinished).values(free)).rowcount


def _unlocked(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Those rows that nobody is about to change: two who change the same rows in different orders wait for ever."""
    chosen = select(incoming_files.c.file_id).where(*conditions).with_for_update(skip_locked=True)
    return incoming_files.c.file_id.in_(chosen)
