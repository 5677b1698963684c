"""Who changed what, and why: one table that only grows."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from sqlalchemy import Connection, desc, insert, select

from vad_lib.errors import InputError
from vad_lib.inspection_db.database import InspectionDatabase, utc_now
from vad_lib.inspection_db.schema import audit

VIEWER, REVIEWER, APPROVER = "viewer", "reviewer", "approver"
ROLES = (VIEWER, REVIEWER, APPROVER)
"""Each may do what those before it may."""
LONGEST_NAME = 128
LONGEST_NOTE = 2000


@dataclass(frozen=True)
class Actor:
    """Somebody who changes something.

    Attributes:
        person: the name.
        role: by which the person was let in; empty: a command on this machine.

    Raises:
        InputError: there is no name.
    """

    person: str
    role: str = ""

    def __post_init__(self) -> None:
        name = " ".join(self.person.split())[:LONGEST_NAME]
        if not name:
            raise InputError("Say who you are: nothing is changed without a name.")
        object.__setattr__(self, "person", name)


def record_change(
    connection: Connection,
    by: Actor,
    action: str,
    *,
    subject: str,
    line: str | None = None,
    reason: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write down a change, in the transaction that makes it.

    Args:
        connection: of that transaction.
        by: who makes it.
        action: what is done, in one or two words.
        subject: what is changed.
        line: whose it is.
        reason: why, as the person says it.
        details: values before and after.
    """
    row = {
        "line": line,
        "person": by.person,
        "role": by.role or None,
        "action": action,
        "subject": subject,
        "reason": (reason or "").strip()[:LONGEST_NOTE] or None,
        "details": json.dumps(details, sort_keys=True, default=str) if details else None,
        "created_at": utc_now(),
    }
    connection.execute(insert(audit).values(row))


def newest_changes(
    db: InspectionDatabase,
    line: str | None = None,
    *,
    before_id: int | None = None,
    person: str = "",
    actions: Collection[str] = (),
    limit: int = 100,
) -> pd.DataFrame:
    """Return changes, newest first: the columns of the table ``audit``.

    Args:
        db: holds them.
        line: those that concern it; None: all.
        before_id: only what was written before this number, for the next page.
        person: only by this one; empty: by all.
        actions: only these; empty: all.
        limit: at most so many.
    """
    chosen = select(audit).order_by(desc(audit.c.audit_id)).limit(limit)
    if line is not None:
        chosen = chosen.where(audit.c.line == line)
    if person:
        chosen = chosen.where(audit.c.person == person)
    if actions:
        chosen = chosen.where(audit.c.action.in_(sorted(actions)))
    if before_id is not None:
        chosen = chosen.where(audit.c.audit_id < before_id)
    return db.table(chosen)
