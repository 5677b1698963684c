"""What the service says while its database, its registry or a champion is gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from serving_rig import RigSource, until

from vad_dagster.resources import MLflowTracking
from vad_dagster.service.champions import ChampionSource
from vad_dagster.values import ChampionRecord
from vad_lib.errors import VadError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home
from vad_lib.promotion import PromotionDecision


class Page(list[object]):
    """No model at all."""

    token = None


class EmptyRegistry(MLflowTracking):
    """Answers without MLflow."""

    def connect(self) -> Any:
        return SimpleNamespace(search_registered_models=lambda **_: Page())


@pytest.fixture
def inspection_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/home/inspection.db"


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
