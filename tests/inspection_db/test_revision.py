"""Revisions of the inspection database: what is there stays, what is missing is made, what is newer is refused."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, insert, select, text
from vad_lib.inspection_db.upgrading import (
    FORMER_VERSION_TABLE,
    HEAD,
    VERSION_TABLE,
    alembic_config,
    all_tables,
    bring_up_to_date,
    revision_of,
)

from vad_lib.errors import VadError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.engine import create_inspection_engine
from vad_lib.inspection_db.schema import batches, images, landings, metadata, predictions, schema_version, verdicts

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _old_database(url: str, *, with_scorer_tables: bool) -> Engine:
    """Make what stood there before there were revisions, with a row in each table that matters."""
    later = {verdicts.name}
    scorers = {"fast_batches", "landing_times", "signal_channels", "signals", "signalled_batches"}
    left_out = later if with_scorer_tables else later | scorers
    engine = create_inspection_engine(url)
    with engine.begin() as connection:
        metadata.create_all(
            connection, tables=[table for table in all_tables().sorted_tables if table.name not in left_out]
        )
        connection.execute(insert(schema_version).values(only_row=1, version=1))
        _put_rows(connection)
    return engine


def _put_rows(connection: Connection) -> None:
    moment = {"created_at": NOW}
    connection.execute(
        insert(batches).values(
            batch_id="b",
            line="bricks",
            folder="/in",
            state="closed",
            attempt=1,
            generation=0,
            requested_at=NOW,
            **moment,
        )
    )
    connection.execute(
        insert(landings).values(
            line="bricks", path="a.png", size=3, mtime_ns=4, state="done", batch_id="b", sha256="c" * 64, begun=0,
            begun_alone=0, first_seen=NOW, decided_at=NOW,
        )
    )  # fmt: skip
    connection.execute(
        insert(images).values(
            line="bricks", sha256="c" * 64, first_path="/in/a.png", width=3, height=4, channels=1, first_seen=NOW
        )
    )
    connection.execute(
        insert(predictions).values(
            line="bricks", sha256="c" * 64, model_version="vad-bricks/1", path="/in/a.png", raw_score=1.5, p=0.7,
            certainty=0.4, predicted="NG", threshold=1.0, threshold_version="t", inference_threshold=0.5, lane="run",
            batch_id="b", **moment,
        )
    )  # fmt: skip


def _rows(connection: Connection) -> list[tuple[object, ...]]:
    return [
        tuple(row) for table in (batches, landings, images, predictions) for row in connection.execute(select(table))
    ]


def test_the_tables_of_all_revisions_are_those_of_the_code(inspection_url: str) -> None:
    engine = create_inspection_engine(inspection_url)
    bring_up_to_date(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "version_table": VERSION_TABLE})
        assert compare_metadata(context, all_tables()) == []


def test_constraints_that_alembic_does_not_compare_are_the_same_too(tmp_path: Path) -> None:
    def definitions(make: Callable[[Engine], object], name: str) -> dict[str, str]:
        engine = create_inspection_engine(f"sqlite:///{tmp_path / name}")
        make(engine)
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")).all()
        return {row.name: " ".join(sorted(re.split(r"[\s,]+", row.sql))) for row in rows}

    migrated = definitions(bring_up_to_date, "migrated.db")
    created = definitions(lambda engine: all_tables().create_all(engine), "created.db")
    del migrated[VERSION_TABLE]
    assert migrated == created


def test_the_newest_revision_is_the_one_that_the_code_names(tmp_path: Path) -> None:
    with create_inspection_engine(f"sqlite:///{tmp_path}/a.db").connect() as connection:
        script = ScriptDirectory.from_config(alembic_config(connection))
    assert script.get_heads() == [HEAD]


@pytest.mark.parametrize("with_scorer_tables", [True, False])
def test_a_database_from_before_the_revisions_keeps_its_rows(inspection_url: str, with_scorer_tables: bool) -> None:
    engine = _old_database(inspection_url, with_scorer_tables=with_scorer_tables)
    with engine.connect() as connection:
        before = _rows(connection)
        assert revision_of(connection) is None
    assert len(before) == 4
    assert bring_up_to_date(engine) == (None, HEAD)
    with engine.connect() as connection:
        assert _rows(connection) == before
        assert revision_of(connection) == HEAD
        # the software of that time reads this and refuses to work with the new tables
        assert connection.execute(select(schema_version.c.version)).scalar_one() == 2
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, all_tables()) == []
    assert bring_up_to_date(engine) == (HEAD, HEAD)


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(
    inspection_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vad_lib.inspection_db import upgrading

    engine = _old_database(inspection_url, with_scorer_tables=False)

    def fail(_: Connection) -> None:
        raise VadError("in the middle")

    with monkeypatch.context() as patched:
        patched.setattr(upgrading, "_refuse_broken_references", fail)
        with pytest.raises(VadError, match="in the middle"):
            bring_up_to_date(engine)
    with engine.connect() as connection:
        assert revision_of(connection) is None
        assert not engine.dialect.has_table(connection, verdicts.name)
        assert len(_rows(connection)) == 4
    assert bring_up_to_date(engine) == (None, HEAD)


def test_a_row_that_refers_to_nothing_stops_the_upgrade(tmp_path: Path) -> None:
    engine = _old_database(f"sqlite:///{tmp_path}/a.db", with_scorer_tables=True)
    with engine.execution_options(vad_migrating=True).begin() as connection:
        connection.execute(text("UPDATE landings SET batch_id = 'nowhere'"))
    with pytest.raises(VadError, match=r"landings refers to a row of batches.*vad db check"):
        bring_up_to_date(engine)
    with engine.connect() as connection:
        assert revision_of(connection) is None


def test_a_database_of_a_newer_revision_is_refused_with_advice(inspection_url: str) -> None:
    db = InspectionDatabase(inspection_url)
    with db.writing() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(VadError, match=r"9999.*VAD_INSPECTION_DB"):
        InspectionDatabase(inspection_url)


def test_numbered_tables_that_are_newer_than_the_first_are_refused(inspection_url: str) -> None:
    engine = _old_database(inspection_url, with_scorer_tables=True)
    with engine.begin() as connection:
        connection.execute(schema_version.update().values(version=7))
    with pytest.raises(VadError, match=r"revision 7.*newer software"):
        bring_up_to_date(engine)


def _stamps(connection: Connection, name: str) -> list[str] | None:
    """Return what a table of stamps says; None where there is no such table."""
    if not connection.dialect.has_table(connection, name):
        return None
    return sorted(connection.execute(text(f"SELECT version_num FROM {name}")).scalars())


def _put_former_stamps(connection: Connection, *stamps: str) -> None:
    connection.execute(
        text(f"CREATE TABLE IF NOT EXISTS {FORMER_VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    )
    for stamp in stamps:
        connection.execute(text(f"INSERT INTO {FORMER_VERSION_TABLE} VALUES (:stamp)"), {"stamp": stamp})


def test_the_revision_of_other_software_in_the_same_database_is_not_read_as_ours_and_stays(
    inspection_url: str,
) -> None:
    engine = create_inspection_engine(inspection_url)
    with engine.begin() as connection:
        _put_former_stamps(connection, "1b5c2a9f0d3e")
    assert bring_up_to_date(engine) == (None, HEAD)
    with engine.connect() as connection:
        assert _stamps(connection, FORMER_VERSION_TABLE) == ["1b5c2a9f0d3e"]
        assert _stamps(connection, VERSION_TABLE) == [HEAD]


def test_what_is_at_0001_for_other_software_is_not_ours_without_our_tables(inspection_url: str) -> None:
    engine = create_inspection_engine(inspection_url)
    with engine.begin() as connection:
        _put_former_stamps(connection, "0001")
    assert bring_up_to_date(engine) == (None, HEAD)
    with engine.connect() as connection:
        assert _stamps(connection, FORMER_VERSION_TABLE) == ["0001"]


@pytest.mark.parametrize(("others", "left"), [((), None), (("1b5c2a9f0d3e",), ["1b5c2a9f0d3e"])])
def test_a_stamp_in_the_table_that_others_use_too_is_moved_to_our_own(
    inspection_url: str, others: tuple[str, ...], left: list[str] | None
) -> None:
    engine = create_inspection_engine(inspection_url)
    bring_up_to_date(engine)
    with engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
        _put_former_stamps(connection, "0002", *others)
        _put_rows(connection)
        before = _rows(connection)
    with engine.connect() as connection:
        assert revision_of(connection) == "0002"  # looking does not move it
        assert _stamps(connection, VERSION_TABLE) is None
    assert bring_up_to_date(engine) == ("0002", HEAD)
    with engine.connect() as connection:
        assert _stamps(connection, FORMER_VERSION_TABLE) == left
        assert _stamps(connection, VERSION_TABLE) == [HEAD]
        assert _rows(connection) == before


def test_tables_of_the_first_revision_are_adopted_and_brought_up(inspection_url: str) -> None:
    engine = _old_database(inspection_url, with_scorer_tables=True)
    with engine.begin() as connection:
        _put_former_stamps(connection, "0001")
    assert bring_up_to_date(engine) == ("0001", HEAD)
    with engine.connect() as connection:
        assert _stamps(connection, FORMER_VERSION_TABLE) is None
        assert _stamps(connection, VERSION_TABLE) == [HEAD]
        assert len(_rows(connection)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("ours_first", [True, False])
def test_the_inspection_database_and_mlflow_share_one_database(
    inspection_url: str, ours_first: bool, tmp_path: Path
) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    def ours() -> None:
        assert InspectionDatabase(inspection_url).count_predictions("bricks") == 0

    def mlflows() -> None:
        store = SqlAlchemyStore(inspection_url, tmp_path.as_uri())
        assert [experiment.name for experiment in store.search_experiments()] == ["Default"]

    for use in 2 * ((ours, mlflows) if ours_first else (mlflows, ours)):
        use()


def _open(url: str, barrier: object, answers: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    try:
        answers.put(bring_up_to_date(create_inspection_engine(url))[1])  # type: ignore[attr-defined]
    except BaseException as error:
        answers.put(repr(error))  # type: ignore[attr-defined]


def test_processes_that_open_an_old_database_at_once_wait_for_each_other(inspection_url: str) -> None:
    engine = _old_database(inspection_url, with_scorer_tables=False)
    engine.dispose()
    spawn = multiprocessing.get_context("fork")
    barrier, answers = spawn.Barrier(4), spawn.Queue()
    processes = [spawn.Process(target=_open, args=(inspection_url, barrier, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=60) for _ in processes] == [HEAD] * 4
    for process in processes:
        process.join(10)
    with engine.connect() as connection:
        assert len(_rows(connection)) == 4
