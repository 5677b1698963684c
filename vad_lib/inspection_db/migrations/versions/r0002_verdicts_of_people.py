"""Verdicts of people on predictions, and the end of numbered tables: from here on the revision says which they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "verdicts",
        sa.Column("verdict_id", sa.Integer(), autoincrement=True, nullable=False, comment="In order of being given."),
        sa.Column("prediction_id", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(length=8), nullable=False, comment="What the part is, as a person sees it."),
        sa.Column("person", sa.String(length=128), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.CheckConstraint("verdict IN ('OK', 'NG')", name=op.f("ck_verdicts_verdict")),
        sa.ForeignKeyConstraint(
            ["prediction_id"], ["predictions.prediction_id"], name=op.f("fk_verdicts_prediction_id_predictions")
        ),
        sa.PrimaryKeyConstraint("verdict_id", name=op.f("pk_verdicts")),
        comment="What people said about predictions. The last verdict on an image holds; those before it stay.",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_verdicts_prediction_id"), "verdicts", ["prediction_id"], unique=False)
    # software older than the revisions refuses to work with these tables
    op.execute("UPDATE schema_version SET version = 2")
