"""A database that vanished, was replaced or is damaged: nothing is made in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from vad_lib.errors import DatabaseGoneError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.queue import queue_facts


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "home" / "inspection.db"


@pytest.fixture
def db(file: Path) -> InspectionDatabase:
    return InspectionDatabase(f"sqlite:///{file}")


def remove(file: Path) -> None:
    for each in (file, file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-shm")):
        each.unlink(missing_ok=True)


def test_a_database_that_vanished_is_not_made_anew_by_who_uses_it_nor_by_who_comes_next(
    db: InspectionDatabase, file: Path
) -> None:
    remove(file)
    with pytest.raises(DatabaseGoneError, match="is gone while it was in use"):
        queue_facts(db)
    assert not file.exists()
    with pytest.raises(DatabaseGoneError, match="To start afresh, remove"):
        InspectionDatabase(f"sqlite:///{file}")
    file.touch()
    with pytest.raises(DatabaseGoneError, match="is gone"):
        InspectionDatabase(f"sqlite:///{file}")
    remove(file)
    file.with_name("inspection.db.made").unlink()
    assert InspectionDatabase(f"sqlite:///{file}").count_predictions("bottles") == 0


def test_a_database_that_was_put_back_is_used_by_who_comes_next(db: InspectionDatabase, file: Path) -> None:
    copy = file.read_bytes()
    remove(file)
    file.write_bytes(copy)
    with pytest.raises(DatabaseGoneError, match="was replaced by another file"):
        queue_facts(db)
    assert queue_facts(InspectionDatabase(f"sqlite:///{file}")) == {}


def test_a_damaged_database_is_told_in_one_sentence(db: InspectionDatabase, file: Path) -> None:
    file.write_bytes(b"this is no database " * 400)
    with pytest.raises(DatabaseGoneError, match=r"is damaged .*vad db check"):
        InspectionDatabase(f"sqlite:///{file}")
