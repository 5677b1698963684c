"""What is PostgreSQL's alone: machines that vanish, connections that stay, processes that fork."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, OperationalError

from tests.postgres_server import new_database
from vad_lib.errors import DatabaseGoneError
from vad_lib.ingest import Arrival, FileVersion
from vad_lib.inspection_db import InspectionDatabase, engine
from vad_lib.inspection_db.schema import metadata
from vad_lib.lines import Home
from vad_lib.queue import queue_facts, register


@pytest.fixture
def url(postgres: URL) -> Iterator[str]:
    """The address of a database of its own."""
    with new_database(postgres) as found:
        yield found


def test_a_writer_that_sends_nothing_any_more_does_not_keep_the_others_waiting(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = InspectionDatabase(url)
    monkeypatch.setattr(engine, "IDLE_SECONDS", 1)
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises(DBAPIError))
        vanished = stack.enter_context(db.writing(line="bottles"))
        with db.writing(line="bottles") as other:  # waits until the first has sent nothing for a second
            assert other.execute(text("SELECT 1")).scalar_one() == 1
        vanished.execute(text("SELECT 1"))


def made_anew(url: str) -> None:
    server, name = create_engine(make_url(url).set(database="postgres"), isolation_level="AUTOCOMMIT"), make_url(url)
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name.database} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE {name.database}"))
    server.dispose()


def tables_made_anew(url: str) -> None:
    made_anew(url)
    other = create_engine(url)
    with other.begin() as connection:
        metadata.create_all(connection)
    other.dispose()


def emptied(url: str) -> None:
    run_elsewhere(url, f"TRUNCATE {', '.join(metadata.tables)}")


def dropped(url: str) -> None:
    run_elsewhere(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")


def run_elsewhere(url: str, *statements: str) -> None:
    other = create_engine(url)
    with other.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    other.dispose()


@pytest.mark.parametrize("change", [made_anew, tables_made_anew, emptied, dropped])
def test_a_database_that_was_made_anew_or_emptied_is_used_no_more_and_is_told(
    url: str, tmp_path: Path, change: Callable[[str], None]
) -> None:
    db = InspectionDatabase(url)
    version = FileVersion("a.png", 1, 1, 1, 1)
    register(db, "bottles", tmp_path, [Arrival(version, time.time())], [])
    change(url)
    with contextlib.suppress(OperationalError, DatabaseGoneError):  # the connection that was open was cut
        queue_facts(db)
    for use in (
        lambda: queue_facts(db),
        lambda: register(db, "bottles", tmp_path, [Arrival(version, time.time())], []),
        lambda: InspectionDatabase(url),
        lambda: queue_facts(db),
    ):
        with pytest.raises(DatabaseGoneError, match="made anew or emptied while it was in use"):
            use()


def test_a_database_that_was_packed_is_used_on(url: str, tmp_path: Path) -> None:
    db = InspectionDatabase(url)
    register(db, "bottles", tmp_path, [Arrival(FileVersion("a.png", 1, 1, 1, 1), time.time())], [])
    run_elsewhere(url, "CLUSTER incoming_files USING pk_incoming_files")
    assert queue_facts(db)["bottles"].pending == 1


def test_an_empty_database_is_not_filled_with_tables_by_who_comes_next(url: str, tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VAD_INSPECTION_DB", url)
        InspectionDatabase.of(home)
        dropped(url)
        engine._of_servers.pop(make_url(url)).dispose()  # as in another process
        with pytest.raises(DatabaseGoneError, match="To start afresh, remove") as caught:
            InspectionDatabase.of(home)
        (mark,) = tmp_path.glob("inspection_*.made")
        assert str(mark) in str(caught.value)
        mark.unlink()
        assert InspectionDatabase.of(home).count_predictions("bottles") == 0


def test_a_writer_of_one_line_waits_for_none_of_another(url: str) -> None:
    db = InspectionDatabase(url)
    order: list[str] = []

    def write(line: str) -> None:
        with db.writing(line=line):
            order.append(line)

    with db.writing(line="bottles"):
        threads = [threading.Thread(target=write, args=(line,)) for line in ("bottles", "caps", "")]
        for thread in threads:
            thread.start()
        for thread in threads[1:]:
            thread.join(20)
        time.sleep(0.2)
        assert sorted(order) == ["", "caps"]
    threads[0].join(20)
    assert order[-1] == "bottles"


def test_only_transactions_that_write_may_not_idle_and_migrations_may_for_longer(url: str) -> None:
    db = InspectionDatabase(url)
    show = text("SHOW idle_in_transaction_session_timeout")
    with db.writing() as connection:
        assert connection.execute(show).scalar_one() == "30s"
    with db.engine.execution_options(vad_migrating=True).begin() as connection:
        assert connection.execute(show).scalar_one() == "10min"
    with db.reading() as connection:
        assert connection.execute(show).scalar_one() == "0"


def test_connections_ask_whether_the_server_is_still_there(url: str) -> None:
    def parameters(address: str) -> dict[str, str]:
        with InspectionDatabase(address).engine.connect() as connection:
            found: dict[str, str] = connection.connection.dbapi_connection.get_dsn_parameters()  # type: ignore[union-attr]
            return found

    assert parameters(url)["keepalives_idle"] == "30"
    with_their_own = make_url(url).update_query_dict({"keepalives_idle": "7"})
    assert parameters(with_their_own.render_as_string(hide_password=False))["keepalives_idle"] == "7"


def test_whoever_opens_a_database_again_and_again_leaves_one_connection_and_no_hook_behind(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = []
    monkeypatch.setattr(os, "register_at_fork", lambda **hook: hooks.append(hook))
    opened = [InspectionDatabase(url) for _ in range(5)]
    with opened[0].reading() as connection:
        here = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        assert connection.execute(here).scalar_one() == 1
    assert hooks == []


def _count(url: str, answers: object) -> None:
    answers.put(InspectionDatabase(url).count_predictions("bottles"))  # type: ignore[attr-defined]


def test_a_child_of_a_fork_makes_connections_of_its_own(url: str) -> None:
    db = InspectionDatabase(url)
    number = text("SELECT pg_backend_pid()")
    with db.reading() as connection:
        before = connection.execute(number).scalar_one()
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    children = [fork.Process(target=_count, args=(url, answers)) for _ in range(3)]
    for child in children:
        child.start()
    assert [answers.get(timeout=30) for _ in children] == [0, 0, 0]
    for child in children:
        child.join(10)
    with db.reading() as connection:  # nobody has closed or used it meanwhile
        assert connection.execute(number).scalar_one() == before
