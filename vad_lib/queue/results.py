"""Finish what was leased: results and reasons of a chunk of one line, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode

from sqlalchemy import Connection, Row, bindparam, delete, select, update

from vad_lib.images.decoding import DecodedImage
from vad_lib.ingest import FileVersion
from vad_lib.inspection_db.database import InspectionDatabase, insert_many
from vad_lib.inspection_db.monitoring import count_images
from vad_lib.inspection_db.notices import record_notice
from vad_lib.inspection_db.schema import (
    DONE,
    DUPLICATE,
    PENDING,
    REFUSED,
    SUPERSEDED_RULES,
    images,
    incoming_files,
    predictions,
)
from vad_lib.monitoring import Monitor, Values
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
    observed: Mapping[str, Values] | None = None
    """What the image adds to the line's charts."""


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
    monitor: Monitor | None = None,
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
        monitor: advances the line's charts by what new predictions say.

    Returns:
        What was decided.
    """
    with db.writing(line=line, durable=not all(isinstance(each, Later) for each in outcomes)) as connection:
        now = db.clock(connection)
        by_id = {each.file_id: each for each in outcomes}
        own = incoming_files.c.file_id.in_(list(by_id)), incoming_files.c.leased_by == worker
        held = select(incoming_files).where(*own, incoming_files.c.state == PENDING)
        rows = connection.execute(held.order_by(incoming_files.c.file_id).with_for_update()).all()
        outcomes = [by_id[row.file_id] for row in rows]
        done = [(row, each) for row, each in zip(rows, outcomes, strict=True) if isinstance(each, Done)]
        owners = _note_images(db, connection, line, done, now)
        settled = [_unless_duplicate(row, each, owners) for row, each in zip(rows, outcomes, strict=True)]
        new = [each for each in settled if isinstance(each, Done)]
        unseen = _not_predicted(connection, line, new) if monitor else []
        _insert_predictions(db, connection, line, new, source, run_id, now)
        if monitor and unseen:
            version = unseen[0].prediction.model_version  # type: ignore[union-attr]
            count_images(connection, line, version, monitor, [each.observed or {} for each in unseen], now)
        _settle(connection, rows, settled, run_id, now)
        _tell(connection, line, rows, settled, now)
        notify(db, connection, line, incoming_files.c.file_id.in_([row.file_id for row in rows]), now)
    return [_decision(row, each, now) for row, each in zip(rows, settled, strict=True) if not isinstance(each, Later)]


def _tell(
    connection: Connection, line: str, rows: Sequence[Row[Any]], outcomes: Sequence[Outcome], now: datetime
) -> None:
    """Write a notice of each part that was found NG, and of each file that was refused."""
    for row, outcome in zip(rows, outcomes, strict=True):
        page = f"/lines/{line}/results?{urlencode({'text': row.path.rpartition('/')[2]})}"
        if isinstance(outcome, Done) and outcome.prediction is not None and outcome.prediction.predicted == "NG":
            found = outcome.prediction
            text = f"{row.path} is NG (p {found.p:.3f}, by {found.model_version})."
            subject = f"{found.sha256} {found.model_version}"
            record_notice(connection, line, "ng", text, subject=subject, page=page, now=now)
        elif isinstance(outcome, Refused) and outcome.rule not in (DUPLICATE, *SUPERSEDED_RULES):
            text = f"{row.path} was refused: {outcome.reason}"
            record_notice(connection, line, "refused", text, subject=str(row.file_id), page=page, now=now)


def record_predictions(
    db: InspectionDatabase, line: str, done: Sequence[Done], *, source: str, run_id: str | None = None
) -> None:
    """Write down predictions of files that did not arrive in the watch folder, such as the rows of a table."""
    with db.writing(line=line) as connection:
        now = db.clock(connection)
        insert_many(connection, db.insert_or_ignore(images), [_image_row(line, each, None, now) for each in done])
        _insert_predictions(db, connection, line, done, source, run_id, now)


def duplicate(file_id: int, sha256: str, owner_path: str) -> Refused:
    """Return the refusal of a file whose content another path owns."""
    reason = f"the same content as {owner_path}, which was registered first"
    note = f"not copied: {owner_path} holds the same"
    return Refused(file_id, DUPLICATE, reason, sha256, duplicate_of=owner_path, quarantine_note=note)


def _image_row(line: str, done: Done, row: Row[Any] | None, now: datetime) -> dict[str, Any]:
    image = done.image
    return {
        "line": line,
        "sha256": image.sha256,
        "first_file": done.prediction.path if done.prediction else "",
        "owner_path": row.path if row else None,
        "size": row.size if row else None,
        "width": image.width,
        "height": image.height,
        "channels": image.channels,
        "first_seen": now,
    }


def _note_images(
    db: InspectionDatabase, connection: Connection, line: str, done: Sequence[tuple[Row[Any], Done]], now: datetime
) -> dict[str, str]:
    """Note contents; return the path that owns each: the first that held it, in order of registration."""
    if not done:
        return {}
    insert_many(
        connection,
        db.insert_or_ignore(images),
        [_image_row(line, each, row, now) for row, each in done],
    )
    noted = select(images.c.sha256, images.c.owner_path).where(
        images.c.line == line, images.c.sha256.in_({each.image.sha256 for _, each in done})
    )
    owners = {row.sha256: row.owner_path for row in connection.execute(noted)}
    # Known from the row of a table only: the first that arrives with it owns it from now on.
    free = {each.image.sha256: row for row, each in reversed(done) if owners[each.image.sha256] is None}
    if free:
        this = (images.c.line == line) & (images.c.sha256 == bindparam("content"))
        connection.execute(
            update(images).where(this).values(owner_path=bindparam("owner"), size=bindparam("bytes")),
            [{"content": sha, "owner": row.path, "bytes": row.size} for sha, row in free.items()],
        )
    return owners | {sha: row.path for sha, row in free.items()}


def _unless_duplicate(row: Row[Any], outcome: Outcome, owners: Mapping[str, str]) -> Outcome:
    if not isinstance(outcome, Done) or owners[outcome.image.sha256] == row.path:
        return outcome
    return duplicate(row.file_id, outcome.image.sha256, owners[outcome.image.sha256])


def _insert_predictions(
    db: InspectionDatabase,
    connection: Connection,
    line: str,
    done: Sequence[Done],
    source: str,
    run_id: str | None,
    now: datetime,
) -> None:
    common = {"line": line, "source": source, "run_id": run_id, "created_at": now}
    new = [{**vars(each.prediction), **common} for each in done if each.prediction is not None]
    insert_many(connection, db.insert_or_ignore(predictions), new)


def _not_predicted(connection: Connection, line: str, done: Sequence[Done]) -> list[Done]:
    """Return those whose prediction is not recorded yet, each content once: they are counted."""
    new = {each.prediction.sha256: each for each in reversed(done) if each.prediction is not None}
    if not new:
        return []
    (version,) = {each.prediction.model_version for each in done if each.prediction is not None}
    known = select(predictions.c.sha256).where(
        predictions.c.line == line, predictions.c.model_version == version, predictions.c.sha256.in_(new)
    )
    recorded = set(connection.execute(known).scalars())
    return [each for sha, each in reversed(new.items()) if sha not in recorded]


def _settle(
    connection: Connection, rows: Sequence[Row[Any]], outcomes: Sequence[Outcome], run_id: str | None, now: datetime
) -> None:
    decided, later, unchanged = [], [], []
    for row, outcome in zip(rows, outcomes, strict=True):
        if isinstance(outcome, Unchanged):
            unchanged.append(outcome)
        elif isinstance(outcome, Later):
            again = {"leased_until": now + timedelta(seconds=outcome.seconds), "reason": outcome.reason}
            later.append({"this": row.file_id, "deliveries": row.deliveries + outcome.blamed, **again})
        else:
            decided.append({"this": row.file_id, **_decided_columns(outcome)})
    if unchanged:
        # The earlier row takes the version over. Where it is gone too, the file is registered anew.
        gone = incoming_files.c.file_id.in_([each.file_id for each in unchanged])
        connection.execute(delete(incoming_files).where(gone))
    this = update(incoming_files).where(incoming_files.c.file_id == bindparam("this"))

    def change(changes: Sequence[Mapping[str, Any]], **common: Any) -> None:
        if changes:
            named: dict[str, Any] = {name: bindparam(name) for name in changes[0] if name != "this"}
            connection.execute(this.values(**common, **named), changes)

    change(decided, leased_by=None, leased_until=None, decided_at=now, run_id=run_id)
    change(later, leased_by=None)
    change([{"this": each.earlier_id, **each.version._asdict()} for each in unchanged])


def _decided_columns(outcome: Done | Refused) -> dict[str, Any]:
    columns = dict.fromkeys(("sha256", "rule", "reason", "duplicate_of", "quarantine_file", "quarantine_note"))
    if isinstance(outcome, Done):
        return {**columns, "state": DONE, "sha256": outcome.image.sha256}
    return {**{name: getattr(outcome, name) for name in columns}, "state": REFUSED}


def _decision(row: Row[Any], outcome: Done | Refused | Unchanged, now: datetime) -> Decision:
    seconds = max(0.0, (now - row.arrived_at).total_seconds())
    if isinstance(outcome, Unchanged):
        return Decision(row.path, "unchanged", None, None, None, None, seconds)
    columns = _decided_columns(outcome)
    predicted = outcome.prediction.predicted if isinstance(outcome, Done) and outcome.prediction else None
    return Decision(
        row.path, columns["state"], columns["sha256"], columns["rule"], columns["reason"], predicted, seconds
    )
