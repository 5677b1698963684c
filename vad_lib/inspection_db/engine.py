"""Open the inspection database: SQLite in WAL mode by default, PostgreSQL by URL.

SQLite's files must lie on a local disk: WAL does not work over a network share. Every transaction that writes begins
with ``BEGIN IMMEDIATE``, so that two writers wait for each other instead of failing, and is flushed to the disk when it
is committed, so that a result that was reported survives a power cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from vad_lib.errors import VadError

BUSY_SECONDS = 30


def create_inspection_engine(url: str) -> Engine:
    """Return an engine for ``url``; SQLite's folder is made if it is missing.

    No connection is kept between transactions on SQLite, so an engine survives a fork.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    if not parsed.database or parsed.database == ":memory:":
        raise VadError("The inspection database must be a file or a server: give sqlite:///…/inspection.db.")
    Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        # The driver must not begin transactions by itself: it would begin them too late and as readers.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        options = connection.get_execution_options()
        if not options.get("vad_durable", True):
            # Written to the log, so no other process can miss it; only a power cut can lose it.
            connection.exec_driver_sql("PRAGMA synchronous = NORMAL")
        if options.get("vad_migrating", False):
            # A table that is replaced by a changed copy is gone for a moment; who refers to it is checked at the end.
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.exec_driver_sql("BEGIN" if options.get("vad_readonly", False) else "BEGIN IMMEDIATE")

    return engine
