"""One look at one line's landing folder, with the inspection database around the pure decision.

The whole decision is applied in one transaction. Whoever dies before it changed nothing; whoever dies after it left
open batches behind, which the next tick asks for again under the same run key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, delete, insert, select, update

from vad_lib.inspection_db.database import MAX_PARAMETERS, InspectionDatabase, chunks, insert_many
from vad_lib.inspection_db.schema import CLOSED, OPEN, PENDING, REFUSED, batches, kept_aside, landings
from vad_lib.landing.completeness import ends_whole
from vad_lib.landing.deciding import (
    BatchRequest,
    Decision,
    Limits,
    NewBatch,
    OpenBatch,
    RunState,
    decide_batch,
    run_key,
)
from vad_lib.landing.scanning import SCAN_RULES, FileKey, scan_folder

VANISHED = "vanished"
"""Rule of a landing whose file was gone when it was to be read: the same file coming back is taken up again."""


MOST_LOOKED_UP = 10 * MAX_PARAMETERS
"""Files in a folder up to which each is looked up in the database by its path."""


@dataclass(frozen=True)
class LandingTick:
    """What came of one look.

    Attributes:
        requests: runs to ask for. A key may come again in a later tick until its run is known: launch it once.
        waiting: hand it to the next tick as ``previous_look`` (JSON-ready; at most some hundred kB).
        message: what was seen, for people; the skip reason where nothing is asked for.
        refused: how many files this tick refused by name or kind.
        error: why the folder could not be read, else empty.
        writing: how many files are not complete yet.
        unfinished: batches that were open before this look.
    """

    requests: tuple[BatchRequest, ...] = ()
    waiting: dict[str, list[float]] = field(default_factory=dict)
    message: str = ""
    refused: int = 0
    error: str = ""
    writing: int = 0
    unfinished: int = 0


def plan_landing_tick(
    db: InspectionDatabase,
    line: str,
    folder: Path,
    *,
    run_state: Callable[[str], RunState | None],
    settle_seconds: float = 2.0,
    max_batch: int = 256,
    max_active: int = 2,
    limits: Limits | None = None,
    now: float | None = None,
    previous_look: Mapping[str, Sequence[float]] | None = None,
    skip_folders: Collection[Path] = (),
    whole_at_once: bool = False,
) -> LandingTick:
    """Look at a landing folder, record what is taken up, and say which runs to ask for.

    Args:
        db: the inspection database.
        line: name of the line.
        folder: where its images land.
        run_state: what became of the newest run that carries the tag ``vad/batch_key`` with the given value
            (``BatchRequest.tags``); None where there is none.
        settle_seconds: a file is complete when it was left alone for so long.
        max_batch: images in one batch.
        max_active: batches of this line at work at the same time.
        limits: all limits at once, in place of the three before.
        now: seconds since the epoch.
        previous_look: ``waiting`` of the tick before.
        skip_folders: folders inside ``folder`` that are not looked into.
        whole_at_once: take an image whose last bytes are those that end one, without waiting until it has stood still.
            Only where nobody else takes such images first.
    """
    moment = time.time() if now is None else now
    bounds = limits or Limits(settle_seconds=settle_seconds, max_batch=max_batch, max_active=max_active)
    scan = scan_folder(folder, skip_folders=skip_folders)
    with db.reading() as connection:
        known = _known_keys(connection, line, [seen.path for seen in scan.files])
        open_batches = _open_batches(connection, line, run_state)
    decision = decide_batch(
        line,
        scan,
        known=known,
        open_batches=open_batches,
        previous_look=previous_look or {},
        now=moment,
        limits=bounds,
        is_whole=(lambda seen: ends_whole(scan.folder / seen.path)) if whole_at_once else (lambda _: False),
    )
    requests = apply_decision(
        db, line, scan.folder, decision, datetime.fromtimestamp(moment, UTC), repeat_seconds=bounds.repeat_seconds
    )
    return LandingTick(
        requests=requests,
        waiting=decision.waiting,
        message=decision.message,
        refused=len(decision.refuse),
        error=scan.error,
        writing=decision.writing,
        unfinished=len(open_batches),
    )


def apply_decision(
    db: InspectionDatabase,
    line: str,
    folder: Path,
    decision: Decision,
    moment: datetime,
    *,
    repeat_seconds: float = 0.0,
) -> tuple[BatchRequest, ...]:
    """Write a decision down, in one transaction, and return the runs to ask for.

    What another tick did in the meantime is left as it is, and what it has asked for is not asked for again until
    ``repeat_seconds`` are over.
    """
    requests: list[BatchRequest] = []
    steps = (decision.repeat, decision.again, decision.halve, decision.close, decision.refuse, decision.new)
    if not any(steps):
        return ()
    with db.writing() as connection:
        for request in decision.repeat:
            asked = (
                update(batches)
                .where(
                    batches.c.batch_id == request.batch_id,
                    batches.c.state == OPEN,
                    batches.c.attempt == request.attempt,
                )
                .values(requested_at=moment)
            )
            if repeat_seconds:
                asked = asked.where(batches.c.requested_at <= moment - timedelta(seconds=repeat_seconds))
            if connection.execute(asked).rowcount:
                requests.append(request)
        for batch_id, note in decision.close:
            connection.execute(
                update(batches)
                .where(batches.c.batch_id == batch_id, batches.c.state == OPEN)
                .values(state=CLOSED, closed_at=moment, note=note or None)
            )
        for request in decision.again:
            moved = connection.execute(
                update(batches)
                .where(
                    batches.c.batch_id == request.batch_id,
                    batches.c.state == OPEN,
                    batches.c.attempt == request.attempt - 1,
                )
                .values(attempt=request.attempt, requested_at=moment)
            )
            if moved.rowcount:
                requests.append(request)
        for parent, *halves in decision.halve:
            requests += _halve(connection, line, parent, halves, moment)
        _refuse(db, connection, line, decision, moment)
        for new in decision.new:
            if count := _take_up(db, connection, line, folder, new, moment):
                requests.append(BatchRequest(new.batch_id, 1, count))
    return tuple(requests)


def _known_keys(connection: Connection, line: str, paths: Sequence[str]) -> set[tuple[str, int, int]]:
    """Every version of these files that is not to be taken up again: plain tuples, which equal ``FileKey``.

    A folder that its owner empties stays quick to look at, however much has landed in it over the years.
    """
    chosen = select(landings.c.path, landings.c.size, landings.c.mtime_ns).where(
        landings.c.line == line,
        (landings.c.rule.is_(None)) | (landings.c.rule != VANISHED),
    )
    # One look at everything is quicker than very many at parts of it.
    parts = (
        [chosen]
        if len(paths) > MOST_LOOKED_UP
        else [chosen.where(landings.c.path.in_(part)) for part in chunks(paths, MAX_PARAMETERS)]
    )
    return {(path, size, mtime_ns) for part in parts for path, size, mtime_ns in connection.execute(part)}


def _open_batches(
    connection: Connection, line: str, run_state: Callable[[str], RunState | None]
) -> tuple[OpenBatch, ...]:
    found = connection.execute(
        select(batches).where(batches.c.line == line, batches.c.state == OPEN).order_by(batches.c.created_at)
    ).all()
    result = []
    for batch in found:
        rows = connection.execute(
            select(
                landings.c.path,
                landings.c.size,
                landings.c.mtime_ns,
                landings.c.state,
                landings.c.begun,
                landings.c.rule,
            )
            .where(landings.c.batch_id == batch.batch_id)
            .order_by(landings.c.path, landings.c.seq)
        ).all()
        rows = [row for row in rows if row.rule not in SCAN_RULES]
        result.append(
            OpenBatch(
                batch_id=batch.batch_id,
                attempt=batch.attempt,
                generation=batch.generation,
                keys=tuple(FileKey(row.path, row.size, row.mtime_ns) for row in rows),
                pending=sum(row.state == PENDING for row in rows),
                begun=sum(row.state == PENDING and row.begun > 0 for row in rows),
                requested_at=batch.requested_at.timestamp(),
                run=run_state(run_key(batch.batch_id, batch.attempt)),
            )
        )
    return tuple(result)


def _insert_batch(connection: Connection, line: str, folder: str, new: NewBatch, moment: datetime) -> None:
    connection.execute(
        insert(batches).values(
            batch_id=new.batch_id,
            line=line,
            folder=folder,
            state=OPEN,
            attempt=1,
            generation=new.generation,
            parent_id=new.parent_id,
            created_at=moment,
            requested_at=moment,
        )
    )


def _take_up(
    db: InspectionDatabase, connection: Connection, line: str, folder: Path, new: NewBatch, moment: datetime
) -> int:
    """Make a batch of those keys that nobody has taken up, and return how many they are."""
    taken = _known_keys(connection, line, [key.path for key in new.keys])
    keys = [key for key in new.keys if key not in taken]
    if not keys:
        return 0
    _insert_batch(connection, line, str(folder), new, moment)
    # What had vanished has come back: the row is used again.
    for path, size, mtime_ns in keys:
        connection.execute(
            delete(landings).where(
                landings.c.line == line,
                landings.c.path == path,
                landings.c.size == size,
                landings.c.mtime_ns == mtime_ns,
                landings.c.rule == VANISHED,
            )
        )
    rows = [
        {
            "line": line,
            "path": path,
            "size": size,
            "mtime_ns": mtime_ns,
            "state": PENDING,
            "batch_id": new.batch_id,
            "begun": 0,
            "begun_alone": 0,
            "first_seen": moment,
        }
        for path, size, mtime_ns in keys
    ]
    insert_many(connection, insert(landings), rows)
    # Refused by name or kind, they have no batch: the next run reports them with its own.
    connection.execute(
        update(landings)
        .where(landings.c.line == line, landings.c.state == REFUSED, landings.c.batch_id.is_(None))
        .values(batch_id=new.batch_id)
    )
    return len(rows)


def _halve(
    connection: Connection, line: str, parent: str, halves: Sequence[NewBatch], moment: datetime
) -> list[BatchRequest]:
    closed = connection.execute(
        update(batches)
        .where(batches.c.batch_id == parent, batches.c.state == OPEN)
        .values(state=CLOSED, closed_at=moment, note="halved, because its runs kept failing")
    )
    if not closed.rowcount:
        return []
    folder = connection.execute(select(batches.c.folder).where(batches.c.batch_id == parent)).scalar_one()
    for half in halves:
        _insert_batch(connection, line, folder, half, moment)
    first, second = halves
    in_second = set(second.keys)
    rows = connection.execute(
        select(landings.c.seq, landings.c.path, landings.c.size, landings.c.mtime_ns).where(
            landings.c.batch_id == parent
        )
    ).all()
    for seq, path, size, mtime_ns in rows:
        half = second if (path, size, mtime_ns) in in_second else first
        connection.execute(update(landings).where(landings.c.seq == seq).values(batch_id=half.batch_id))
    return [BatchRequest(half.batch_id, 1, len(half.keys)) for half in halves]


def _refuse(db: InspectionDatabase, connection: Connection, line: str, decision: Decision, moment: datetime) -> None:
    insert_many(
        connection,
        db.insert_or_ignore(landings),
        [
            {
                "line": line,
                "path": seen.path,
                "size": seen.size,
                "mtime_ns": seen.mtime_ns,
                "state": REFUSED,
                "begun": 0,
                "begun_alone": 0,
                "first_seen": moment,
                "decided_at": moment,
                "rule": seen.rule,
                "reason": seen.reason,
            }
            for seen in decision.refuse
        ],
    )
    insert_many(
        connection,
        db.insert_or_ignore(kept_aside),
        [
            {
                "line": line,
                "path": seen.path,
                "size": seen.size,
                "mtime_ns": seen.mtime_ns,
                "rule": seen.rule,
                "reason": seen.reason,
                "created_at": moment,
            }
            for seen in decision.refuse
        ],
    )
