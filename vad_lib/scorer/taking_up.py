"""Take landed files up for the fast lane, in the same ledger and under the same key as the bulk lane.

A batch of the fast lane is a batch like any other, but closed from the beginning, so that nobody asks for a run of
it; a row in ``fast_batches`` says who has it instead. When its owner dies, or lets it expire, the batch is opened: from
then on it is one of the bulk lane, which finishes what is left of it. Claims and the key of predictions see to it that
no image is scored twice on the way.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from vad_lib.inspection.claims import is_dead
from vad_lib.inspection_db.database import InspectionDatabase, chunks, insert_many, utc_now
from vad_lib.inspection_db.schema import CLOSED, OPEN, PENDING, REFUSED, batches, landings
from vad_lib.landing.scanning import FileKey
from vad_lib.landing.ticking import VANISHED
from vad_lib.scorer.signals import note_signals
from vad_lib.scorer.tables import fast_batches, landing_times

LEASE = timedelta(seconds=60)
"""Renewed while the scorer lives. On the same machine a death is seen at once; this is for all other cases."""
FAST_NOTE = "taken by the fast lane"
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
"""Nobody has asked for a run of it: the next look need not wait until a request would have become one."""


class Candidate(NamedTuple):
    """A complete file, and when its last change or renaming was (seconds since the epoch)."""

    key: FileKey
    landed_at: float


@dataclass(frozen=True)
class TakenBatch:
    """Files that were taken up together."""

    line: str
    batch_id: str
    paths: tuple[str, ...]
    landed_at: tuple[float, ...]


class Decided(NamedTuple):
    """What a finished batch says about one landing. ``seconds`` is None for a landing of an earlier scorer."""

    path: str
    state: str
    sha256: str | None
    reason: str | None
    seconds: float | None


def take_up(
    db: InspectionDatabase, line: str, folder: Path, candidates: Sequence[Candidate], owner: str
) -> TakenBatch | None:
    """Take up those of ``candidates`` that nobody has taken up, in one transaction; None where there is none left."""
    now = utc_now()
    with db.writing() as connection:
        known, vanished = _known(connection, line, [candidate.key.path for candidate in candidates])
        fresh = {candidate.key: candidate for candidate in candidates if candidate.key not in known}
        if not fresh:
            return None
        batch_id = _insert_batch(connection, line, folder, now)
        for part in chunks([seq for key, seq in vanished.items() if key in fresh]):
            # They have come back.
            connection.execute(delete(landings).where(landings.c.seq.in_(part), landings.c.rule == VANISHED))
        insert_many(
            connection,
            db.insert_or_ignore(landings),
            [
                {
                    "line": line,
                    "path": key.path,
                    "size": key.size,
                    "mtime_ns": key.mtime_ns,
                    "state": PENDING,
                    "batch_id": batch_id,
                    "begun": 0,
                    "begun_alone": 0,
                    "first_seen": now,
                }
                for key in fresh
            ],
        )
        # Where several writers may be at work at once (PostgreSQL), the key has decided whose each landing is.
        rows = connection.execute(
            select(landings.c.seq, landings.c.path, landings.c.size, landings.c.mtime_ns).where(
                landings.c.batch_id == batch_id
            )
        ).all()
        if not rows:
            connection.execute(delete(batches).where(batches.c.batch_id == batch_id))
            return None
        landed = {row.seq: fresh[FileKey(row.path, row.size, row.mtime_ns)].landed_at for row in rows}
        _own(connection, batch_id, line, owner, now)
        insert_many(
            connection,
            db.insert_or_ignore(landing_times),
            [
                {"seq": seq, "line": line, "landed_at": _moment(seconds), "taken_at": now}
                for seq, seconds in landed.items()
            ],
        )
    return TakenBatch(line, batch_id, tuple(row.path for row in rows), tuple(landed.values()))


def take_up_refused(db: InspectionDatabase, line: str, folder: Path, owner: str) -> TakenBatch | None:
    """Take up what the landing sensor refused by name or kind, so that it is kept aside and told; None without such.

    Only a batch does that, and where a scorer takes the images the sensor may never form one.
    """
    # Of all lines, as the index has them: a line may have very many refused landings that have a batch.
    lines = select(landings.c.line).where(landings.c.batch_id.is_(None), landings.c.state == REFUSED).distinct()
    with db.reading() as connection:
        if line not in connection.execute(lines).scalars().all():
            return None
    now = utc_now()
    with db.writing() as connection:
        batch_id = _insert_batch(connection, line, folder, now)
        moved = connection.execute(
            update(landings)
            .where(landings.c.line == line, landings.c.state == REFUSED, landings.c.batch_id.is_(None))
            .values(batch_id=batch_id)
        )
        if not moved.rowcount:
            connection.execute(delete(batches).where(batches.c.batch_id == batch_id))
            return None
        _own(connection, batch_id, line, owner, now)
    return TakenBatch(line, batch_id, (), ())


def _insert_batch(connection: Connection, line: str, folder: Path, now: datetime) -> str:
    batch_id = secrets.token_hex(8)
    connection.execute(
        insert(batches).values(
            batch_id=batch_id,
            line=line,
            folder=str(folder),
            state=CLOSED,
            attempt=1,
            generation=0,
            created_at=now,
            requested_at=now,
            note=FAST_NOTE,
        )
    )
    return batch_id


def _own(connection: Connection, batch_id: str, line: str, owner: str, now: datetime) -> None:
    connection.execute(insert(fast_batches).values(batch_id=batch_id, line=line, owner=owner, expires_at=now + LEASE))


def known_keys(db: InspectionDatabase, line: str, paths: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return all versions of these paths that are not to be taken up again, as tuples that equal ``FileKey``."""
    with db.reading() as connection:
        return _known(connection, line, paths)[0]


