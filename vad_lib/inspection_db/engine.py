"""Open the inspection database: SQLite in WAL mode by default, PostgreSQL by URL.

On SQLite, transactions that write follow each other (``BEGIN IMMEDIATE``), so none fails because of another one. On
PostgreSQL no lock spans lines: ``InspectionDatabase.writing`` takes one for a line where the order of rows matters.
A transaction is flushed to the disk when it is committed, so that a result that was reported survives a power cut.

SQLite's files must lie on a local disk: WAL does not work over a network share.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from vad_lib.errors import DatabaseGoneError, VadError
from vad_lib.inspection_db.schema import incoming_files
from vad_lib.settings import settings

ADDRESSES = "Set VAD_INSPECTION_DB to sqlite:////folder/inspection.db or postgresql://user:password@host/database."
BUSY_SECONDS = 30
MIGRATION_LOCK = 7236531
"""Names the lock among those of other software that uses the same PostgreSQL database."""
IDLE_SECONDS, MIGRATING_IDLE_SECONDS = 30, 600
"""PostgreSQL ends a transaction that writes and sends nothing for so long: a machine that is gone keeps no lock."""
KEEPALIVES = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""Of libpq: what waits for a server that is gone learns it within a minute."""

_IDENTITY = (
    "(SELECT oid FROM pg_database WHERE datname = current_database())",
    f"to_regclass('{incoming_files.name}')::oid",
    f"pg_relation_filenode(to_regclass('{incoming_files.name}'))",
)
"""By what PostgreSQL knows a database and its table of files. The last one changes when the table is emptied; but also
when it is packed."""

_of_servers: dict[URL, Engine] = {}
"""One for each PostgreSQL address that this process has used: whoever opens a database now and then, as Dagster's
sensors do in a process that stays, uses the connections of the time before."""


def database_address(url: str) -> URL:
    """Return the parts of the address of a database.

    Where PostgreSQL's names no driver it is the one that comes with us: SQLAlchemy 2.1 would take another.

    Raises:
        VadError: it is no address, or names a driver that is not installed.
    """
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            return parsed.set(drivername="postgresql+psycopg2")
        if parsed.get_backend_name() == "postgresql":
            parsed.get_dialect().import_dbapi()
    except (ArgumentError, ImportError) as error:
        raise VadError(f"The address of the inspection database cannot be used: {error}. {ADDRESSES}") from error
    return parsed


def create_inspection_engine(url: str) -> Engine:
    """Return an engine for ``url``; SQLite's folder is made if it is missing, and its file for its owner only.

    All who name the same PostgreSQL address share one engine. An engine survives a fork: SQLite keeps no connection
    between transactions, and a child of a fork makes its own.

    Raises:
        VadError: the address is of another kind of database, or of SQLite in memory; or see ``database_address``.
    """
    parsed = database_address(url)
    if parsed.get_backend_name() == "postgresql":
        # Without a lock, which a fork could catch in another thread's hands; an engine has no connection at first.
        return _of_servers.get(parsed) or _of_servers.setdefault(parsed, _postgresql_engine(parsed))
    if parsed.get_backend_name() != "sqlite":
        raise VadError(f"The inspection database is SQLite or PostgreSQL, not {parsed.get_backend_name()}. {ADDRESSES}")
    if not parsed.database or parsed.database == ":memory:":
        raise VadError("The inspection database must be a file or a server: give sqlite:///…/inspection.db.")
    Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(parsed.database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666 if settings().shared else 0o600))
    engine = create_engine(parsed, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})
    file = Path(parsed.database)
    first = _identity(file)
    if hasattr(os, "O_PATH"):
        # While it is held, no other file can have its number. Unlike other ways to open it, to close this one takes no
        # lock of SQLite away.
        weakref.finalize(engine, os.close, os.open(file, os.O_PATH | os.O_CLOEXEC))

    @event.listens_for(engine, "do_connect")
    def refuse_another_file(*_: Any) -> None:
        # SQLite would make a missing file anew, and every image would be inspected again.
        if _identity(file) != first:
            what = "was replaced by another file" if file.exists() else "is gone"
            raise DatabaseGoneError(
                f"The inspection database {file} {what} while it was in use. Put it back, and start again what uses it."
            )

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
        connection.exec_driver_sql("BEGIN" if options.get("vad_readonly", False) else "BEGIN IMMEDIATE")

    return engine


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _postgresql_engine(url: URL) -> Engine:
    own_driver = url.get_driver_name() in ("psycopg2", "psycopg")
    keepalives = {name: value for name, value in KEEPALIVES.items() if own_driver and name not in url.query}
    # Rows that are written together travel together: a server may be some milliseconds away.
    batched = {"executemany_mode": "values_plus_batch"} if url.get_driver_name() == "psycopg2" else {}
    engine = create_engine(url, pool_pre_ping=True, pool_size=10, connect_args=keepalives, **batched)
    known: tuple[int, ...] = ()

    def refuse_another(connection: Any, database: int, table: int | None, storage: int) -> None:
        # As with the file of SQLite: in one that was made anew or emptied, every image would be inspected again.
        nonlocal known
        if known and known != (database, table, storage):
            same = known[:2] == (database, table)
            if not (same and connection.exec_driver_sql(f"SELECT 1 FROM {incoming_files.name} LIMIT 1").first()):
                raise DatabaseGoneError(
                    f"The inspection database {url.render_as_string()} was made anew or emptied while it was in use. "
                    "Put back a copy of it, and start again what uses it."
                )
        if table is not None:
            known = (database, table, storage)

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        options, chosen = connection.get_execution_options(), list(_IDENTITY)
        migrating = options.get("vad_migrating", False)
        if options.get("vad_readonly", False):
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        else:
            idle = MIGRATING_IDLE_SECONDS if migrating else IDLE_SECONDS
            chosen.append(f"set_config('idle_in_transaction_session_timeout', '{idle}s', true)")
        if not options.get("vad_durable", True):
            chosen.append("set_config('synchronous_commit', 'off', true)")
        if migrating:
            chosen.append(f"pg_advisory_xact_lock({MIGRATION_LOCK})")
        found = connection.exec_driver_sql(f"SELECT {', '.join(chosen)}").one()
        refuse_another(connection, *found[: len(_IDENTITY)])

    return engine


def _forget_inherited_connections() -> None:
    for engine in list(_of_servers.values()):
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_inherited_connections)
