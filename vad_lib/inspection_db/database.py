"""The inspection database as the rest of the code sees it: one object that hands out transactions."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import pandas as pd
from sqlalchemy import Connection, Insert, Select, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError

from vad_lib.inspection_db.engine import create_inspection_engine
from vad_lib.inspection_db.schema import batches, kept_aside, landings, predictions
from vad_lib.inspection_db.upgrading import bring_up_to_date
from vad_lib.lines import Home

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_PARAMETERS = 500
"""Values in one IN list: within every SQLite's limit."""


class InspectionDatabase:
    """Images seen, claims, predictions and inputs kept aside, of all lines.

    Making one costs little and needs no closing. It may be shared by threads.

    >>> db = InspectionDatabase("sqlite:////tmp/vad-doctest/inspection.db")
    >>> db.count_predictions("bottle")
    0
    """

    def __init__(self, url: str) -> None:
        self.engine = create_inspection_engine(url)
        self._reader = self.engine.execution_options(vad_readonly=True)
        self._jotter = self.engine.execution_options(vad_durable=False)
        bring_up_to_date(self.engine)

    @classmethod
    def of(cls, home: Home) -> InspectionDatabase:
        """Open the database of a home: ``$VAD_INSPECTION_DB``, or SQLite under it."""
        return cls(home.inspection_db_url)

    @classmethod
    def when_it_opens(cls, home: Home, *, patience: float = 600.0, pause: float = 1.0) -> InspectionDatabase:
        """Open the database of a home, for a process that stays: a full disk or a server that is away passes.

        Args:
            home: whose database.
            patience: seconds to go on trying, with a warning each time.
            pause: seconds between two tries.

        Raises:
            OperationalError: it could not be opened for so long.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                return cls.of(home)
            except OperationalError as error:
                if time.monotonic() > deadline:
                    raise
                logger.warning("the inspection database cannot be opened, trying again: %s", error.orig)
                time.sleep(pause)

    @classmethod
    def from_environment(cls) -> InspectionDatabase:
        """Open the database of the home that the environment names."""
        return cls.of(Home.from_environment())

    @property
    def url(self) -> str:
        """Without the password."""
        return self.engine.url.render_as_string(hide_password=True)

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Connection]:
        """One transaction that may write: all of it happens, or nothing.

        ``durable=False`` is for marks that a power cut may lose (a process that dies cannot): it does not wait for the
        disk.
        """
        with (self.engine if durable else self._jotter).begin() as connection:
            yield connection

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keep SQLite from tidying up after every single transaction, which it does when its last user leaves."""
        held = self.engine.raw_connection()
        try:
            yield
        finally:
            held.close()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view. Never waits for a writer."""
        with self._reader.connect() as connection:
            yield connection

    def insert_or_ignore(self, table: Table) -> Insert:
        """An INSERT that passes over rows whose key is taken."""
        if self.engine.dialect.name == "postgresql":
            return postgresql.insert(table).on_conflict_do_nothing()
        return sqlite.insert(table).on_conflict_do_nothing()

    def table(self, statement: Select[Any]) -> pd.DataFrame:
        """Run a SELECT and return its rows."""
        with self.reading() as connection:
            result = connection.execute(statement)
            return pd.DataFrame(result.fetchall(), columns=list(result.keys()))

    def predictions(
        self,
        line: str,
        *,
        model_version: str | None = None,
        batch_id: str | None = None,
        since: datetime | None = None,
        after_id: int | None = None,
        limit: int | None = None,
        newest: int | None = None,
    ) -> pd.DataFrame:
        """Return recorded predictions in the order of recording, with all columns of the table ``predictions``.

        ``limit`` keeps the first so many of them, ``newest`` the last.
        """
        statement = select(predictions).where(predictions.c.line == line).order_by(predictions.c.prediction_id)
        if model_version is not None:
            statement = statement.where(predictions.c.model_version == model_version)
        if batch_id is not None:
            statement = statement.where(predictions.c.batch_id == batch_id)
        if since is not None:
            statement = statement.where(predictions.c.created_at >= since)
        if after_id is not None:
            statement = statement.where(predictions.c.prediction_id > after_id)
        if newest is not None:
            statement = statement.order_by(None).order_by(predictions.c.prediction_id.desc()).limit(newest)
            return self.table(statement).iloc[::-1].reset_index(drop=True)
        return self.table(statement if limit is None else statement.limit(limit))

    def kept_aside(self, line: str, *, batch_id: str | None = None) -> pd.DataFrame:
        """Return refused inputs in the order of being recorded, with all columns of the table ``kept_aside``."""
        statement = select(kept_aside).where(kept_aside.c.line == line).order_by(kept_aside.c.kept_id)
        return self.table(statement if batch_id is None else statement.where(kept_aside.c.batch_id == batch_id))

    def landings(
        self,
        line: str,
        *,
        batch_id: str | None = None,
        decided_since: datetime | None = None,
        decided_before: datetime | None = None,
    ) -> pd.DataFrame:
        """Return landings in the order of being taken up, with all columns of the table ``landings``."""
        statement = select(landings).where(landings.c.line == line).order_by(landings.c.seq)
        if decided_since is not None:
            statement = statement.where(landings.c.decided_at >= decided_since)
        if decided_before is not None:
            statement = statement.where(landings.c.decided_at < decided_before)
        return self.table(statement if batch_id is None else statement.where(landings.c.batch_id == batch_id))

    def batches(self, line: str) -> pd.DataFrame:
        """Return the batches of a line, oldest first."""
        return self.table(select(batches).where(batches.c.line == line).order_by(batches.c.created_at))

    def count_predictions(self, line: str) -> int:
        """Return how many predictions a line has."""
        with self.reading() as connection:
            counted = select(func.count()).select_from(predictions).where(predictions.c.line == line)
            return int(connection.execute(counted).scalar_one())

    def landing_counts(self, line: str) -> dict[str, int]:
        """Return how many landings are pending, done and refused."""
        counts = {"pending": 0, "done": 0, "refused": 0}
        with self.reading() as connection:
            grouped = select(landings.c.state, func.count()).where(landings.c.line == line).group_by(landings.c.state)
            counts.update((state, count) for state, count in connection.execute(grouped))
        return counts


def utc_now() -> datetime:
    """The time now, aware."""
    return datetime.now(UTC)


def chunks(values: Sequence[T], size: int = MAX_PARAMETERS) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def insert_many(connection: Connection, statement: Insert, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; none is fine."""
    if rows:
        connection.execute(statement, list(rows))
