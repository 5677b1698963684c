"""Run by alembic, inside the transaction of whoever asked: the connection is the caller's, and so is the commit."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context

from vad_lib.inspection_db.revision import VERSION_TABLE
from vad_lib.inspection_db.schema import UtcDateTime


def as_written(kind: str, item: Any, _: Any) -> str | Literal[False]:
    """Revisions name what a type is in the database: what the code calls it may change."""
    return "sa.DateTime()" if kind == "type" and isinstance(item, UtcDateTime) else False


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    version_table=VERSION_TABLE,
    target_metadata=context.config.attributes.get("tables"),
    render_item=as_written,
    # SQLite cannot change most things of a table in place: it is copied instead
    render_as_batch=connection.dialect.name == "sqlite",
)
context.run_migrations()
