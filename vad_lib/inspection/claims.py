"""Who scores which content: a claim is a row with a unique key, taken before scoring and gone with the result.

A claim that nobody answers for is taken over: at once where its process is known to be dead (same machine), else when
it has run out. The prediction's own unique key is what makes a result unique; a claim only saves work.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, delete, select, tuple_

from vad_lib.inspection_db.database import InspectionDatabase, chunks, insert_many
from vad_lib.inspection_db.schema import claims, predictions

LEASE = timedelta(minutes=5)
"""Far longer than scoring a chunk takes; renewed with each chunk."""


def new_owner() -> str:
    """Name this process as an owner of claims: place, process id, its start, and a nonce."""
    pid = os.getpid()
    return f"{_place()}:{pid}:{_start_of(pid)}:{secrets.token_hex(4)}"


def is_dead(owner: str) -> bool:
    """Whether the owner is certainly no more; False where that cannot be known."""
    place, pid, start, _ = owner.split(":")
    if place != _place() or not start:
        return False
    now = _start_of(int(pid))
    return bool(now) and now != start


def claim(
    db: InspectionDatabase,
    connection: Connection,
    *,
    line: str,
    model_version: str,
    contents: Sequence[str],
    owner: str,
    now: datetime,
) -> tuple[set[str], set[str]]:
    """Claim contents for scoring, inside a transaction that writes.

    Returns:
        Those that are this owner's to score now, and those that have a prediction already. Any other is being scored
        by somebody else.
    """
    recorded = recorded_contents(connection, line, model_version, contents)
    wanted = [sha for sha in dict.fromkeys(contents) if sha not in recorded]
    mine: set[str] = set()
    # What nobody came back for, such as content that was given up.
    connection.execute(delete(claims).where(claims.c.line == line, claims.c.expires_at <= now))
    for part in chunks(wanted):
        held = connection.execute(
            select(claims.c.sha256, claims.c.owner, claims.c.expires_at).where(
                claims.c.line == line, claims.c.model_version == model_version, claims.c.sha256.in_(part)
            )
        ).all()
        stale = [
            (row.sha256, row.owner) for row in held if row.owner == owner or row.expires_at <= now or is_dead(row.owner)
        ]
        if stale:
            connection.execute(
                delete(claims).where(
                    claims.c.line == line,
                    claims.c.model_version == model_version,
                    tuple_(claims.c.sha256, claims.c.owner).in_(stale),
                )
            )
        insert_many(
            connection,
            db.insert_or_ignore(claims),
            [
                {"line": line, "sha256": sha, "model_version": model_version, "owner": owner, "expires_at": now + LEASE}
                for sha in part
            ],
        )
        mine.update(
            connection.execute(
                select(claims.c.sha256).where(
                    claims.c.line == line,
                    claims.c.model_version == model_version,
                    claims.c.owner == owner,
                    claims.c.sha256.in_(part),
                )
            ).scalars()
        )
    return mine, recorded


def claimed_elsewhere(
    connection: Connection,
    *,
    line: str,
    model_version: str,
    contents: Sequence[str],
    owner: str,
    now: datetime,
) -> set[str]:
    """Return those contents that a living other owner has claimed."""
    held: set[str] = set()
    for part in chunks(list(contents)):
        rows = connection.execute(
            select(claims.c.sha256, claims.c.owner, claims.c.expires_at).where(
                claims.c.line == line, claims.c.model_version == model_version, claims.c.sha256.in_(part)
            )
        )
        held.update(
            row.sha256 for row in rows if row.owner != owner and row.expires_at > now and not is_dead(row.owner)
        )
    return held


def release(connection: Connection, *, line: str, model_version: str, contents: Collection[str], owner: str) -> None:
    """Give claims back."""
    for part in chunks(sorted(contents)):
        connection.execute(
            delete(claims).where(
                claims.c.line == line,
                claims.c.model_version == model_version,
                claims.c.owner == owner,
                claims.c.sha256.in_(part),
            )
        )


def recorded_contents(connection: Connection, line: str, model_version: str, contents: Sequence[str]) -> set[str]:
    """Return those contents that have a prediction of this model version."""
    found: set[str] = set()
    for part in chunks(list(contents)):
        found.update(
            connection.execute(
                select(predictions.c.sha256).where(
                    predictions.c.line == line,
                    predictions.c.model_version == model_version,
                    predictions.c.sha256.in_(part),
                )
            ).scalars()
        )
    return found


def _place() -> str:
    """Where process ids mean the same: one machine since its last start, one container."""
    parts = [platform.node()]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(file) if file.endswith("pid") else Path(file).read_text())
        except OSError:
            parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _start_of(pid: int) -> str:
    """When a process started, in clock ticks; 'gone' if there is none; empty where the system does not say."""
    if not Path("/proc/self/stat").exists():
        return ""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    except OSError:
        return ""
    # The command's name stands in parentheses and may hold spaces; field 22 of the whole is the start, field 3 the
    # state: a zombie is dead.
    fields = stat.rpartition(")")[2].split()
    return "gone" if fields[0] in ("Z", "X") else fields[19]
