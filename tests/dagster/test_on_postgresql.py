"""Dagster's storage on PostgreSQL, with the settings that the documentation gives."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from sqlalchemy.engine import URL, make_url

from tests.postgres_server import new_database
from vad_dagster.home import prepare_home

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "dagster_on_postgresql.yaml"


@pytest.fixture
def on_postgresql(postgres: URL, vad_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    pytest.importorskip("dagster_postgres", reason="the extra vad[postgres] is not installed")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    folder = Path(prepare_home()["DAGSTER_HOME"])
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    with new_database(postgres) as address:
        database = make_url(address)
        settings = folder / "dagster.yaml"
        own = settings.read_text().partition("\n")[2]
        settings.write_text(own + EXAMPLE.read_text())
        content = yaml.safe_load(settings.read_text())
        place = content["storage"]["postgres"]["postgres_db"]
        # what a person fills in; the test's server listens on a socket in a folder
        place |= {"db_name": database.database, "username": database.username, "hostname": "localhost"}
        place |= {"password": database.password or "", "params": dict(database.query)}
        if database.host:
            place |= {"hostname": database.host, "port": database.port or 5432}
        settings.write_text(yaml.safe_dump(content))
        assert prepare_home()["DAGSTER_HOME"] == str(folder)
        with dg.DagsterInstance.get() as opened:
            yield opened


@dg.asset
def counted() -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(metadata={"images": 3})


def test_runs_and_events_are_kept_and_followed_in_postgresql(on_postgresql: dg.DagsterInstance) -> None:
    assert "postgres" in type(on_postgresql.event_log_storage).__name__.lower()
    seen: list[str] = []
    done = dg.materialize([counted], instance=on_postgresql)
    assert done.success
    # as the web page follows a run
    on_postgresql.watch_event_logs(done.run_id, None, lambda entry, _: seen.append(entry.run_id))
    deadline = time.monotonic() + 60
    while not seen:
        assert time.monotonic() < deadline, "no event came within 60 s"
        time.sleep(0.05)
    (record,) = on_postgresql.fetch_materializations(dg.AssetKey("counted"), limit=5).records
    assert record.asset_materialization is not None
    assert record.asset_materialization.metadata["images"].value == 3
    assert not list(Path(os.environ["DAGSTER_HOME"]).rglob("runs.db"))
