"""Bring the tables of an inspection database to the revision that this software works with.

Whoever opens a database looks at its revision, which costs one query. If it is an older one, or none yet, the revisions
in between run in one transaction, which excludes all others that write (``vad_lib.inspection_db.engine``). Who dies in
the middle leaves the database as it was.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, MetaData, column, inspect, select, table, text

from vad_lib.errors import VadError
from vad_lib.inspection_db.schema import metadata

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0002"
"""The newest revision. Written here so that opening a database does not have to read all of them."""

MIGRATIONS = Path(__file__).with_name("migrations")

logger = logging.getLogger(__name__)
_alembic_in_use = threading.Lock()
"""Alembic keeps what it works on in a place that all threads share."""

_stamp = table("alembic_version", column("version_num"))
_old_stamp = table("schema_version", column("version"))


def bring_up_to_date(engine: Engine) -> tuple[str | None, str]:
    """Upgrade a database to ``HEAD``. Several processes may do so at once; where nothing is to be done it only looks.

    Returns:
        The revision before (None: there were no tables, or those of a time before revisions) and after.

    Raises:
        VadError: the database was written by a newer version of this software.
    """
    with engine.execution_options(vad_readonly=True).connect() as connection:
        found = revision_of(connection)
    if found == HEAD:
        return found, HEAD
    with _alembic_in_use, engine.execution_options(vad_migrating=True).begin() as connection:
        found = revision_of(connection)
        if found != HEAD:
            _upgrade(connection, found)
    return found, HEAD


def revision_of(connection: Connection) -> str | None:
    """Return the revision that a database is at; None where it has no stamp."""
    if not connection.dialect.has_table(connection, _stamp.name):
        return None
    revision: str | None = connection.execute(select(_stamp.c.version_num)).scalar()
    return revision


def all_tables() -> MetaData:
    """Return all tables of the inspection database, those of the resident scorer included."""
    import vad_lib.scorer.tables  # noqa: F401  (adds its tables)

    return metadata


def alembic_config(connection: Connection) -> Config:
    """Return alembic's settings for the revisions in this package, to be run on a connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection, found: str | None) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory

    config = alembic_config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise _newer(connection, found)
    if found is None and (old := _version_before_revisions(connection)) > 1:
        raise _newer(connection, str(old))
    command.upgrade(config, "head")
    _refuse_broken_references(connection)
    logger.info("the inspection database was brought from revision %s to %s", found or "none", HEAD)


def _newer(connection: Connection, found: str) -> VadError:
    return VadError(
        f"The inspection database {connection.engine.url.render_as_string()} holds tables of revision {found}; this "
        f"software knows revisions up to {HEAD}. Use the newer software, or another database (VAD_INSPECTION_DB)."
    )


def _version_before_revisions(connection: Connection) -> int:
    """Return the number that tables had before there were revisions; 0 where there are no tables."""
    if not inspect(connection).has_table(_old_stamp.name):
        return 0
    return int(connection.execute(select(_old_stamp.c.version)).scalar() or 0)


def _refuse_broken_references(connection: Connection) -> None:
    """A table that SQLite copies is not watched meanwhile."""
    if connection.dialect.name != "sqlite":
        return
    broken = connection.execute(text("PRAGMA foreign_key_check")).first()
    if broken is not None:
        raise VadError(
            f"The inspection database {connection.engine.url.render_as_string()} was not upgraded and is as it was: a "
            f"row of {broken[0]} refers to a row of {broken[2]} that is missing. See `vad db check`."
        )
