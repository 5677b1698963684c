"""What `vad db check` finds: every law is broken once, by hand, and is found by its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from brightness_model import write_image
from inspection_plant import Plant
from sqlalchemy import text
from vad_lib.inspection_db.checking import check_database

from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.engine import create_inspection_engine
from vad_lib.lines import Home


@pytest.fixture
def plant(inspection_url: str, tmp_path: Path) -> Plant:
    """A line with two images that are done, one that is refused, and one that is pending."""
    line = Home(tmp_path / "home").line("bottles")
    line.inbox.mkdir(parents=True)
    plant = Plant(InspectionDatabase(inspection_url), line)
    write_image(line.inbox / "a.png", 100)
    write_image(line.inbox / "b.png", 200)
    (line.inbox / "broken.png").write_bytes(b"\x89PNG nothing")
    plant.inspect(plant.land_batch())
    write_image(line.inbox / "c.png", 150)
    plant.tick()
    assert plant.db.landing_counts("bottles") == {"done": 2, "refused": 1, "pending": 1}
    return plant


def test_a_sound_database_has_no_fault(plant: Plant) -> None:
    assert check_database(plant.db.engine) == []


PENDING = "A landing that is pending is in a batch of its line that is open, or in a scorer's hands."
BREAKS = {
    "DELETE FROM predictions WHERE prediction_id = 1": ["A landing that is done has a prediction."],
    "UPDATE batches SET state = 'closed'": [PENDING],
    "UPDATE batches SET line = 'other'": [PENDING],
    "UPDATE landings SET decided_at = NULL WHERE state = 'done'": ["A landing is decided if and only if it says when."],
    "UPDATE landings SET decided_at = first_seen WHERE state = 'pending'": [
        "A landing is decided if and only if it says when."
    ],
    "UPDATE predictions SET predicted = CASE predicted WHEN 'OK' THEN 'NG' ELSE 'OK' END": [
        "NG if and only if p reaches the inference threshold."
    ],
    "DELETE FROM images": ["What has a prediction is an image that was read."],
    "UPDATE landings SET state = 'done', sha256 = (SELECT MIN(sha256) FROM predictions) WHERE state = 'refused'": [
        "What landed and is kept aside is refused."
    ],
}


@pytest.mark.parametrize("statement", BREAKS)
@pytest.mark.spec("Q1.15")
def test_a_broken_law_is_named(plant: Plant, statement: str) -> None:
    with plant.db.writing() as connection:
        connection.execute(text(statement))
    faults = check_database(plant.db.engine)
    assert [fault.law for fault in faults] == BREAKS[statement]
    assert "Broken by" in str(faults[0])


@pytest.mark.parametrize(
    ("index", "table", "law"),
    [
        ("uq_predictions_line_sha256_model_version", "predictions", "one prediction of each model version"),
        ("uq_landings_line_path_size_mtime_ns", "landings", "in one state"),
    ],
)
def test_a_row_that_is_there_twice_is_found(plant: Plant, index: str, table: str, law: str) -> None:
    if plant.db.engine.dialect.name == "sqlite":
        pytest.skip("SQLite cannot take a constraint away")
    with plant.db.writing() as connection:
        connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {index}"))
        columns = [name for name in _columns(connection, table) if name not in ("prediction_id", "seq")]
        listed = ", ".join(columns)
        connection.execute(text(f"INSERT INTO {table} ({listed}) SELECT {listed} FROM {table} LIMIT 1"))
    (fault,) = check_database(plant.db.engine)
    assert law in fault.law
    assert fault.rows == 1


def _columns(connection: object, table: str) -> list[str]:
    from sqlalchemy import inspect

    return [column["name"] for column in inspect(connection).get_columns(table)]  # type: ignore[union-attr]


def test_a_damaged_file_and_a_reference_to_nothing_are_found(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    db = InspectionDatabase(f"sqlite:///{file}")
    with db.engine.execution_options(vad_migrating=True).begin() as connection:
        connection.execute(text("INSERT INTO verdicts VALUES (1, 99, 'OK', 'somebody', NULL, '2026-01-01')"))
    assert [fault.law for fault in check_database(db.engine)] == ["Every reference leads to a row."]
    with db.writing() as connection:
        connection.execute(text("DELETE FROM verdicts"))
    assert check_database(db.engine) == []
    with file.open("r+b") as stream:
        # the page of a table's or an index's root, behind the one that describes them all
        stream.seek(4096 * 5)
        stream.write(b"\x07" * 4096)
    (fault,) = check_database(db.engine)
    assert "damaged" in fault.law or "can be read" in fault.law


def test_tables_of_an_older_revision_are_told_and_not_changed(tmp_path: Path) -> None:
    engine = create_inspection_engine(f"sqlite:///{tmp_path}/a.db")
    (fault,) = check_database(engine)
    assert "vad db upgrade" in str(fault)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar_one() == 0
