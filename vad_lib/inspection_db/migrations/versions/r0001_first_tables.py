"""The first tables.

Until a version is released there is one revision, and the schema file is what it makes. The first release freezes it
here, operation by operation; what changes afterwards is a revision of its own.
"""

from __future__ import annotations

from alembic import op

from vad_lib.inspection_db.schema import metadata

revision = "v2_0001"
down_revision = None


def upgrade() -> None:
    """Make all tables."""
    metadata.create_all(op.get_bind())


def downgrade() -> None:
    """Drop all tables."""
    metadata.drop_all(op.get_bind())
