"""The inspection database as the rest of the code sees it: one object that hands out transactions."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd
from sqlalchemy import Connection, Engine, Insert, Select, Table, case, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError, OperationalError

from vad_lib.atomic_files import write_whole
from vad_lib.errors import DatabaseGoneError
from vad_lib.inspection_db.engine import create_inspection_engine, database_address
from vad_lib.inspection_db.revision import bring_up_to_date, gone
from vad_lib.inspection_db.schema import REFUSED, incoming_files, is_not_superseded, predictions
from vad_lib.lines import Home

logger = logging.getLogger(__name__)
T = TypeVar("T")

LINE_LOCKS = 723653
"""First half of the keys of PostgreSQL's advisory locks; the second is a digest of the line."""
MAX_PARAMETERS = 500
"""Values in one IN list: within every SQLite's limit."""


class DecisionCounts(NamedTuple):
    """How many images of a line were found OK and NG, and when the last one was."""

    ok: int
    ng: int
    last: datetime


class InspectionDatabase:
    """Incoming files with their place in the queue, predictions and labels, of all lines.

    Making one costs little and needs no closing. It may be shared by threads.

    Args:
        url: SQLite's file, or a server.
        mark: a file that says that the database of a server was made, so that none is made anew where it is empty.
            SQLite's lies beside its file.

    Raises:
        DatabaseGoneError: the file that was there is gone, or is damaged.
        VadError: it was written by another version of this software.

    >>> db = InspectionDatabase("sqlite:////tmp/vad-doctest/inspection.db")
    >>> db.count_predictions("bottle")
    0
    """

    def __init__(self, url: str, mark: Path | None = None) -> None:
        if (file := _file_of(url)) is not None:
            mark = Path(f"{file}.made")
            if mark.exists() and not (file.exists() and file.stat().st_size):
                raise gone(str(file), mark)
        self.engine = create_inspection_engine(url)
        self._reader = self.engine.execution_options(vad_readonly=True)
        self._jotter = self.engine.execution_options(vad_durable=False)
        try:
            bring_up_to_date(self.engine, mark)
        except DatabaseError as error:
            if isinstance(error, OperationalError):  # it is busy, or the disk is full: that passes
                raise
            raise DatabaseGoneError(
                f"The inspection database {self.url} is damaged ({error.orig}). Put back a copy of it; `vad db check` "
                "says whether that one is whole."
            ) from error
        if mark is not None and not mark.exists():
            with suppress(OSError):  # a full disk: the next one who opens it writes the mark
                write_whole(mark, b"The inspection database was made. While this file is here none is made anew.\n")

    @classmethod
    def of(cls, home: Home) -> InspectionDatabase:
        """Open the database of a home: ``$VAD_INSPECTION_DB``, or SQLite under it."""
        server = sha256(
            database_address(home.inspection_db_url).set(password=None).render_as_string().encode()
        ).hexdigest()
        return cls(home.inspection_db_url, home.root / f"inspection_{server[:12]}.made")

    @classmethod
    def when_it_opens(cls, home: Home, *, patience: float = 600.0, pause: float = 1.0) -> InspectionDatabase:
        """Open the database of a home, for a process that stays: a full disk or a server that is away passes.

        Args:
            home: whose database.
            patience: seconds to go on trying, with a warning each time.
            pause: seconds between two tries.

        Raises:
            OperationalError, OSError: it could not be opened for so long.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                return cls.of(home)
            except (OperationalError, OSError) as error:
                if time.monotonic() > deadline:
                    raise
                reason = error.orig if isinstance(error, OperationalError) else error
                logger.warning("the inspection database cannot be opened, trying again: %s", reason)
                time.sleep(pause)

    @classmethod
    def from_environment(cls) -> InspectionDatabase:
        """Open the database of the home that the environment names."""
        return cls.of(Home.from_environment())

    @property
    def is_postgresql(self) -> bool:
        """Whether it is a server; else it is SQLite."""
        return self.engine.dialect.name == "postgresql"

    @property
    def url(self) -> str:
        """Without the password."""
        return self.engine.url.render_as_string(hide_password=True)

    @contextmanager
    def writing(self, *, line: str = "", durable: bool = True) -> Iterator[Connection]:
        """One transaction that may write: all of it happens, or nothing.

        Args:
            line: transactions that name the same line follow each other, so that its rows are numbered in the order in
                which they can be seen. On SQLite all follow each other anyway.
            durable: False is for marks that a power cut may lose (a process that dies cannot): it does not wait for the
                disk.
        """
        with (self.engine if durable else self._jotter).begin() as connection:
            if line and self.is_postgresql:
                connection.execute(select(func.pg_advisory_xact_lock(LINE_LOCKS, func.hashtext(line))))
            yield connection

    def clock(self, connection: Connection) -> datetime:
        """Return the time now, by the one clock that all workers share: that of the database server.

        SQLite has none of its own, and none but this machine uses it.
        """
        if not self.is_postgresql:
            return utc_now()
        moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return moment.astimezone(UTC)

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
        return insert_or_ignore(self.engine, table)

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
        run_id: str | None = None,
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
        if run_id is not None:
            statement = statement.where(predictions.c.run_id == run_id)
        if since is not None:
            statement = statement.where(predictions.c.created_at >= since)
        if after_id is not None:
            statement = statement.where(predictions.c.prediction_id > after_id)
        if newest is not None:
            statement = statement.order_by(None).order_by(predictions.c.prediction_id.desc()).limit(newest)
            return self.table(statement).iloc[::-1].reset_index(drop=True)
        return self.table(statement if limit is None else statement.limit(limit))

    def incoming_files(
        self,
        line: str,
        *,
        run_id: str | None = None,
        decided_since: datetime | None = None,
        decided_before: datetime | None = None,
    ) -> pd.DataFrame:
        """Return incoming files in the order of being registered, with all columns of the table."""
        statement = select(incoming_files).where(incoming_files.c.line == line).order_by(incoming_files.c.file_id)
        if run_id is not None:
            statement = statement.where(incoming_files.c.run_id == run_id)
        if decided_since is not None:
            statement = statement.where(incoming_files.c.decided_at >= decided_since)
        if decided_before is not None:
            statement = statement.where(incoming_files.c.decided_at < decided_before)
        return self.table(statement)

    def refused(self, line: str) -> pd.DataFrame:
        """Return refused files in the order of being registered, but for versions of a file that are no more."""
        chosen = (
            incoming_files.c.line == line,
            incoming_files.c.state == REFUSED,
            is_not_superseded(incoming_files.c.rule),
        )
        return self.table(select(incoming_files).where(*chosen).order_by(incoming_files.c.file_id))

    def count_predictions(self, line: str) -> int:
        """Return how many predictions a line has."""
        with self.reading() as connection:
            counted = select(func.count()).select_from(predictions).where(predictions.c.line == line)
            return int(connection.execute(counted).scalar_one())

    def first_scores(self, line: str, model_versions: Sequence[str], count: int) -> list[float]:
        """Return raw scores of the first ``count`` image contents that these versions inspected; none before so many.

        Args:
            line: its name.
            model_versions: labels of versions that score alike.
            count: how many are wanted.
        """
        columns = predictions.c
        first = func.min(columns.prediction_id)
        chosen = select(func.min(columns.raw_score)).where(columns.line == line).group_by(columns.sha256)
        chosen = chosen.where(columns.model_version.in_(model_versions)).order_by(first).limit(count)
        with self.reading() as connection:
            scores = [float(score) for score in connection.execute(chosen).scalars()]
        return scores if len(scores) == count else []

    def decision_counts(self) -> dict[str, DecisionCounts]:
        """Return what was decided on each line that has a prediction, by runs and by inference services together."""
        columns = predictions.c
        counted = select(
            columns.line,
            func.sum(case((columns.predicted == "OK", 1), else_=0)),
            func.sum(case((columns.predicted == "NG", 1), else_=0)),
            func.max(columns.created_at),
        ).group_by(columns.line)
        with self.reading() as connection:
            return {line: DecisionCounts(int(ok), int(ng), last) for line, ok, ng, last in connection.execute(counted)}

    def file_counts(self, line: str) -> dict[str, int]:
        """Return how many incoming files are pending, done and refused."""
        counts = {"pending": 0, "done": 0, "refused": 0}
        grouped = select(incoming_files.c.state, func.count()).where(incoming_files.c.line == line)
        with self.reading() as connection:
            counts.update((state, count) for state, count in connection.execute(grouped.group_by("state")))
        return counts


def _file_of(url: str) -> Path | None:
    """Return the file of SQLite; None for a server."""
    parsed = database_address(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    return Path(parsed.database)


def utc_now() -> datetime:
    """The time now, aware."""
    return datetime.now(UTC)


def chunks(values: Sequence[T], size: int = MAX_PARAMETERS) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def insert_or_ignore(asked: Engine | Connection, table: Table) -> Insert:
    """Return an INSERT that passes over rows whose key is taken, for the database that is asked."""
    dialect = postgresql if asked.dialect.name == "postgresql" else sqlite
    made: Insert = dialect.insert(table).on_conflict_do_nothing()
    return made


def insert_many(connection: Connection, statement: Insert, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; none is fine."""
    if rows:
        connection.execute(statement, list(rows))
