"""Tables that only the resident scorer writes, beside those of the inspection database.

Nothing in the inspection database depends on them: without the scorer they stay empty.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, String, Table, Text

from vad_lib.inspection_db.schema import UtcDateTime, metadata


def _line() -> Column[Any]:
    return Column("line", String(63), nullable=False)


fast_batches = Table(
    "fast_batches",
    metadata,
    Column("batch_id", String(32), ForeignKey("batches.batch_id"), primary_key=True),
    _line(),
    Column("owner", String(128), nullable=False, comment="host:process id:start:nonce of the scorer that has it."),
    Column("expires_at", UtcDateTime, nullable=False, comment="From then on anybody may hand it to the bulk lane."),
    Index(None, "line"),
    comment="Batches in the hands of a resident scorer. A row goes when its batch is decided or handed over.",
)

landing_times = Table(
    "landing_times",
    metadata,
    Column("seq", Integer, ForeignKey("landings.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    _line(),
    Column("landed_at", UtcDateTime, nullable=False, comment="When the file's last change was, or its renaming."),
    Column("taken_at", UtcDateTime, nullable=False, comment="When it was taken up."),
    Column("decided_at", UtcDateTime, comment="When its result or reason was there; empty until then."),
    Index(None, "line", "decided_at"),
    comment="How long a landed file waited, for those that a resident scorer took up.",
)

signal_channels = Table(
    "signal_channels",
    metadata,
    _line(),
    Column("channel", String(16), nullable=False, comment="webhook or file."),
    Column("since", UtcDateTime, nullable=False, comment="Results of landings taken up before are not sent."),
    Index("uq_signal_channels_line_channel", "line", "channel", unique=True),
    comment="Since when results of a line are sent on, and which way.",
)

signals = Table(
    "signals",
    metadata,
    Column("seq", Integer, ForeignKey("landings.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("channel", String(16), primary_key=True),
    _line(),
    Column("state", String(8), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("next_try_at", UtcDateTime, nullable=False),
    Column("sent_at", UtcDateTime),
    Column("error", Text, comment="What the last attempt met."),
    CheckConstraint("state IN ('waiting', 'sent', 'given_up')", name="state"),
    Index(None, "state", "next_try_at"),
    comment="What is to be sent on, and what became of it: written in one transaction with the end of a batch.",
)

signalled_batches = Table(
    "signalled_batches",
    metadata,
    Column("batch_id", String(32), ForeignKey("batches.batch_id"), primary_key=True),
    Column("channel", String(16), primary_key=True),
    comment="Batches whose landings are all decided and in the table signals.",
)
