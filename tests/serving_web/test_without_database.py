"""What the service says while its database, its registry or a champion is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from brightness_model import write_image
from serving_rig import RigSource, until
from sqlalchemy import create_engine, select

from tests.postgres_server import new_inspection_url
from vad_dagster.resources import MLflowTracking
from vad_dagster.service.champions import ChampionSource
from vad_dagster.values import ChampionRecord
from vad_lib.errors import VadError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.schema import incoming_files, metadata
from vad_lib.lines import Home
from vad_lib.promotion import PromotionDecision


class Page(list[object]):
    """No model at all."""

    token = None


class EmptyRegistry(MLflowTracking):
    """Answers without MLflow."""

    def connect(self) -> Any:
        return SimpleNamespace(search_registered_models=lambda **_: Page())


@pytest.fixture(params=["sqlite"])
def inspection_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from new_inspection_url(request, tmp_path)


def test_a_service_whose_database_vanished_is_not_ready_and_answers_with_a_sentence_and_makes_none(
    web: Callable[..., str], db: InspectionDatabase
) -> None:
    address, file = web(), Path(str(db.engine.url.database))
    for each in file.parent.glob("inspection.db*"):
        each.unlink()
    until(lambda: requests.get(f"{address}/ready", timeout=5).status_code == 503)
    assert "is gone" in requests.get(f"{address}/ready", timeout=5).json()["reasons"]["*"]
    for path in ("/lines", "/lines/bottles/predictions", "/lines/bottles/results", "/metrics", "/"):
        answer = requests.get(address + path, timeout=5)
        assert answer.status_code == 503, path
        assert "inspection database cannot be used" in answer.json()["detail"]
    assert not file.exists()


@pytest.mark.parametrize("inspection_url", ["postgresql"], indirect=True)
def test_in_a_database_that_was_made_anew_under_a_service_nothing_is_inspected_again(
    web: Callable[..., str], db: InspectionDatabase, inspection_url: str, source: RigSource
) -> None:
    inbox = source.lines["bottles"].folder
    write_image(inbox / "a.png", 20)
    address = web()
    until(lambda: db.count_predictions("bottles") == 1)
    other = create_engine(inspection_url)
    with other.begin() as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)
    until(lambda: requests.get(f"{address}/ready", timeout=5).status_code == 503)
    assert "made anew or emptied" in requests.get(f"{address}/ready", timeout=5).json()["reasons"]["*"]
    answer = requests.get(f"{address}/lines/bottles/predictions", timeout=5)
    assert answer.status_code == 503
    write_image(inbox / "b.png", 30)
    time.sleep(1.0)
    with other.connect() as connection:
        assert connection.execute(select(incoming_files)).all() == []
    other.dispose()


def test_a_line_whose_champion_was_deleted_is_not_ready(web: Callable[..., str], source: RigSource) -> None:
    address = web()
    source.change("bottles", model_version="", trouble="it has no champion any more")
    until(lambda: requests.get(f"{address}/ready", timeout=5).status_code == 503)
    assert "no champion any more" in requests.get(f"{address}/ready", timeout=5).json()["reasons"]["bottles"]


def test_the_registry_is_asked_who_serves_and_a_champion_that_was_is_remembered(
    vad_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    line = Home(vad_home).line("bottles")
    line.inbox.mkdir(parents=True)
    line.plan_file.write_text("user_parameters: []\n")
    database = Home(vad_home).mlflow_folder / "mlflow.db"
    database.parent.mkdir()
    database.touch()
    source = ChampionSource(Home(vad_home), tracking=EmptyRegistry())
    assert source.watched()["bottles"].trouble == ""
    decision = PromotionDecision(promote=True, rule="first_version", reason="")
    ChampionRecord(line="bottles", version="1", decision=decision, by="rule").save(line.store / "champion_model")
    line.plan_file.write_text("user_parameters: []\nname: bottles\n")
    assert "version 1 was deleted" in source.watched()["bottles"].trouble
    database.unlink()
    with pytest.raises(VadError, match=r"MLflow's database .* is gone"):
        source.watched()
