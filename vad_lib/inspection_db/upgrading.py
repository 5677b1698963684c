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

from sqlalchemy import Connection, Engine, MetaData, column, delete, inspect, select, table, text

from vad_lib.errors import VadError
from vad_lib.inspection_db.schema import landings, metadata

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0002"
"""The newest revision. Written here so that opening a database does not have to read all of them."""

VERSION_TABLE = "vad_inspection_version"
FORMER_VERSION_TABLE = "alembic_version"
FORMER_REVISIONS = ("0001", "0002")
"""Those that were written into the former table. It may be another software's, and so may what it says."""

MIGRATIONS = Path(__file__).with_name("migrations")

logger = logging.getLogger(__name__)
_alembic_in_use = threading.Lock()
"""Alembic keeps what it works on in a place that all threads share."""

_stamp = table(VERSION_TABLE, column("version_num"))
_former_stamp = table(FORMER_VERSION_TABLE, column("version_num"))
_old_stamp = table("schema_version", column("version"))


def bring_up_to_date(engine: Engine) -> tuple[str | None, str]:
    """Upgrade a database to ``HEAD``. Several processes may do so at once; where nothing is to be done it only looks.

    Returns:
        The revision before (None: there were no tables, or those of a time before revisions) and after.

    Raises:
        VadError: the database was written by a newer version of this software.
    """
    with engine.execution_options(vad_readonly=True).connect() as connection:
        if _own_stamp(connection) == HEAD:
            return HEAD, HEAD
    with _alembic_in_use, engine.execution_options(vad_migrating=True).begin() as connection:
        found = revision_of(connection)
        if found is not None and _own_stamp(connection) is None:
            _adopt(connection, found)
        if found != HEAD:
            _upgrade(connection, found)
    return found, HEAD


def revision_of(connection: Connection) -> str | None:
    """Return the revision that a database is at; None where it has no stamp."""
    own = _own_stamp(connection)
    return _stamp_in_former_table(connection) if own is None else own


def _own_stamp(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, _stamp.name):
        return None
    revision: str | None = connection.execute(select(_stamp.c.version_num)).scalar()
    return revision


def _stamp_in_former_table(connection: Connection) -> str | None:
    names = (_former_stamp.name, _old_stamp.name, landings.name)
    if not all(connection.dialect.has_table(connection, name) for name in names):
        return None
    ours = _former_stamp.c.version_num.in_(FORMER_REVISIONS)
    revision: str | None = connection.execute(select(_former_stamp.c.version_num).where(ours)).scalar()
    return revision


def _adopt(connection: Connection, found: str) -> None:
    """Move the stamp from the former table to the one of its own; nothing of other software is touched."""
    from alembic import command

    command.stamp(alembic_config(connection), found)
    connection.execute(delete(_former_stamp).where(_former_stamp.c.version_num == found))
    if connection.execute(select(_former_stamp.c.version_num)).first() is None:
        connection.execute(text(f"DROP TABLE {FORMER_VERSION_TABLE}"))


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