def _known(
    connection: Connection, line: str, paths: Sequence[str]
) -> tuple[set[tuple[str, int, int]], dict[tuple[str, int, int], int]]:
    """Return what has been taken up, and what had vanished with its ``seq``."""
    known: set[tuple[str, int, int]] = set()
    vanished: dict[tuple[str, int, int], int] = {}
    for part in chunks(list(dict.fromkeys(paths))):
        rows = connection.execute(
            select(landings.c.seq, landings.c.path, landings.c.size, landings.c.mtime_ns, landings.c.rule).where(
                landings.c.line == line, landings.c.path.in_(part)
            )
        )
        for seq, path, size, mtime_ns, rule in rows:
            if rule == VANISHED:
                vanished[path, size, mtime_ns] = seq
            else:
                known.add((path, size, mtime_ns))
    return known, vanished


def renew(db: InspectionDatabase, owner: str) -> None:
    """Keep all batches of an owner for another lease."""
    with db.writing() as connection:
        connection.execute(
            update(fast_batches).where(fast_batches.c.owner == owner).values(expires_at=utc_now() + LEASE)
        )


def finish(db: InspectionDatabase, batch_id: str, owner: str, channels: Collection[str] = ()) -> list[Decided] | None:
    """End a batch: times, signals and the end of ownership in one transaction.

    Returns:
        What became of each landing; None where the batch is not this owner's any more.
    """
    now = utc_now()
    with db.writing() as connection:
        gone = connection.execute(
            delete(fast_batches).where(fast_batches.c.batch_id == batch_id, fast_batches.c.owner == owner)
        )
        if not gone.rowcount:
            return None
        decided = _end(db, connection, batch_id, channels, now)
        if any(each.state == PENDING for each in decided):
            _open(connection, batch_id, "the fast lane could not decide all of it")
        return decided


def _end(
    db: InspectionDatabase, connection: Connection, batch_id: str, channels: Collection[str], now: datetime
) -> list[Decided]:
    connection.execute(update(batches).where(batches.c.batch_id == batch_id).values(closed_at=now))
    connection.execute(
        update(landing_times)
        .where(
            landing_times.c.seq.in_(
                select(landings.c.seq).where(landings.c.batch_id == batch_id, landings.c.state != PENDING)
            )
        )
        .values(decided_at=select(landings.c.decided_at).where(landings.c.seq == landing_times.c.seq).scalar_subquery())
    )
    for channel in channels:
        note_signals(db, connection, batch_id, channel, now)
    rows = connection.execute(
        select(
            landings.c.path,
            landings.c.state,
            landings.c.sha256,
            landings.c.reason,
            landings.c.decided_at,
            landing_times.c.landed_at,
        )
        .outerjoin(landing_times, landing_times.c.seq == landings.c.seq)
        .where(landings.c.batch_id == batch_id)
    ).all()
    return [
        Decided(
            row.path,
            row.state,
            row.sha256,
            row.reason if row.state == REFUSED else None,
            (row.decided_at - row.landed_at).total_seconds() if row.decided_at and row.landed_at else None,
        )
        for row in rows
    ]


