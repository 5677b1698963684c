"""What happened that people may want to be told of, and how far each receiver has been told.

A notice is written in one transaction with what happened, where that is in this database. It is told at least once: a
receiver's place is moved when its message is sent. What nobody asked for stays unread.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select, update

from vad_lib.inspection_db.database import InspectionDatabase, insert_or_ignore, utc_now
from vad_lib.inspection_db.schema import notices, told
from vad_lib.notice_rules import Event, NoticeRule
from vad_lib.processes import is_dead

LONGEST_TEXT = 1000
MOST_IN_MESSAGE = 1000
LEASE_SECONDS = 180.0
"""Longer than a message may take to be sent."""
FIRST_DELAY, LONGEST_DELAY = 10.0, 900.0
GIVE_UP_AFTER = timedelta(hours=24)


def record_notice(
    connection: Connection,
    line: str,
    event: Event,
    text: str,
    *,
    subject: str,
    page: str = "",
    now: datetime | None = None,
) -> None:
    """Write down what happened, in the transaction in which it does.

    Args:
        connection: of that transaction.
        line: where.
        event: of which kind.
        text: a sentence for people.
        subject: what it is about: the same event about the same subject is written once.
        page: the path of a page of the service that shows it.
        now: when.
    """
    row = {
        "line": line,
        "event": event,
        "subject": subject[:200],
        "text": text[:LONGEST_TEXT],
        "page": page,
        "created_at": now or utc_now(),
    }
    connection.execute(insert_or_ignore(connection, notices), [row])


@dataclass(frozen=True)
class Notice:
    """Something that happened."""

    notice_id: int
    event: str
    text: str
    page: str
    created_at: datetime


@dataclass(frozen=True)
class Message:
    """What a receiver is to be told at once.

    Attributes:
        line: where it happened.
        receiver: who is told.
        notices: what happened, oldest first; at least one.
        attempts: that failed before.
        waits_since: the first of these failed then; None where none did.
    """

    line: str
    receiver: str
    notices: tuple[Notice, ...]
    attempts: int = 0
    waits_since: datetime | None = None


def due_messages(db: InspectionDatabase, rules: Mapping[tuple[str, str], NoticeRule], worker: str) -> list[Message]:
    """Take what is to be told now; nobody else tells it until the lease runs out or the worker dies.

    Args:
        db: the inspection database.
        rules: by line and receiver. A pair that is new is told of what happens from now on.
        worker: who tells.
    """
    found: list[Message] = []
    with db.reading() as connection:
        known = {(row.line, row.receiver): row for row in connection.execute(select(told))}
        newest = connection.execute(select(func.max(notices.c.notice_id))).scalar() or 0
        now = db.clock(connection)
    if new := sorted(set(rules) - set(known)):
        rows = [{"line": line, "receiver": receiver, "notice_id": newest, "attempts": 0} for line, receiver in new]
        with db.writing() as connection:
            connection.execute(insert_or_ignore(connection, told), rows)
    for (line, receiver), rule in rules.items():
        row = known.get((line, receiver))
        if row is None or (row.next_at is not None and row.next_at > now):
            continue
        if row.leased_by not in (None, worker) and row.leased_until > now and not is_dead(row.leased_by):
            continue
        chosen = (
            select(notices)
            .where(
                notices.c.line == line, notices.c.notice_id > row.notice_id, notices.c.event.in_(sorted(rule.events))
            )
            .order_by(notices.c.notice_id)
            .limit(MOST_IN_MESSAGE)
        )
        with db.writing(durable=False) as connection:
            happened = connection.execute(chosen).all()
            # as it was when it was looked at: another worker may have been quicker
            same = told.c.leased_by.is_(None) if row.leased_by is None else told.c.leased_by == row.leased_by
            this = update(told).where(told.c.line == line, told.c.receiver == receiver, same)
            until = now + timedelta(seconds=LEASE_SECONDS)
            this = this.where(told.c.notice_id == row.notice_id).values(leased_by=worker, leased_until=until)
            if not happened or not connection.execute(this).rowcount:
                continue
        told_of = tuple(Notice(one.notice_id, one.event, one.text, one.page, one.created_at) for one in happened)
        found.append(Message(line, receiver, told_of, row.attempts, row.failing_since))
    return found


def record_told(db: InspectionDatabase, message: Message, error: str, rule: NoticeRule) -> None:
    """Write down what became of a message: sent where there is no error, else to be tried again, or given up."""
    place = told.c.line == message.line, told.c.receiver == message.receiver
    with db.writing() as connection:
        now = db.clock(connection)
        since = message.waits_since or now
        given_up = bool(error) and now - since > GIVE_UP_AFTER
        values: dict[str, object] = {"leased_by": None, "leased_until": None, "error": error[:500] or None}
        if error and not given_up:
            longest = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(message.attempts, 10))
            pause = timedelta(seconds=longest * (0.5 + random.random() / 2))
            values |= {"attempts": message.attempts + 1, "failing_since": since, "next_at": now + pause}
        else:
            values |= {
                "attempts": 0,
                "failing_since": None,
                "notice_id": message.notices[-1].notice_id,
                "next_at": now + timedelta(minutes=rule.digest_minutes),
                **({"given_up": told.c.given_up + len(message.notices)} if given_up else {"sent_at": now}),
            }
        connection.execute(update(told).where(*place).values(values))


def told_counts(db: InspectionDatabase) -> list[tuple[str, str, int, int, bool]]:
    """Return line, receiver, notices that were given up, failed attempts in a row, and whether it fails now."""
    with db.reading() as connection:
        rows = connection.execute(select(told).order_by(told.c.line, told.c.receiver)).all()
    return [(row.line, row.receiver, row.given_up, row.attempts, row.error is not None) for row in rows]
