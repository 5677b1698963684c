"""What `vad db check` finds: every law is broken once, by hand, and is found by its name."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from brightness_model import write_image
from inspection_rig import Rig
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import IntegrityError

from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.engine import create_inspection_engine
from vad_lib.inspection_db.laws import check_database
from vad_lib.lines import Home
from vad_lib.queue import lease, new_worker
from vad_lib.queue.outbox import open_sinks


@pytest.fixture
def rig(inspection_url: str, tmp_path: Path) -> Rig:
    """A line with two images that are done, one that is refused, and two that are pending, one of them leased."""
    line = Home(tmp_path / "home").line("bottles")
    line.inbox.mkdir(parents=True)
    rig = Rig(InspectionDatabase(inspection_url), line)
    open_sinks(rig.db, {"bottles": ["file"]})
    write_image(line.inbox / "a.png", 100)
    write_image(line.inbox / "b.png", 200)
    (line.inbox / "broken.png").write_bytes(b"\x89PNG nothing")
    rig.inspect()
    write_image(line.inbox / "c.png", 150)
    write_image(line.inbox / "d.png", 160)
    rig.register()
    assert len(lease(rig.db, "bottles", new_worker(), 1).files) == 1
    assert rig.db.file_counts("bottles") == {"done": 2, "refused": 1, "pending": 2}
    return rig


def test_a_sound_database_has_no_fault(rig: Rig) -> None:
    assert check_database(rig.db.engine) == []


BREAKS = {
    "DELETE FROM predictions WHERE prediction_id = 1": "A file that is done has a prediction.",
    "UPDATE predictions SET predicted = CASE predicted WHEN 'OK' THEN 'NG' ELSE 'OK' END": (
        "NG if and only if p reaches the inference threshold."
    ),
    "DELETE FROM images": "What has a prediction is an image that was read.",
    "UPDATE incoming_files SET leased_until = NULL WHERE leased_by IS NOT NULL": (
        "Only what is pending is leased, and a lease has an end."
    ),
    "INSERT INTO notifications (file_id, sink, line, state, attempts, created_at, next_try_at) "
    "SELECT file_id, 'webhook', line, 'waiting', 0, arrived_at, arrived_at FROM incoming_files "
    "WHERE state = 'pending'": "What is notified is decided.",
}


@pytest.mark.parametrize("statement", BREAKS)
@pytest.mark.spec("Q1.15")
def test_a_broken_law_is_named(rig: Rig, statement: str) -> None:
    with rig.db.writing() as connection:
        connection.execute(text(statement))
    faults = check_database(rig.db.engine)
    assert [fault.law for fault in faults] == [BREAKS[statement]]
    assert "Broken by" in str(faults[0])


IMPOSSIBLE = (
    "UPDATE incoming_files SET decided_at = NULL WHERE state = 'done'",
    "UPDATE incoming_files SET decided_at = arrived_at WHERE state = 'pending'",
    "UPDATE incoming_files SET reason = NULL WHERE state = 'refused'",
    "UPDATE incoming_files SET rule = NULL WHERE state = 'refused'",
    "UPDATE incoming_files SET sha256 = NULL WHERE state = 'done'",
    "UPDATE incoming_files SET leased_by = 'somebody' WHERE state = 'done'",
    "UPDATE incoming_files SET state = 'lost'",
    "UPDATE predictions SET predicted = 'maybe'",
    "UPDATE predictions SET source = 'by hand'",
    "UPDATE predictions SET sha256 = 'x'",
    "UPDATE incoming_files SET path = 'x', size = 1, mtime_ns = 1, inode = 1, ctime_ns = 1",
    "INSERT INTO labels (prediction_id, label, person, created_at) SELECT 99, 'OK', 'x', MIN(arrived_at) "
    "FROM incoming_files",
    "UPDATE notifications SET file_id = 99 WHERE file_id = 1",
)


def test_what_must_never_be_cannot_even_be_written(rig: Rig) -> None:
    for statement in IMPOSSIBLE:
        with pytest.raises(IntegrityError), rig.db.writing() as connection:
            connection.execute(text(statement))
    assert check_database(rig.db.engine) == []


def _columns(connection: Connection, table: str) -> list[str]:
    found = inspect(connection)
    assert found is not None
    return [column["name"] for column in found.get_columns(table)]


@pytest.mark.parametrize(
    ("constraint", "table", "number", "law"),
    [
        (
            "uq_predictions_line_sha256_model_version",
            "predictions",
            "prediction_id",
            "An image content has one prediction of each model version.",
        ),
        (
            "uq_incoming_files_line_path_size_mtime_ns_inode_ctime_ns",
            "incoming_files",
            "file_id",
            "A version of an incoming file is in one state.",
        ),
    ],
)
@pytest.mark.parametrize("inspection_url", ["postgresql"], indirect=True)  # SQLite cannot take a constraint away
def test_a_row_that_is_there_twice_is_found(rig: Rig, constraint: str, table: str, number: str, law: str) -> None:
    with rig.db.writing() as connection:
        connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}"))
        listed = ", ".join(name for name in _columns(connection, table) if name != number)
        connection.execute(text(f"INSERT INTO {table} ({listed}) SELECT {listed} FROM {table} LIMIT 1"))
    (fault,) = check_database(rig.db.engine)
    assert (fault.law, fault.rows) == (law, 1)


def test_a_damaged_file_and_a_reference_to_nothing_are_found(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    db = InspectionDatabase(f"sqlite:///{file}")
    with sqlite3.connect(file) as connection:  # as other software does, which does not ask for references
        connection.execute(
            "INSERT INTO labels (prediction_id, label, person, created_at) VALUES (99, 'OK', 'somebody', '2026-01-01')"
        )
    assert [fault.law for fault in check_database(db.engine)] == ["Every reference leads to a row."]
    with db.writing() as connection:
        connection.execute(text("DELETE FROM labels"))
    assert check_database(db.engine) == []
    with file.open("r+b") as stream:
        # the page of a table's or an index's root, behind the one that describes them all
        stream.seek(4096 * 5)
        stream.write(b"\x07" * 4096)
    (fault,) = check_database(db.engine)
    assert "damaged" in fault.law or "can be read" in fault.law


def test_a_database_without_tables_is_told_and_not_changed(tmp_path: Path) -> None:
    engine = create_inspection_engine(f"sqlite:///{tmp_path}/a.db")
    (fault,) = check_database(engine)
    assert "vad db upgrade" in str(fault)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar_one() == 0
