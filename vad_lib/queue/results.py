"""Finish what was leased: results and reasons of a chunk of one line, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, select, update

from vad_lib.images.decoding import DecodedImage
from vad_lib.ingest import FileVersion
from vad_lib.inspection_db.database import InspectionDatabase, insert_many
from vad_lib.inspection_db.schema import DONE, DUPLICATE, PENDING, REFUSED, images, incoming_files, predictions
from vad_lib.queue.outbox import notify


@dataclass(frozen=True)
class Prediction:
    """What is recorded about an image content. The fields are columns of ``predictions``."""

    sha256: str
    model_version: str
    path: str
    raw_score: float
    p: float
    certainty: float
    predicted: str
    threshold: float
    threshold_version: str
    inference_threshold: float
    seconds: float


@dataclass(frozen=True)
class Done:
    """The file was read; its content has the ``prediction``, or None where one is recorded already."""

    file_id: int
    image: DecodedImage
    prediction: Prediction | None = None


@dataclass(frozen=True)
class Refused:
    """The file gets no prediction."""

    file_id: int
    rule: str
    reason: str
    sha256: str | None = None
    duplicate_of: str | None = None
    quarantine_file: str | None = None
    quarantine_note: str | None = None


@dataclass(frozen=True)
class Unchanged:
    """The file was touched, or got a trailer, and holds what ``earlier_id`` held: nothing new is said about it."""

    file_id: int
    earlier_id: int
    version: FileVersion


@dataclass(frozen=True)
class Later:
    """The file could not be decided now. ``blamed``: it may be its own fault, and that is counted."""

    file_id: int
    seconds: float
    reason: str
    blamed: bool = False


Outcome = Done | Refused | Unchanged | Later


class Decision(NamedTuple):
    """What was decided about one file. ``seconds``: from its arrival."""

    path: str
    state: str
    sha256: str | None
    rule: str | None
    reason: str | None
    predicted: str | None
    seconds: float


def finish(
    db: InspectionDatabase,
    line: str,
    worker: str,
    outcomes: Sequence[Outcome],
    *,
    source: str,
    run_id: str | None = None,
) -> list[Decision]:
    """Write down what became of leased files, all or nothing, and end their leases.

    Files whose lease was lost meanwhile are passed over: they are somebody else's. What was recorded before stays as it
    is. Notifications for the line's sinks are put into the outbox in the same transaction.

    Args:
        db: the inspection database.
        line: of all these files.
        worker: who leased them.
        outcomes: one for each file.
        source: ``online`` or ``batch``.
        run_id: the Dagster run, where there is one.

    Returns:
        What was decided.
    """
    with db.writing(line=line, durable=not all(isinstance(each, Later) for each in outcomes)) as connection:
        now = db.clock(connection)
        by_id = {each.file_id: each for each in outcomes}
        own = incoming_files.c.file_id.in_(list(by_id)), incoming_files.c.leased_by == worker
        held = select(incoming_files).where(*own, incoming_files.c.state == PENDING)
        held = held.order_by(incoming_files.c.file_id).with_for_update()
        rows = connection.execute(held).all()
        decided = []
        # In order of content, so that two who note the same contents at once wait for each other in one direction.
        for row in sorted(rows, key=lambda each: _content_of(by_id[each.file_id])):
            outcome = by_id[row.file_id]
            if isinstance(outcome, Done):
                outcome = _note_content(db, connection, line, row, outcome, source, run_id, now)
            if (decision := _settle(connection, row, outcome, run_id, now)) is not None:
                decided.append(decision)
        notify(db, connection, line, incoming_files.c.file_id.in_([row.file_id for row in rows]), now)
    return decided


def record_predictions(
    db: InspectionDatabase, line: str, done: Sequence[Done], *, source: str, run_id: str | None = None
) -> None:
    """Write down predictions of files that did not arrive in the watch folder, such as the rows of a table."""
    with db.writing(line=line) as connection:
        now = db.clock(connection)
        for each in sorted(done, key=_content_of):
            _note_image(db, connection, line, each, now)
            _insert_prediction(db, connection, line, each, source, run_id, now)


def _content_of(outcome: Outcome) -> str:
    return outcome.image.sha256 if isinstance(outcome, Done) else ""


def _note_image(db: InspectionDatabase, connection: Connection, line: str, done: Done, now: datetime) -> None:
    image = done.image
    values = {
        "line": line,
        "sha256": image.sha256,
        "first_file": done.prediction.path if done.prediction else "",
        "width": image.width,
        "height": image.height,
        "channels": image.channels,
        "first_seen": now,
    }
    insert_many(connection, db.insert_or_ignore(images), [values])


def _insert_prediction(
    db: InspectionDatabase,
    connection: Connection,
    line: str,
    done: Done,
    source: str,
    run_id: str | None,
    now: datetime,
) -> None:
    if done.prediction is not None:
        values = {**vars(done.prediction), "line": line, "source": source, "run_id": run_id, "created_at": now}
        insert_many(connection, db.insert_or_ignore(predictions), [values])


def _note_content(
    db: InspectionDatabase,
    connection: Connection,
    line: str,
    row: Row[Any],
    done: Done,
    source: str,
    run_id: str | None,
    now: datetime,
) -> Done | Refused:
    """The first path that holds a content owns it; the same content at another path is a duplicate."""
    sha = done.image.sha256
    _note_image(db, connection, line, done, now)
    this = (images.c.line == line) & (images.c.sha256 == sha)
    owned = {"owner_path": row.path, "size": row.size}
    connection.execute(update(images).where(this, images.c.owner_path.is_(None)).values(owned))
    owner: str = connection.execute(select(images.c.owner_path).where(this)).scalar_one()
    if owner != row.path:
        return duplicate(row.file_id, sha, owner)
    _insert_prediction(db, connection, line, done, source, run_id, now)
    return done


def duplicate(file_id: int, sha256: str, owner_path: str) -> Refused:
    """Return the refusal of a file whose content another path owns."""
    reason = f"the same content as {owner_path}, which was registered first"
    note = f"not copied: {owner_path} holds the same"
    return Refused(file_id, DUPLICATE, reason, sha256, duplicate_of=owner_path, quarantine_note=note)


def _settle(
    connection: Connection, row: Row[Any], outcome: Outcome, run_id: str | None, now: datetime
) -> Decision | None:
    this = incoming_files.c.file_id == row.file_id
    free: dict[str, Any] = {"leased_by": None, "leased_until": None}
    seconds = max(0.0, (now - row.arrived_at).total_seconds())
    if isinstance(outcome, Unchanged):
        connection.execute(delete(incoming_files).where(this))
        # The earlier row may be gone, or be of this very version by now: then there is nothing to remember.
        earlier = incoming_files.c.file_id == outcome.earlier_id
        connection.execute(update(incoming_files).where(earlier).values(**outcome.version._asdict()))
        return Decision(row.path, "unchanged", row.sha256, None, None, None, seconds)
    if isinstance(outcome, Later):
        more = {"leased_until": now + timedelta(seconds=outcome.seconds), "reason": outcome.reason}
        more["deliveries"] = row.deliveries + outcome.blamed
        connection.execute(update(incoming_files).where(this).values(**free | more))
        return None
    decided = free | {"decided_at": now, "run_id": run_id, "rule": None, "reason": None}
    if isinstance(outcome, Done):
        decided |= {"state": DONE, "sha256": outcome.image.sha256}
        predicted = outcome.prediction.predicted if outcome.prediction else None
    else:
        fields = dict(vars(outcome))
        del fields["file_id"]
        decided |= {"state": REFUSED, **fields}
        predicted = None
    connection.execute(update(incoming_files).where(this).values(**decided))
    return Decision(
        row.path, decided["state"], decided["sha256"], decided["rule"], decided["reason"], predicted, seconds
    )
