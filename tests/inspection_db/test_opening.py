"""How a process that stays opens the inspection database."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from vad_lib.errors import VadError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.engine import database_address
from vad_lib.lines import Home


def test_a_process_that_stays_waits_until_the_database_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "inspection.db"
    monkeypatch.setenv("VAD_INSPECTION_DB", f"sqlite:///{file}")
    file.mkdir()  # as little to be opened as on a disk that is full
    home = Home(tmp_path)
    with pytest.raises((OperationalError, OSError)):
        InspectionDatabase.when_it_opens(home, patience=1.0, pause=0.1)
    assert "cannot be opened, trying again" in caplog.text
    mended = threading.Timer(0.3, file.rmdir)
    mended.start()
    assert InspectionDatabase.when_it_opens(home, pause=0.05).count_predictions("bottles") == 0
    mended.join()


def test_a_new_database_is_its_owners_alone_in_wal_mode_and_checks_what_refers_to_what(tmp_path: Path) -> None:
    db = InspectionDatabase(f"sqlite:///{tmp_path}/deep/inspection.db")
    assert (tmp_path / "deep" / "inspection.db").stat().st_mode & 0o777 == 0o600
    with db.reading() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
    with db.writing(durable=False) as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 1
    with db.writing() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2


@pytest.mark.parametrize(
    "url",
    [
        "mysql://localhost/x",
        "sqlite://",
        "sqlite:///:memory:",
        "no address",
        "postgresql+asyncpg://h/x",
        "oracel://h/x",
    ],
)
def test_other_kinds_of_databases_are_refused_with_advice(url: str) -> None:
    with pytest.raises(VadError, match="inspection database"):
        InspectionDatabase(url)


@pytest.mark.parametrize("kind", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_the_address_of_a_server_needs_no_driver(kind: str) -> None:
    address = database_address(f"{kind}://user:password@host/database")
    assert address.render_as_string(hide_password=False) == "postgresql+psycopg2://user:password@host/database"


def test_many_threads_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def open_it() -> None:
        try:
            InspectionDatabase(f"sqlite:///{tmp_path}/new.db")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