def hand_over(db: InspectionDatabase, batch_id: str, owner: str, why: str) -> bool:
    """Give a batch to the bulk lane; False where it is not this owner's."""
    with db.writing() as connection:
        gone = connection.execute(
            delete(fast_batches).where(fast_batches.c.batch_id == batch_id, fast_batches.c.owner == owner)
        )
        if gone.rowcount:
            _open(connection, batch_id, why)
        return bool(gone.rowcount)


def hand_over_together(db: InspectionDatabase, held: Sequence[tuple[str, str]], why: str) -> int:
    """Give several batches to the bulk lane, as one for each folder; return how many were given.

    A scorer's batches are small, and a run of each would take long to come.

    Args:
        db: the inspection database.
        held: batch and its owner; what is not this owner's any more stays as it is.
        why: noted beside the batch.
    """
    if not held:
        return 0
    count = 0
    first_of: dict[tuple[str, str], str] = {}
    with db.writing() as connection:
        for batch_id, owner in held:
            gone = connection.execute(
                delete(fast_batches).where(fast_batches.c.batch_id == batch_id, fast_batches.c.owner == owner)
            )
            if not gone.rowcount:
                continue
            count += 1
            line, folder = connection.execute(
                select(batches.c.line, batches.c.folder).where(batches.c.batch_id == batch_id)
            ).one()
            first = first_of.setdefault((line, folder), batch_id)
            if first == batch_id:
                _open(connection, batch_id, why)
                continue
            # Closed already, as all batches of a scorer are. What was decided goes along, to be told with the rest.
            connection.execute(update(landings).where(landings.c.batch_id == batch_id).values(batch_id=first))
            connection.execute(
                update(batches)
                .where(batches.c.batch_id == batch_id)
                .values(closed_at=utc_now(), note=f"{why}; its images went over to {first}")
            )
    return count


def hand_over_abandoned(db: InspectionDatabase) -> int:
    """Give batches whose scorer died, or has not been heard of for a lease, to the bulk lane; return how many.

    The landing sensor does this before each look, so that no image depends on the scorer's coming back.
    """
    return hand_over_together(db, _abandoned(db), "its scorer is gone; the bulk lane finishes it")


def adopt_abandoned(db: InspectionDatabase, owner: str) -> Iterator[TakenBatch]:
    """Take over batches whose scorer died, when a scorer starts again before the bulk lane came to help.

    Each is given back as soon as it is taken over: where a later one fails, its own are known.
    """
    for batch_id, before in _abandoned(db):
        with db.writing() as connection:
            moved = connection.execute(
                update(fast_batches)
                .where(fast_batches.c.batch_id == batch_id, fast_batches.c.owner == before)
                .values(owner=owner, expires_at=utc_now() + LEASE)
            )
            if not moved.rowcount:
                continue
            line = connection.execute(
                select(fast_batches.c.line).where(fast_batches.c.batch_id == batch_id)
            ).scalar_one()
            rows = connection.execute(
                select(landings.c.path, landing_times.c.landed_at)
                .join(landing_times, landing_times.c.seq == landings.c.seq)
                .where(landings.c.batch_id == batch_id)
            ).all()
        yield TakenBatch(
            line, batch_id, tuple(row.path for row in rows), tuple(row.landed_at.timestamp() for row in rows)
        )


def _abandoned(db: InspectionDatabase) -> list[tuple[str, str]]:
    now = utc_now()
    with db.reading() as connection:
        if not connection.dialect.has_table(connection, fast_batches.name):
            return []  # no scorer ever ran
        held = connection.execute(
            select(fast_batches.c.batch_id, fast_batches.c.owner, fast_batches.c.expires_at)
        ).all()
    return [(row.batch_id, row.owner) for row in held if row.expires_at <= now or is_dead(row.owner)]


def _open(connection: Connection, batch_id: str, why: str) -> None:
    connection.execute(
        update(batches)
        .where(batches.c.batch_id == batch_id)
        .values(state=OPEN, attempt=1, requested_at=NEVER, closed_at=None, note=why)
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
