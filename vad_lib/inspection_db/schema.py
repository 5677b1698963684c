"""The tables of the inspection database, in SQLAlchemy Core. Nothing here opens a connection.

An image is identified by the sha256 of its bytes. A row of ``incoming_files`` is one version of one file in a watch
folder, and at the same time its place in the queue:

==============================  ==============================================================================
state                           meaning
==============================  ==============================================================================
pending, ``leased_by`` empty    waits for a worker; not before ``leased_until``, where that is set
pending, ``leased_by`` set      a worker has it until ``leased_until``; then it is offered again
done                            it has a prediction
refused                         it has a rule and a reason
==============================  ==============================================================================

What is in no row has not been registered yet. Paths of incoming files are relative to the watch folder, so that moving
the folder loses nothing. Constraint names follow one convention, so that a migration can name what it changes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
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
    text,
)

PENDING = "pending"
DONE = "done"
REFUSED = "refused"

WAITING, FAILED = "waiting", "failed"
"""States of a description, beside ``DONE``."""

ONLINE, BATCH = "online", "batch"
"""Sources of a prediction: the inference service, or a run of Dagster."""

WITHDRAWN = "withdrawn"
"""Stands in the place of a label where a person takes back what was said about an image."""

UNSURE = "unsure"
"""Stands in the place of a label where a person looked and cannot say what the part is."""

VANISHED, CHANGED, DUPLICATE = "vanished", "changed", "duplicate"
UNREADABLE, POISON, DETECTOR_FAILED = "unreadable_image", "poison_image", "detector_failed"
"""Rules by which a file is refused after somebody tried to read it. ``vad_lib.ingest.scan`` has those by name."""
SUPERSEDED_RULES = frozenset({VANISHED, CHANGED})
"""Refusals of a version of a file that is no more: there is nothing to keep and nobody to notify."""


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

NUMBER = BigInteger().with_variant(Integer, "sqlite")
"""Of rows: SQLite numbers by itself only what it calls an integer, and that has 64 bits."""
_PENDING, _LEASED = text("state = 'pending'"), text("leased_by IS NOT NULL")
_REFUSED = text("state = 'refused'")
_WAITING = text("state = 'waiting'")
_UNSURE = text("label = 'unsure'")
_NOT_COPIED = text("rule = 'not_an_image' AND quarantine_file IS NULL AND quarantine_note IS NULL")


def _line() -> Column[Any]:
    return Column("line", String(63), nullable=False)


def _of_reply() -> tuple[Column[Any], ...]:
    """Return what is kept about who replied, and at what cost."""
    return (
        Column("model", String(200), comment="As the endpoint calls it."),
        Column("endpoint", Text, comment="Its address."),
        Column("left_machine", Boolean, comment="Whether pictures went to an endpoint that is not on this machine."),
        Column("prompt_tokens", Integer, comment="Of all attempts together, as the endpoint counts them."),
        Column("completion_tokens", Integer, comment="Of all attempts together, as the endpoint counts them."),
        Column("seconds", Float, comment="Of the last attempt."),
    )


incoming_files = Table(
    "incoming_files",
    metadata,
    Column("file_id", NUMBER, primary_key=True, autoincrement=True, comment="In order of being registered."),
    _line(),
    Column("folder", Text, nullable=False, comment="The watch folder, absolute, when the file was registered."),
    Column("path", Text, nullable=False, comment="Relative to the watch folder, with '/'."),
    Column("size", BigInteger, nullable=False, comment="Bytes."),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("inode", BigInteger, nullable=False),
    Column("ctime_ns", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
    Column("leased_by", String(160), comment="The worker that has it in hand."),
    Column("leased_until", UtcDateTime, comment="Nobody else takes it before."),
    Column("deliveries", Integer, nullable=False, comment="How many workers took it and did not finish it."),
    Column("sha256", String(64), comment="Once it was read."),
    Column("rule", String(64), comment="Why it was refused: stable name."),
    Column("reason", Text, comment="Why it was refused, for people; of a pending file, what the last attempt met."),
    Column("duplicate_of", Text, comment="Path of the file that holds the same content."),
    Column("quarantine_file", Text, comment="The copy of a refused file; empty where none could or should be made."),
    Column("quarantine_note", Text, comment="Why there is no copy."),
    Column("run_id", String(64), comment="The Dagster run that decided it, where there was one."),
    Column("arrived_at", UtcDateTime, nullable=False, comment="The last change or renaming of the file."),
    Column("registered_at", UtcDateTime, nullable=False),
    Column("decided_at", UtcDateTime),
    UniqueConstraint("line", "path", "size", "mtime_ns", "inode", "ctime_ns"),
    CheckConstraint("state IN ('pending', 'done', 'refused')", name="state"),
    CheckConstraint("state <> 'refused' OR (reason IS NOT NULL AND rule IS NOT NULL)", name="refused_has_reason"),
    CheckConstraint("state <> 'done' OR sha256 IS NOT NULL", name="done_has_content"),
    CheckConstraint("state = 'pending' OR leased_by IS NULL", name="only_pending_is_leased"),
    CheckConstraint("(state = 'pending') = (decided_at IS NULL)", name="decided_says_when"),
    Index("ix_incoming_files_queue", "line", "deliveries", "file_id", sqlite_where=_PENDING, postgresql_where=_PENDING),
    Index("ix_incoming_files_refused", "line", "file_id", sqlite_where=_REFUSED, postgresql_where=_REFUSED),
    Index("ix_incoming_files_leases", "leased_by", sqlite_where=_LEASED, postgresql_where=_LEASED),
    Index("ix_incoming_files_not_copied", "line", sqlite_where=_NOT_COPIED, postgresql_where=_NOT_COPIED),
    Index("ix_incoming_files_versions", "line", "path", "file_id"),
    Index("ix_incoming_files_decided", "line", "decided_at"),
    Index("ix_incoming_files_content", "line", "sha256"),
    Index(None, "run_id"),
    comment="Each version of each file that arrived in a watch folder, and its place in the queue.",
    sqlite_autoincrement=True,
)

images = Table(
    "images",
    metadata,
    Column("line", String(63), primary_key=True),
    Column("sha256", String(64), primary_key=True, comment="Of the file's bytes."),
    Column("first_file", Text, nullable=False, comment="Absolute path at which it was first read."),
    Column("owner_path", Text, comment="Relative path of the incoming file that owns this content."),
    Column("size", BigInteger, comment="Bytes, where an incoming file owns it."),
    Column("width", Integer, nullable=False, comment="Pixels, upright."),
    Column("height", Integer, nullable=False, comment="Pixels, upright."),
    Column("channels", Integer, nullable=False),
    Column("first_seen", UtcDateTime, nullable=False),
    comment="Each image content that could be read. The same content under another path is a duplicate.",
)

predictions = Table(
    "predictions",
    metadata,
    Column("prediction_id", NUMBER, primary_key=True, autoincrement=True, comment="In each line, in order of time."),
    _line(),
    Column("sha256", String(64), nullable=False),
    Column("model_version", String(64), nullable=False),
    Column("path", Text, nullable=False, comment="Absolute path of the file that was scored."),
    Column("raw_score", Float(53), nullable=False, comment="The anomaly score."),
    Column("p", Float(53), nullable=False, comment="Calibrated score; 0.5 exactly at the trained threshold."),
    Column("certainty", Float(53), nullable=False, comment="The confidence: 1 - H2(p)."),
    Column("predicted", String(8), nullable=False, comment="As decided when it was scored."),
    Column("threshold", Float(53), nullable=False, comment="On the anomaly score."),
    Column("threshold_version", String(64), nullable=False),
    Column("inference_threshold", Float(53), nullable=False, comment="On p."),
    Column("source", String(8), nullable=False, comment="online (the inference service) or batch (a run)."),
    Column("run_id", String(64), comment="The Dagster run, where there is one."),
    Column("seconds", Float, comment="Time spent on scoring, shared equally among the images scored together."),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("line", "sha256", "model_version"),
    CheckConstraint("predicted IN ('OK', 'NG')", name="predicted"),
    CheckConstraint("source IN ('online', 'batch')", name="source"),
    Index(None, "line", "prediction_id"),
    Index(None, "line", "predicted", "prediction_id"),
    Index(None, "line", "p", "prediction_id"),
    Index(None, "line", "model_version", "prediction_id"),
    Index(None, "run_id"),
    comment="One row an image content and model version, never changed afterwards.",
    sqlite_autoincrement=True,
)

labels = Table(
    "labels",
    metadata,
    Column("label_id", NUMBER, primary_key=True, autoincrement=True, comment="In order of being given."),
    Column("prediction_id", NUMBER, ForeignKey("predictions.prediction_id"), nullable=False),
    Column("label", String(9), nullable=False, comment="What the part is, as a person sees it; or unsure, withdrawn."),
    Column("kind", String(100), comment="Of an NG: the kind of defect."),
    Column("boxes", Text, comment="Of an NG: where defects are. JSON: a list of [left, top, right, bottom] in pixels."),
    Column("person", String(128), nullable=False),
    Column("note", Text),
    Column("key", String(64), comment="Of the page that sent it: what is sent twice is written once."),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("key"),
    CheckConstraint("label IN ('OK', 'NG', 'unsure', 'withdrawn')", name="label"),
    CheckConstraint("label = 'NG' OR (kind IS NULL AND boxes IS NULL)", name="only_ng_has_a_kind"),
    Index(None, "prediction_id"),
    Index(None, "created_at"),
    Index("ix_labels_unsure", "prediction_id", sqlite_where=_UNSURE, postgresql_where=_UNSURE),
    comment="What people said about predictions. The last label of an image holds, unless it says that those before it "
    "are withdrawn or that nobody can tell; all of them stay.",
    sqlite_autoincrement=True,
)

reviews = Table(
    "reviews",
    metadata,
    Column("line", String(63), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("person", String(128), nullable=False, comment="Who has it on the screen."),
    Column("leased_until", UtcDateTime, nullable=False, comment="Nobody else gets it before."),
    comment="Images that people are looking at in the review, so that two never get the same one.",
)

paused_lines = Table(
    "paused_lines",
    metadata,
    Column("line", String(63), primary_key=True),
    Column("person", String(128), nullable=False),
    Column("reason", Text, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    comment="Lines whose images wait until somebody resumes them.",
)

audit = Table(
    "audit",
    metadata,
    Column("audit_id", NUMBER, primary_key=True, autoincrement=True, comment="In order of time."),
    Column("line", String(63), comment="Empty: it concerns no line, or all."),
    Column("person", String(128), nullable=False),
    Column("role", String(16), comment="By which the person was let in; empty: a command on this machine."),
    Column("action", String(32), nullable=False),
    Column("subject", Text, nullable=False, comment="What was changed: a prediction, a model version."),
    Column("reason", Text),
    Column("details", Text, comment="JSON."),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "line", "audit_id"),
    comment="Who changed what, and why. Written in one transaction with the change where that is in this database.",
    sqlite_autoincrement=True,
)

shadow_predictions = Table(
    "shadow_predictions",
    metadata,
    Column("shadow_id", NUMBER, primary_key=True, autoincrement=True, comment="In order of being scored."),
    _line(),
    Column("sha256", String(64), nullable=False),
    Column("model_version", String(64), nullable=False, comment="That did not serve."),
    Column(
        "prediction_id",
        NUMBER,
        ForeignKey("predictions.prediction_id"),
        nullable=False,
        comment="Of the version that served, on the same image.",
    ),
    Column("sampled", Boolean, nullable=False, comment="It is of the random share; else a person had judged it."),
    Column("raw_score", Float(53), nullable=False, comment="The anomaly score."),
    Column("p", Float(53), nullable=False, comment="Calibrated score; 0.5 exactly at the trained threshold."),
    Column("predicted", String(8), nullable=False, comment="What it would have decided."),
    Column("threshold", Float(53), nullable=False, comment="On the anomaly score."),
    Column("seconds", Float, nullable=False, comment="Time spent on scoring."),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("line", "sha256", "model_version"),
    CheckConstraint("predicted IN ('OK', 'NG')", name="predicted"),
    Index(None, "line", "model_version", "prediction_id"),
    Index(None, "prediction_id"),
    comment="What a version that does not serve says about images that another version has decided. Nothing is decided "
    "by it. Rows are added, never changed.",
    sqlite_autoincrement=True,
)

descriptions = Table(
    "descriptions",
    metadata,
    Column("description_id", NUMBER, primary_key=True, autoincrement=True, comment="In order of being asked for."),
    _line(),
    Column("prediction_id", NUMBER, ForeignKey("predictions.prediction_id"), nullable=False),
    Column("state", String(8), nullable=False),
    Column("leased_by", String(160), comment="The worker that asks the endpoint for it now."),
    Column("leased_until", UtcDateTime, comment="Nobody else takes it before; without a worker, it is not due before."),
    Column("attempts", Integer, nullable=False, comment="How often a worker took it."),
    Column("asked_by", String(128), nullable=False, comment="A person, or the part of the system that asked."),
    Column("language", String(64), nullable=False, comment="In which the texts are asked for."),
    Column("anomaly", String(8), comment="What the model says: yes, no or unsure. The prediction stays as it is."),
    Column("agrees", Boolean, comment="Whether the answer that holds is what the detector decided; false: review."),
    Column("structured", Boolean, comment="Whether the reply had the form of an answer; else only its text is kept."),
    Column("answer", Text, comment="The checked answer, JSON."),
    Column("raw_reply", Text, comment="The reply as it came, cut where it is too long."),
    Column("summary", Text, comment="Of the answer that holds, a person's where it was corrected; searched."),
    *_of_reply(),
    Column("error", Text, comment="Why it failed; of a waiting one, what it waits for or what the last attempt met."),
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    CheckConstraint("state IN ('waiting', 'done', 'failed')", name="state"),
    CheckConstraint("anomaly IN ('yes', 'no', 'unsure')", name="anomaly"),
    CheckConstraint("state = 'waiting' OR leased_by IS NULL", name="only_waiting_is_leased"),
    CheckConstraint("(state = 'waiting') = (finished_at IS NULL)", name="finished_says_when"),
    CheckConstraint("state <> 'failed' OR error IS NOT NULL", name="failed_has_reason"),
    CheckConstraint("state <> 'done' OR raw_reply IS NOT NULL", name="done_has_reply"),
    Index(
        "ix_descriptions_waiting",
        "prediction_id",
        unique=True,
        sqlite_where=_WAITING,
        postgresql_where=_WAITING,
    ),
    Index("ix_descriptions_queue", "line", "description_id", sqlite_where=_WAITING, postgresql_where=_WAITING),
    Index(None, "prediction_id", "description_id"),
    Index(None, "line", "finished_at"),
    Index(
        "ix_descriptions_disagreeing",
        "line",
        "prediction_id",
        sqlite_where=text("agrees IS 0"),
        postgresql_where=text("agrees IS FALSE"),
    ),
    comment="What a vision language model was asked to say about a prediction. At most one waits for each prediction.",
    sqlite_autoincrement=True,
)

turns = Table(
    "turns",
    metadata,
    Column("turn_id", NUMBER, primary_key=True, autoincrement=True, comment="In order of being said."),
    _line(),
    Column(
        "prediction_id", NUMBER, ForeignKey("predictions.prediction_id"), comment="Empty: it is about the line's day."
    ),
    Column("hours", Integer, comment="Of a question about the line's day: about how many hours before it."),
    Column("role", String(16), nullable=False),
    Column("state", String(8), nullable=False, default=DONE, comment="Of a question; an answer is done."),
    Column("leased_by", String(160), comment="The worker that asks the endpoint now."),
    Column("leased_until", UtcDateTime, comment="Nobody else takes it before; without a worker, it is not due before."),
    Column("attempts", Integer, nullable=False, default=0, comment="How often a worker took the question."),
    Column("answers", NUMBER, ForeignKey("turns.turn_id"), comment="Of an answer: the question."),
    Column("text", Text, nullable=False),
    Column("person", String(128), comment="Who asked; of an answer, who is answered."),
    *_of_reply(),
    Column("raw_reply", Text, comment="The reply as it came, cut where it is too long."),
    Column("handed_in", Text, comment="Of an answer: the data that the model was given, JSON."),
    Column(
        "marks",
        Text,
        comment="Of an answer, JSON: where figures stand that were not handed in, and how many earlier turns were left "
        "out of the prompt.",
    ),
    Column("error", Text, comment="Why it failed; of a waiting question, what it waits for."),
    Column("created_at", UtcDateTime, nullable=False),
    CheckConstraint("role IN ('user', 'assistant')", name="role"),
    CheckConstraint("state IN ('waiting', 'done', 'failed')", name="state"),
    CheckConstraint("state = 'waiting' OR leased_by IS NULL", name="only_waiting_is_leased"),
    CheckConstraint("state <> 'failed' OR error IS NOT NULL", name="failed_has_reason"),
    CheckConstraint("answers IS NULL OR role = 'assistant'", name="only_answers_answer"),
    UniqueConstraint("answers"),
    Index("ix_turns_waiting", "line", "turn_id", sqlite_where=_WAITING, postgresql_where=_WAITING),
    Index(None, "prediction_id", "turn_id"),
    Index(None, "line", "created_at"),
    comment="What was said in the dialogues about predictions and about the day of a line.",
    sqlite_autoincrement=True,
)

description_corrections = Table(
    "description_corrections",
    metadata,
    Column("correction_id", NUMBER, primary_key=True, autoincrement=True, comment="In order of being given."),
    Column("description_id", NUMBER, ForeignKey("descriptions.description_id"), nullable=False),
    _line(),
    Column("person", String(128), nullable=False),
    Column("answer", Text, nullable=False, comment="What the answer should have been, JSON of the same form."),
    Column("note", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "description_id"),
    Index(None, "line", "correction_id"),
    comment="Answers as people corrected them: examples of the next prompts. The last one of a description holds.",
    sqlite_autoincrement=True,
)

sinks = Table(
    "sinks",
    metadata,
    Column("line", String(63), primary_key=True),
    Column("sink", String(16), primary_key=True, comment="webhook or file."),
    Column("leased_by", String(160), comment="The service that sends what is due."),
    Column("leased_until", UtcDateTime, comment="No other service sends before."),
    comment="Where the results of each line are sent from now on.",
)

notifications = Table(
    "notifications",
    metadata,
    Column("file_id", NUMBER, ForeignKey("incoming_files.file_id", ondelete="CASCADE"), primary_key=True),
    Column("sink", String(16), primary_key=True),
    _line(),
    Column("state", String(8), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("next_try_at", UtcDateTime, nullable=False),
    Column("sent_at", UtcDateTime),
    Column("error", Text, comment="What the last attempt met."),
    CheckConstraint("state IN ('waiting', 'sent', 'given_up')", name="state"),
    Index(None, "state", "next_try_at"),
    comment="The outbox: what is to be sent, written in one transaction with the decision, and what became of it.",
)

notices = Table(
    "notices",
    metadata,
    Column("notice_id", NUMBER, primary_key=True, autoincrement=True, comment="In order of time, on each line."),
    _line(),
    Column("event", String(32), nullable=False, comment="ng, refused, drift, trouble, training_done, …"),
    Column("subject", String(200), nullable=False, comment="What it is about: told once."),
    Column("text", Text, nullable=False),
    Column("page", Text, nullable=False, comment="Path of a page of the inference service; may be empty."),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("line", "event", "subject"),
    Index(None, "line", "notice_id"),
    comment="What happened that people may want to be told of.",
    sqlite_autoincrement=True,
)

told = Table(
    "told",
    metadata,
    Column("line", String(63), primary_key=True),
    Column("receiver", String(64), primary_key=True, comment="A name of VAD_NOTIFY."),
    Column("notice_id", NUMBER, nullable=False, comment="The last one that it was told of, or that was given up."),
    Column("next_at", UtcDateTime, comment="It is told nothing before."),
    Column("attempts", Integer, nullable=False, comment="That failed in a row."),
    Column("failing_since", UtcDateTime),
    Column("given_up", Integer, nullable=False, default=0, comment="Notices that it was never told of."),
    Column("error", Text, comment="What the last attempt met; empty where it was sent."),
    Column("sent_at", UtcDateTime),
    Column("leased_by", String(160), comment="The service that tells it now."),
    Column("leased_until", UtcDateTime),
    comment="How far each receiver of messages was told what happens on a line.",
)

services = Table(
    "services",
    metadata,
    Column("worker", String(160), primary_key=True),
    Column("serves", Text, nullable=False, comment="The lines whose queue it works on: a JSON list."),
    Column("alive_until", UtcDateTime, nullable=False),
    comment="Inference services that are alive; each renews its row every few seconds.",
)

monitoring_state = Table(
    "monitoring_state",
    metadata,
    Column("line", String(63), primary_key=True),
    Column("chart", String(16), primary_key=True, comment="What is watched, such as shift or ng_rate."),
    Column("model_version", String(64), nullable=False, comment="Another version that serves begins anew."),
    Column("numbers", Text, nullable=False, comment="The state of the chart: JSON."),
    Column("images", BigInteger, nullable=False, comment="That the chart has counted."),
    Column("since", UtcDateTime, nullable=False, comment="When the present departure began, or the newest image."),
    Column("since_images", BigInteger, nullable=False, comment="Images of the line before that."),
    Column("level", Float, nullable=False, comment="Where the chart stands, as a share of what is an alarm."),
    Column("alarm", Text, nullable=False, comment="The last alarm in words; empty where there was none."),
    Column("raised_at", UtcDateTime, comment="Of that alarm."),
    Column("ended_at", UtcDateTime, comment="Empty while it stands."),
    comment="Drift: where each chart of a line stands, changed in one transaction with the predictions that it counts.",
)


def is_not_superseded(rule: ColumnElement[str | None]) -> ColumnElement[bool]:
    """Leave out versions of a file that are no more; ``rule`` is that of the file, None where it was not refused."""
    return rule.is_(None) | rule.not_in(sorted(SUPERSEDED_RULES))
