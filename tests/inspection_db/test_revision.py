"""The revision of the inspection database: what is missing is made, what another version wrote is refused untouched."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import op
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from vad_lib.errors import VadError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.engine import create_inspection_engine
from vad_lib.inspection_db.laws import check_database
from vad_lib.inspection_db.revision import HEAD, VERSION_TABLE, alembic_config, bring_up_to_date, revision_of
from vad_lib.inspection_db.schema import metadata

VERSION_0_1 = (
    "CREATE TABLE batches (batch_id VARCHAR(32) NOT NULL PRIMARY KEY, line VARCHAR(63) NOT NULL)",
    "CREATE TABLE landings (line VARCHAR(63) NOT NULL, path TEXT NOT NULL, state VARCHAR(8) NOT NULL)",
    "CREATE TABLE predictions (prediction_id INTEGER NOT NULL PRIMARY KEY, line VARCHAR(63) NOT NULL, lane VARCHAR(8))",
    "INSERT INTO landings VALUES ('bottles', 'a.png', 'pending')",
    "INSERT INTO predictions VALUES (1, 'bottles', 'run')",
)
"""As much of the tables of version 0.1 as matters: its tables share the name of one with ours."""
STAMP = f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"


def test_the_tables_of_all_revisions_are_those_of_the_code(inspection_url: str) -> None:
    engine = create_inspection_engine(inspection_url)
    assert bring_up_to_date(engine) == (None, HEAD)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
    assert bring_up_to_date(engine) == (HEAD, HEAD)


def test_constraints_that_alembic_does_not_compare_are_the_same_too(tmp_path: Path) -> None:
    def definitions(make: Callable[[Engine], object], name: str) -> dict[str, str]:
        engine = create_inspection_engine(f"sqlite:///{tmp_path / name}")
        make(engine)
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")).all()
        return {row.name: " ".join(sorted(re.split(r"[\s,]+", row.sql))) for row in rows}

    migrated = definitions(bring_up_to_date, "migrated.db")
    created = definitions(metadata.create_all, "created.db")
    del migrated[VERSION_TABLE]
    assert migrated == created


def test_the_newest_revision_is_the_one_that_the_code_names(tmp_path: Path) -> None:
    with create_inspection_engine(f"sqlite:///{tmp_path}/a.db").connect() as connection:
        script = ScriptDirectory.from_config(alembic_config(connection))
    assert script.get_heads() == [HEAD]


@pytest.mark.parametrize(
    ("stamp", "said"), [(None, "revision before 0.2"), ("0002", "revision 0002"), ("0001", "revision 0001")]
)
@pytest.mark.spec("Q1.17")
def test_a_database_of_version_0_1_is_refused_untouched_with_one_sentence_that_says_how_to_start_afresh(
    inspection_url: str, stamp: str | None, said: str
) -> None:
    engine = create_inspection_engine(inspection_url)
    with engine.begin() as connection:
        for statement in VERSION_0_1 if stamp is None else (*VERSION_0_1, STAMP):
            connection.execute(text(statement))
        if stamp is not None:
            connection.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES (:stamp)"), {"stamp": stamp})
    tables = set(inspect(engine).get_table_names())
    with pytest.raises(VadError) as refused:
        InspectionDatabase(inspection_url)
    message = str(refused.value)
    assert f"holds tables of {said}, which this software cannot read (it works with {HEAD})." in message
    assert "To start afresh, move that database away or name a new one in VAD_INSPECTION_DB" in message
    assert "\n" not in message
    assert set(inspect(engine).get_table_names()) == tables
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM landings")).scalar_one() == 1
        assert connection.execute(text("SELECT lane FROM predictions")).scalar_one() == "run"
    (fault,) = check_database(engine)
    assert "newest revision" in fault.law


@pytest.mark.spec("Q1.17")
def test_a_database_of_a_newer_revision_is_refused_with_advice(inspection_url: str) -> None:
    db = InspectionDatabase(inspection_url)
    with db.writing() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(VadError, match=r"9999.*VAD_INSPECTION_DB"):
        InspectionDatabase(inspection_url)


def test_a_password_is_not_told_with_the_address(postgres: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.engine import make_url

    from tests.postgres_server import new_database

    with new_database(postgres) as url:  # type: ignore[arg-type]
        secret = make_url(url).set(password="hunter2").render_as_string(hide_password=False)
        db = InspectionDatabase(secret)
        with db.writing() as connection:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
        with pytest.raises(VadError) as refused:
            InspectionDatabase(secret)
        assert "hunter2" not in str(refused.value) + db.url
        create_inspection_engine(secret).dispose()


def test_making_the_tables_leaves_nothing_behind_where_it_fails(
    inspection_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_inspection_engine(inspection_url)
    with monkeypatch.context() as patched:
        make = metadata.create_all

        def fail(bind: object) -> None:
            make(op.get_bind())
            raise VadError("in the middle")

        patched.setattr(metadata, "create_all", fail)
        with pytest.raises(VadError, match="in the middle"):
            bring_up_to_date(engine)
    with engine.connect() as connection:
        assert revision_of(connection) is None
    assert inspect(engine).get_table_names() == []
    assert bring_up_to_date(engine) == (None, HEAD)


def test_the_revision_of_other_software_in_the_same_database_is_not_read_as_ours_and_stays(
    inspection_url: str,
) -> None:
    engine = create_inspection_engine(inspection_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('0001')"))
    assert bring_up_to_date(engine) == (None, HEAD)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["0001"]
        assert connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars().all() == [HEAD]


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
    barrier.wait(60)  # type: ignore[attr-defined]
    try:
        answers.put(bring_up_to_date(create_inspection_engine(url))[1])  # type: ignore[attr-defined]
    except BaseException as error:
        answers.put(repr(error))  # type: ignore[attr-defined]


def test_processes_that_open_a_new_database_at_once_wait_for_each_other(inspection_url: str) -> None:
    fork = multiprocessing.get_context("fork")
    barrier, answers = fork.Barrier(4), fork.Queue()
    processes = [fork.Process(target=_open, args=(inspection_url, barrier, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=60) for _ in processes] == [HEAD] * 4
    for process in processes:
        process.join(10)
    assert check_database(create_inspection_engine(inspection_url)) == []
