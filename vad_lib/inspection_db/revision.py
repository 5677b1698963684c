"""Bring the tables of an inspection database to the revision that this software works with.

Whoever opens a database looks at its revision, which costs one query. If it is an older one, or none yet, the revisions
in between run in one transaction, which excludes all others that do the same. Who dies in the middle leaves the
database as it was.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, column, select, table

from vad_lib.errors import DatabaseGoneError, VadError
from vad_lib.inspection_db.schema import predictions

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "v2_0001"
"""The newest revision. Written here so that opening a database does not have to read all of them."""

VERSION_TABLE = "vad_inspection_version"
MIGRATIONS = Path(__file__).with_name("migrations")

logger = logging.getLogger(__name__)
_alembic_in_use = threading.Lock()
"""Alembic keeps what it works on in a place that all threads share."""

_stamp = table(VERSION_TABLE, column("version_num"))


def bring_up_to_date(engine: Engine, mark: Path | None = None) -> tuple[str | None, str]:
    """Upgrade a database to ``HEAD``. Several processes may do so at once; where nothing is to be done it only looks.

    Args:
        engine: of the database.
        mark: a file that is there where the tables were made before: then they are not made again.

    Returns:
        The revision before (None: there were no tables) and after.

    Raises:
        DatabaseGoneError: the tables that were made before are gone.
        VadError: the database was written by another version of this software.
    """
    with engine.execution_options(vad_readonly=True).connect() as connection:
        if revision_of(connection) == HEAD:
            return HEAD, HEAD
    with _alembic_in_use, engine.execution_options(vad_migrating=True).begin() as connection:
        found = revision_of(connection)
        if found is None and mark is not None and mark.exists():
            raise gone(engine.url.render_as_string(), mark)
        if found != HEAD:
            _upgrade(connection, found)
    return found, HEAD


def revision_of(connection: Connection) -> str | None:
    """Return the revision that a database is at; None where it has no tables of this software.

    Tables without a stamp are those of a version before 0.2, whose name is then returned.
    """
    if connection.dialect.has_table(connection, _stamp.name):
        revision: str | None = connection.execute(select(_stamp.c.version_num)).scalar()
        return revision
    return "before 0.2" if connection.dialect.has_table(connection, predictions.name) else None


def gone(database: str, mark: Path) -> DatabaseGoneError:
    """Return the error of a database that was made before and is not there, or is empty."""
    return DatabaseGoneError(
        f"The inspection database {database} is gone. Put it back from a copy. To start afresh, remove {mark}: a new "
        "one is made then, and images that still lie in the watch folders are inspected again."
    )


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
        raise VadError(
            f"The inspection database {connection.engine.url.render_as_string()} holds tables of revision {found}, "
            f"which this software cannot read (it works with {HEAD}). To start afresh, move that database away or name "
            "a new one in VAD_INSPECTION_DB: images that still lie in the watch folders are inspected again."
        )
    command.upgrade(config, "head")
    logger.info("the inspection database was brought from revision %s to %s", found or "none", HEAD)
