"""Results sent on, so that a line can act on them: to a web address, or as a file beside the image.

What is to be sent stands in the database before the batch is over (an *outbox*), so a result is sent at least once
whatever dies; the receiver knows a repetition by its id. A landed file has one signal a channel, whichever lane
inspected it, with its result or the reason why it has none.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Row, delete, exists, func, literal, select, update

from vad_lib.inspection.ledger import UNKEPT_RULES
from vad_lib.inspection_db.database import InspectionDatabase, chunks, insert_many, utc_now
from vad_lib.inspection_db.schema import PENDING, UtcDateTime, batches, landings, predictions
from vad_lib.landing.scanning import RESULT_SUFFIX
from vad_lib.scorer.tables import fast_batches, signal_channels, signalled_batches, signals

WEBHOOK, FILE = "webhook", "file"
WAITING, SENT, GIVEN_UP = "waiting", "sent", "given_up"
AT_ONCE = 200
FIRST_DELAY, LONGEST_DELAY = 1.0, 300.0
GIVE_UP_AFTER = timedelta(hours=24)
KEEP_SENT = timedelta(days=7)
TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Channels:
    """Where the results of one line go.

    Attributes:
        webhook_url: results are POSTed here as JSON; empty: nowhere.
        secret: key of the signature; empty: not signed.
        result_files: whether a JSON file is written beside each image.
    """

    webhook_url: str = ""
    secret: str = field(default="", repr=False)
    result_files: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (*((WEBHOOK,) if self.webhook_url else ()), *((FILE,) if self.result_files else ()))


class Outcome(NamedTuple):
    """What became of one attempt. ``only_this``: another signal may do better."""

    state: Literal["sent", "failed"]
    error: str = ""
    only_this: bool = False


def open_channels(db: InspectionDatabase, wanted: Mapping[str, Channels]) -> None:
    """Remember since when results of each line are sent on, and forget channels that are no longer wanted."""
    now = utc_now()
    pairs = {(line, name) for line, channels in wanted.items() for name in channels.names}
    with db.reading() as connection:
        present = {tuple(row) for row in connection.execute(select(signal_channels.c.line, signal_channels.c.channel))}
    if present == pairs:
        return
    with db.writing() as connection:
        for line, name in present - pairs:
            connection.execute(
                delete(signal_channels).where(signal_channels.c.line == line, signal_channels.c.channel == name)
            )
        insert_many(
            connection,
            db.insert_or_ignore(signal_channels),
            [{"line": line, "channel": name, "since": now} for line, name in sorted(pairs - present)],
        )


def note_signals(db: InspectionDatabase, connection: Connection, batch_id: str, channel: str, now: datetime) -> None:
    """Put what a batch has decided into the outbox, inside a transaction; the batch is done with if nothing is left."""
    moment = literal(now, UtcDateTime())
    decided = select(
        landings.c.seq, literal(channel), landings.c.line, literal(WAITING), literal(0), moment, moment
    ).where(
        landings.c.batch_id == batch_id,
        landings.c.state != PENDING,
        # Of a version that is no more nothing can be said; the version that took its place has its own signal.
        landings.c.rule.is_(None) | landings.c.rule.not_in(sorted(UNKEPT_RULES)),
    )
    columns = ["seq", "channel", "line", "state", "attempts", "created_at", "next_try_at"]
    connection.execute(db.insert_or_ignore(signals).from_select(columns, decided))
    left = select(func.count()).select_from(landings)
    left = left.where(landings.c.batch_id == batch_id, landings.c.state == PENDING)
    if not connection.execute(left).scalar_one():
        insert_many(connection, db.insert_or_ignore(signalled_batches), [{"batch_id": batch_id, "channel": channel}])


def note_bulk_signals(db: InspectionDatabase) -> int:
    """Put what the bulk lane has decided into the outbox; return how many of its batches were looked at."""
    statement = (
        select(batches.c.batch_id, signal_channels.c.channel)
        .join(signal_channels, signal_channels.c.line == batches.c.line)
        .where(
            batches.c.created_at >= signal_channels.c.since,
            ~exists().where(
                signalled_batches.c.batch_id == batches.c.batch_id,
                signalled_batches.c.channel == signal_channels.c.channel,
            ),
            ~exists().where(fast_batches.c.batch_id == batches.c.batch_id),
        )
        .limit(AT_ONCE)
    )
    with db.reading() as connection:
        found = connection.execute(statement).all()
    if found:
        with db.writing() as connection:
            now = utc_now()
            for batch_id, channel in found:
                note_signals(db, connection, batch_id, channel, now)
    return len(found)


@dataclass(frozen=True)
class Signal:
    """One result to send on."""

    seq: int
    channel: str
    line: str
    attempts: int
    created_at: datetime
    file: Path
    content: dict[str, Any]
    superseded: bool = False
    """A newer version of the same file has a signal of this channel."""

    @property
    def id(self) -> str:
        """The same in each attempt."""
        return f"{self.line}-{self.seq}"


def due_signals(db: InspectionDatabase, *, blocked: Sequence[tuple[str, str]] = ()) -> list[Signal]:
    """Return signals whose time has come, oldest first, but for the given pairs of line and channel."""
    newer, newer_signals = landings.alias(), signals.alias()
    superseded = exists().where(
        newer.c.line == landings.c.line,
        newer.c.path == landings.c.path,
        newer.c.seq > landings.c.seq,
        newer_signals.c.seq == newer.c.seq,
        newer_signals.c.channel == signals.c.channel,
    )
    statement = (
        select(
            *(signals.c.seq, signals.c.channel, signals.c.line, signals.c.attempts, signals.c.created_at),
            *(landings.c.path, landings.c.sha256, landings.c.rule, landings.c.reason, landings.c.decided_at),
            *(landings.c.state.label("landing_state"), batches.c.folder, superseded.label("superseded")),
        )
        .join(landings, landings.c.seq == signals.c.seq)
        .join(batches, batches.c.batch_id == landings.c.batch_id)
        .where(signals.c.state == WAITING, signals.c.next_try_at <= utc_now())
        .order_by(signals.c.seq)
        .limit(AT_ONCE)
    )
    for line, channel in blocked:
        statement = statement.where(~((signals.c.line == line) & (signals.c.channel == channel)))
    with db.reading() as connection:
        rows = connection.execute(statement).all()
        known = _predictions_of(connection, [(row.line, row.sha256) for row in rows if row.sha256])
    return [
        Signal(
            seq=row.seq,
            channel=row.channel,
            line=row.line,
            attempts=row.attempts,
            created_at=row.created_at,
            file=Path(row.folder) / row.path,
            content=_content(row, known.get((row.line, row.sha256))),
            superseded=bool(row.superseded),
        )
        for row in rows
    ]


def _predictions_of(connection: Connection, contents: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Row[Any]]:
    found: dict[tuple[str, str], Row[Any]] = {}
    for part in chunks(sorted({sha for _, sha in contents})):
        rows = connection.execute(
            select(predictions).where(predictions.c.sha256.in_(part)).order_by(predictions.c.prediction_id)
        )
        found.update(((row.line, row.sha256), row) for row in rows)
    return found


def _content(row: Any, known: Row[Any] | None) -> dict[str, Any]:
    content: dict[str, Any] = {
        "id": f"{row.line}-{row.seq}",
        "line": row.line,
        "image_path": row.path,
        "sha256": row.sha256,
        "state": row.landing_state,
        "rule": row.rule,
        "reason": row.reason,
        "decided_at": row.decided_at.isoformat() if row.decided_at else None,
    }
    for name in (
        *("predicted", "p", "certainty", "raw_score", "inference_threshold"),
        *("threshold", "threshold_version", "model_version", "lane", "prediction_id"),
    ):
        content[name] = getattr(known, name) if known is not None else None
    return content


def settle_signals(db: InspectionDatabase, outcomes: Sequence[tuple[Signal, Outcome]]) -> None:
    """Write down what became of attempts: sent, to be tried again later, or given up."""
    now = utc_now()
    with db.writing() as connection:
        for signal, outcome in outcomes:
            values: dict[str, Any] = {"attempts": signal.attempts + 1, "error": outcome.error[:500] or None}
            if outcome.state == "sent":
                values |= {"state": SENT, "sent_at": now}
            elif now - signal.created_at > GIVE_UP_AFTER:
                values |= {"state": GIVEN_UP}
            else:
                values |= {"next_try_at": now + timedelta(seconds=delay_before(signal.attempts + 1))}
            connection.execute(
                update(signals)
                .where(signals.c.seq == signal.seq, signals.c.channel == signal.channel, signals.c.state == WAITING)
                .values(**values)
            )
        connection.execute(delete(signals).where(signals.c.state == SENT, signals.c.sent_at < now - KEEP_SENT))


def delay_before(attempt: int) -> float:
    """Return seconds to wait before an attempt (1 is the second one): doubling, and spread so that no herd forms."""
    longest = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempt - 1, 20))
    return longest * (0.5 + random.random() / 2)


def signal_counts(db: InspectionDatabase) -> dict[str, int]:
    """Return how many signals wait and were given up."""
    counts = {WAITING: 0, GIVEN_UP: 0}
    with db.reading() as connection:
        rows = connection.execute(
            select(signals.c.state, func.count()).where(signals.c.state != SENT).group_by(signals.c.state)
        )
        counts.update((state, count) for state, count in rows)
    return counts


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return the value of ``X-VAD-Signature``: HMAC-SHA256 over the timestamp, a dot and the body.

    >>> signature("key", "1700000000", b"{}")[:15]
    'sha256=9d713ed4'
    """
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def post_signal(session: Any, channels: Channels, signal: Signal) -> Outcome:
    """POST a signal. Anything but an answer of 2xx is a failure; the address is not changed by redirections."""
    import requests

    body = json.dumps(signal.content, ensure_ascii=False, separators=(",", ":")).encode()
    timestamp = str(int(utc_now().timestamp()))
    headers = {"Content-Type": "application/json", "X-VAD-Id": signal.id, "X-VAD-Timestamp": timestamp}
    if channels.secret:
        headers["X-VAD-Signature"] = signature(channels.secret, timestamp, body)
    try:
        answer = session.post(
            channels.webhook_url.replace("{line}", signal.line),
            data=body,
            headers=headers,
            timeout=TIMEOUT_SECONDS,
            allow_redirects=False,
        )
    except requests.RequestException as error:
        return Outcome("failed", f"{type(error).__name__}: {error}")
    if 200 <= answer.status_code < 300:
        return Outcome("sent")
    refused = 400 <= answer.status_code < 500 and answer.status_code not in (401, 403, 404, 408, 429)
    return Outcome("failed", f"the receiver answered {answer.status_code}", only_this=refused)


def write_result_file(signal: Signal) -> Outcome:
    """Write ``<image>.vad.json`` beside the image, whole or not at all.

    Not for a version of the image that another took the place of: the file is about the image that lies beside it.
    """
    if signal.superseded:
        return Outcome("sent")
    target = signal.file.with_name(signal.file.name + RESULT_SUFFIX)
    # The same in each attempt, so that one that follows a kill clears it away; short, whatever the image is called.
    partial = target.with_name(f".{hashlib.sha256(target.name.encode(errors='replace')).hexdigest()[:16]}.part")
    try:
        try:
            partial.write_text(json.dumps(signal.content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        return Outcome("failed", f"{target}: {error.strerror or error}", only_this=True)
    return Outcome("sent")
