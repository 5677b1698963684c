"""The tables of the inspection database, in SQLAlchemy Core. Nothing here opens a connection.

An image is identified by the sha256 of its bytes and found by a path; a *landing* is one version of one file in a
landing folder. Paths of landings are relative to that folder, so that moving the folder loses nothing.

The states of a landing are ``pending`` (part of a batch that has not decided it yet), ``done`` (it has a prediction)
and ``refused`` (it has a reason). What is in no row has not been taken up yet.

Constraint names follow one convention, so that a migration can name what it changes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

PENDING = "pending"
DONE = "done"
REFUSED = "refused"

OPEN = "open"
CLOSED = "closed"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC, stored without its zone (SQLite has none)."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("give times with their zone, such as datetime.now(UTC)")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _line() -> Column[Any]:
    return Column("line", String(63), nullable=False)


schema_version = Table(
    "schema_version",
    metadata,
    Column("only_row", Integer, primary_key=True, comment="Always 1."),
    Column("version", Integer, nullable=False),
    comment="Which version of these tables the database holds.",
)
"""Read only by software that is older than the revisions: it sees here that it is too old."""

batches = Table(
    "batches",
    metadata,
    Column("batch_id", String(32), primary_key=True, comment="Digest of the line and of the landings in it."),
    _line(),
    Column("folder", Text, nullable=False, comment="The landing folder, absolute, when the batch was formed."),
    Column("state", String(8), nullable=False),
    Column("attempt", Integer, nullable=False, comment="How many runs were asked for, from 1."),
    Column("generation", Integer, nullable=False, comment="How many times it was halved."),
    Column("parent_id", String(32), ForeignKey("batches.batch_id"), comment="The batch that it is a half of."),
    Column("created_at", UtcDateTime, nullable=False),
    Column("requested_at", UtcDateTime, nullable=False, comment="When the present attempt was asked for."),
    Column("closed_at", UtcDateTime),
    Column("note", Text, comment="Why it was closed, where that is not simply 'finished'."),
    CheckConstraint("state IN ('open', 'closed')", name="state"),
    Index(None, "line", "state"),
    comment="Landed files that one run inspects together.",
)

landings = Table(
    "landings",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True, comment="In order of being taken up."),
    _line(),
    Column("path", Text, nullable=False, comment="Relative to the landing folder, with '/'."),
    Column("size", BigInteger, nullable=False, comment="Bytes."),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
    Column("batch_id", String(32), ForeignKey("batches.batch_id"), comment="Empty for a file refused by its name."),
    Column("sha256", String(64), comment="Once it was read."),
    Column("begun", Integer, nullable=False, comment="Inspections that began with it and died; 0 once decided."),
    Column("begun_alone", Integer, nullable=False, comment="The same, where it was the only one in hand."),
    Column("first_seen", UtcDateTime, nullable=False),
    Column("decided_at", UtcDateTime),
    Column("rule", String(64), comment="Why it was refused: stable name."),
    Column("reason", Text, comment="Why it was refused, for people."),
    UniqueConstraint("line", "path", "size", "mtime_ns"),
    CheckConstraint("state IN ('pending', 'done', 'refused')", name="state"),
    CheckConstraint("state <> 'refused' OR (reason IS NOT NULL AND rule IS NOT NULL)", name="refused_has_reason"),
    CheckConstraint("state <> 'pending' OR batch_id IS NOT NULL", name="pending_has_batch"),
    CheckConstraint("state <> 'done' OR sha256 IS NOT NULL", name="done_has_content"),
    Index(None, "batch_id", "state"),
    Index(None, "line", "state"),
    comment="Each version (size and modification time) of each file that landed.",
    sqlite_autoincrement=True,
)

images = Table(
    "images",
    metadata,
    Column("line", String(63), primary_key=True),
    Column("sha256", String(64), primary_key=True, comment="Of the file's bytes."),
    Column("first_path", Text, nullable=False, comment="Absolute path at which it was first read."),
    Column("landed_path", Text, comment="Relative path of the landing that owns this content; others are duplicates."),
    Column("width", Integer, nullable=False, comment="Pixels, upright."),
    Column("height", Integer, nullable=False, comment="Pixels, upright."),
    Column("channels", Integer, nullable=False),
    Column("first_seen", UtcDateTime, nullable=False),
    comment="Each image content that could be read.",
)

claims = Table(
    "claims",
    metadata,
    Column("line", String(63), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("model_version", String(64), primary_key=True),
    Column("owner", String(128), nullable=False, comment="host:process id:start:nonce"),
    Column("expires_at", UtcDateTime, nullable=False),
    comment="Who scores which content just now. A row goes when its prediction is recorded.",
)

predictions = Table(
    "predictions",
    metadata,
    Column("prediction_id", Integer, primary_key=True, autoincrement=True, comment="In order of being recorded."),
    _line(),
    Column("sha256", String(64), nullable=False),
    Column("model_version", String(64), nullable=False),
    Column("path", Text, nullable=False, comment="Absolute path of the file that was scored."),
    Column("raw_score", Float(53), nullable=False),
    Column("p", Float(53), nullable=False, comment="Calibrated score; 0.5 exactly at the trained threshold."),
    Column("certainty", Float(53), nullable=False),
    Column("predicted", String(8), nullable=False, comment="As decided when it was scored."),
    Column("threshold", Float(53), nullable=False, comment="On the raw score."),
    Column("threshold_version", String(64), nullable=False),
    Column("inference_threshold", Float(53), nullable=False, comment="On p."),
    Column("lane", String(16), nullable=False, comment="run, fast or folder."),
    Column("batch_id", String(32), ForeignKey("batches.batch_id")),
    Column("run_id", String(64), comment="The Dagster run, where there is one."),
    Column("seconds", Float, comment="Time spent on scoring, shared equally among the images scored together."),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("line", "sha256", "model_version"),
    CheckConstraint("predicted IN ('OK', 'NG')", name="predicted"),
    Index(None, "line", "prediction_id"),
    Index(None, "batch_id"),
    comment="One row an image content and model version, never changed afterwards.",
    sqlite_autoincrement=True,
)

kept_aside = Table(
    "kept_aside",
    metadata,
    Column("kept_id", Integer, primary_key=True, autoincrement=True),
    _line(),
    Column("path", Text, nullable=False, comment="As landed, or absolute for a file that did not land."),
    Column("sha256", String(64)),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("rule", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("batch_id", String(32), ForeignKey("batches.batch_id")),
    Column("run_id", String(64)),
    Column("kept_file", Text, comment="The hard link or copy; empty where none could or should be made."),
    Column("kept_note", Text, comment="Why there is no kept file."),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("line", "path", "size", "mtime_ns"),
    Index(None, "batch_id"),
    comment="Inputs that were refused, each once, with the reason.",
    sqlite_autoincrement=True,
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("verdict_id", Integer, primary_key=True, autoincrement=True, comment="In order of being given."),
    Column("prediction_id", Integer, ForeignKey("predictions.prediction_id"), nullable=False),
    Column("verdict", String(8), nullable=False, comment="What the part is, as a person sees it."),
    Column("person", String(128), nullable=False),
    Column("note", Text),
    Column("created_at", UtcDateTime, nullable=False),
    CheckConstraint("verdict IN ('OK', 'NG')", name="verdict"),
    Index(None, "prediction_id"),
    comment="What people said about predictions. The last verdict on an image holds; those before it stay.",
    sqlite_autoincrement=True,
)
