"""The first tables.

Databases made before there were revisions hold these tables, or some of them: what is there stays. Software of that
time looks at ``schema_version`` to see whether it is too old.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column(
            "batch_id", sa.String(length=32), nullable=False, comment="Digest of the line and of the landings in it."
        ),
        sa.Column("line", sa.String(length=63), nullable=False),
        sa.Column(
            "folder", sa.Text(), nullable=False, comment="The landing folder, absolute, when the batch was formed."
        ),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False, comment="How many runs were asked for, from 1."),
        sa.Column("generation", sa.Integer(), nullable=False, comment="How many times it was halved."),
        sa.Column("parent_id", sa.String(length=32), nullable=True, comment="The batch that it is a half of."),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("requested_at", sa.DateTime(), nullable=False, comment="When the present attempt was asked for."),
        sa.Column("closed_at", sa.DateTime(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True, comment="Why it was closed, where that is not simply 'finished'."),
        sa.CheckConstraint("state IN ('open', 'closed')", name=op.f("ck_batches_state")),
        sa.ForeignKeyConstraint(["parent_id"], ["batches.batch_id"], name=op.f("fk_batches_parent_id_batches")),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_batches")),
        comment="Landed files that one run inspects together.",
        if_not_exists=True,
    )
    op.create_index(op.f("ix_batches_line_state"), "batches", ["line", "state"], unique=False, if_not_exists=True)
    op.create_table(
        "claims",
        sa.Column("line", sa.String(length=63), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("model_version", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=False, comment="host:process id:start:nonce"),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("line", "sha256", "model_version", name=op.f("pk_claims")),
        comment="Who scores which content just now. A row goes when its prediction is recorded.",
        if_not_exists=True,
    )
    op.create_table(
        "images",
        sa.Column("line", sa.String(length=63), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False, comment="Of the file's bytes."),
        sa.Column("first_path", sa.Text(), nullable=False, comment="Absolute path at which it was first read."),
        sa.Column(
            "landed_path",
            sa.Text(),
            nullable=True,
            comment="Relative path of the landing that owns this content; others are duplicates.",
        ),
        sa.Column("width", sa.Integer(), nullable=False, comment="Pixels, upright."),
        sa.Column("height", sa.Integer(), nullable=False, comment="Pixels, upright."),
        sa.Column("channels", sa.Integer(), nullable=False),
        sa.Column("first_seen", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("line", "sha256", name=op.f("pk_images")),
        comment="Each image content that could be read.",
        if_not_exists=True,
    )
    op.create_table(
        "schema_version",
        sa.Column("only_row", sa.Integer(), nullable=False, comment="Always 1."),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("only_row", name=op.f("pk_schema_version")),
        comment="Which version of these tables the database holds.",
        if_not_exists=True,
    )
    op.create_table(
        "signal_channels",
        sa.Column("line", sa.String(length=63), nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False, comment="webhook or file."),
        sa.Column("since", sa.DateTime(), nullable=False, comment="Results of landings taken up before are not sent."),
        comment="Since when results of a line are sent on, and which way.",
        if_not_exists=True,
    )
    op.create_index(
        "uq_signal_channels_line_channel", "signal_channels", ["line", "channel"], unique=True, if_not_exists=True
    )
    op.create_table(
        "fast_batches",
        sa.Column("batch_id", sa.String(length=32), nullable=False),
        sa.Column("line", sa.String(length=63), nullable=False),
        sa.Column(
            "owner",
            sa.String(length=128),
            nullable=False,
            comment="host:process id:start:nonce of the scorer that has it.",
        ),
        sa.Column(
            "expires_at", sa.DateTime(), nullable=False, comment="From then on anybody may hand it to the bulk lane."
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.batch_id"], name=op.f("fk_fast_batches_batch_id_batches")),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_fast_batches")),
        comment="Batches in the hands of a resident scorer. A row goes when its batch is decided or handed over.",
        if_not_exists=True,
    )
    op.create_index(op.f("ix_fast_batches_line"), "fast_batches", ["line"], unique=False, if_not_exists=True)
    op.create_table(
        "kept_aside",
        sa.Column("kept_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("line", sa.String(length=63), nullable=False),
        sa.Column("path", sa.Text(), nullable=False, comment="As landed, or absolute for a file that did not land."),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.String(length=32), nullable=True),
        sa.Column("run_id", sa.String(length=64), nullable=True),
        sa.Column(
            "kept_file",
            sa.Text(),
            nullable=True,
            comment="The hard link or copy; empty where none could or should be made.",
        ),
        sa.Column("kept_note", sa.Text(), nullable=True, comment="Why there is no kept file."),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.batch_id"], name=op.f("fk_kept_aside_batch_id_batches")),
        sa.PrimaryKeyConstraint("kept_id", name=op.f("pk_kept_aside")),
        sa.UniqueConstraint("line", "path", "size", "mtime_ns", name=op.f("uq_kept_aside_line_path_size_mtime_ns")),
        comment="Inputs that were refused, each once, with the reason.",
        sqlite_autoincrement=True,
        if_not_exists=True,
    )
    op.create_index(op.f("ix_kept_aside_batch_id"), "kept_aside", ["batch_id"], unique=False, if_not_exists=True)
    op.create_table(
        "landings",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False, comment="In order of being taken up."),
        sa.Column("line", sa.String(length=63), nullable=False),
        sa.Column("path", sa.Text(), nullable=False, comment="Relative to the landing folder, with '/'."),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="Bytes."),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("batch_id", sa.String(length=32), nullable=True, comment="Empty for a file refused by its name."),
        sa.Column("sha256", sa.String(length=64), nullable=True, comment="Once it was read."),
        sa.Column(
            "begun", sa.Integer(), nullable=False, comment="Inspections that began with it and died; 0 once decided."
        ),
        sa.Column("begun_alone", sa.Integer(), nullable=False, comment="The same, where it was the only one in hand."),
        sa.Column("first_seen", sa.DateTime(), nullable=False),
        sa.Column("decided_at", sa.DateTime(), nullable=True),
        sa.Column("rule", sa.String(length=64), nullable=True, comment="Why it was refused: stable name."),
        sa.Column("reason", sa.Text(), nullable=True, comment="Why it was refused, for people."),
        sa.CheckConstraint("state <> 'done' OR sha256 IS NOT NULL", name=op.f("ck_landings_done_has_content")),
        sa.CheckConstraint("state <> 'pending' OR batch_id IS NOT NULL", name=op.f("ck_landings_pending_has_batch")),
        sa.CheckConstraint(
            "state <> 'refused' OR (reason IS NOT NULL AND rule IS NOT NULL)",
            name=op.f("ck_landings_refused_has_reason"),
        ),
        sa.CheckConstraint("state IN ('pending', 'done', 'refused')", name=op.f("ck_landings_state")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.batch_id"], name=op.f("fk_landings_batch_id_batches")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_landings")),
        sa.UniqueConstraint("line", "path", "size", "mtime_ns", name=op.f("uq_landings_line_path_size_mtime_ns")),
        comment="Each version (size and modification time) of each file that landed.",
        sqlite_autoincrement=True,
        if_not_exists=True,
    )
    op.create_index(
        op.f("ix_landings_batch_id_state"), "landings", ["batch_id", "state"], unique=False, if_not_exists=True
    )
    op.create_index(op.f("ix_landings_line_state"), "landings", ["line", "state"], unique=False, if_not_exists=True)
    op.create_table(
        "predictions",
        sa.Column(
            "prediction_id", sa.Integer(), autoincrement=True, nullable=False, comment="In order of being recorded."
        ),
        sa.Column("line", sa.String(length=63), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("model_version", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False, comment="Absolute path of the file that was scored."),
        sa.Column("raw_score", sa.Float(precision=53), nullable=False),
        sa.Column(
            "p",
            sa.Float(precision=53),
            nullable=False,
            comment="Calibrated score; 0.5 exactly at the trained threshold.",
        ),
        sa.Column("certainty", sa.Float(precision=53), nullable=False),
        sa.Column("predicted", sa.String(length=8), nullable=False, comment="As decided when it was scored."),
        sa.Column("threshold", sa.Float(precision=53), nullable=False, comment="On the raw score."),
        sa.Column("threshold_version", sa.String(length=64), nullable=False),
        sa.Column("inference_threshold", sa.Float(precision=53), nullable=False, comment="On p."),
        sa.Column("lane", sa.String(length=16), nullable=False, comment="run, fast or folder."),
        sa.Column("batch_id", sa.String(length=32), nullable=True),
        sa.Column("run_id", sa.String(length=64), nullable=True, comment="The Dagster run, where there is one."),
        sa.Column(
            "seconds",
            sa.Float(),
            nullable=True,
            comment="Time spent on scoring, shared equally among the images scored together.",
        ),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.CheckConstraint("predicted IN ('OK', 'NG')", name=op.f("ck_predictions_predicted")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.batch_id"], name=op.f("fk_predictions_batch_id_batches")),
        sa.PrimaryKeyConstraint("prediction_id", name=op.f("pk_predictions")),
        sa.UniqueConstraint("line", "sha256", "model_version", name=op.f("uq_predictions_line_sha256_model_version")),
        comment="One row an image content and model version, never changed afterwards.",
        sqlite_autoincrement=True,
        if_not_exists=True,
    )
    op.create_index(op.f("ix_predictions_batch_id"), "predictions", ["batch_id"], unique=False, if_not_exists=True)
    op.create_index(
        op.f("ix_predictions_line_prediction_id"),
        "predictions",
        ["line", "prediction_id"],
        unique=False,
        if_not_exists=True,
    )
    op.create_table(
        "signalled_batches",
        sa.Column("batch_id", sa.String(length=32), nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.batch_id"], name=op.f("fk_signalled_batches_batch_id_batches")),
        sa.PrimaryKeyConstraint("batch_id", "channel", name=op.f("pk_signalled_batches")),
        comment="Batches whose landings are all decided and in the table signals.",
        if_not_exists=True,
    )
    op.create_table(
        "landing_times",
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("line", sa.String(length=63), nullable=False),
        sa.Column(
            "landed_at", sa.DateTime(), nullable=False, comment="When the file's last change was, or its renaming."
        ),
        sa.Column("taken_at", sa.DateTime(), nullable=False, comment="When it was taken up."),
        sa.Column(
            "decided_at", sa.DateTime(), nullable=True, comment="When its result or reason was there; empty until then."
        ),
        sa.ForeignKeyConstraint(
            ["seq"], ["landings.seq"], name=op.f("fk_landing_times_seq_landings"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_landing_times")),
        comment="How long a landed file waited, for those that a resident scorer took up.",
        if_not_exists=True,
    )
    op.create_index(
        op.f("ix_landing_times_line_decided_at"),
        "landing_times",
        ["line", "decided_at"],
        unique=False,
        if_not_exists=True,
    )
    op.create_table(
        "signals",
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("line", sa.String(length=63), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("next_try_at", sa.DateTime(), nullable=False),
        sa.Column("sent_at", sa.DateTime(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True, comment="What the last attempt met."),
        sa.CheckConstraint("state IN ('waiting', 'sent', 'given_up')", name=op.f("ck_signals_state")),
        sa.ForeignKeyConstraint(["seq"], ["landings.seq"], name=op.f("fk_signals_seq_landings"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("seq", "channel", name=op.f("pk_signals")),
        comment="What is to be sent on, and what became of it: written in one transaction with the end of a batch.",
        if_not_exists=True,
    )
    op.create_index(
        op.f("ix_signals_state_next_try_at"), "signals", ["state", "next_try_at"], unique=False, if_not_exists=True
    )
    op.execute(
        "INSERT INTO schema_version (only_row, version) "
        "SELECT 1, 1 WHERE NOT EXISTS (SELECT 1 FROM schema_version WHERE only_row = 1)"
    )
