"""The page of versions: who serves, what a person decides, and what is said where MLflow cannot be asked."""

from __future__ import annotations

import pytest
import requests
from serving_rig import RigSource

from tests.serving_web.conftest import Web
from vad_dagster.home import prepare_home, prepare_tracking
from vad_dagster.registry import CHALLENGER, CHAMPION, PREVIOUS, LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_dagster.service.people import Tokens
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import newest_changes
from vad_lib.inspection_db.schema import notices

TAGS = {
    "detector": "patchcore",
    "threshold": "1.5",
    "image_auroc": "0.98",
    "fn": "1",
    "tp": "19",
    "fp": "2",
    "tn": "78",
}


@pytest.fixture
def registry(db: InspectionDatabase, source: RigSource, monkeypatch: pytest.MonkeyPatch) -> LineRegistry:
    """Two versions of the line bottles: 1 serves, 2 is the challenger."""
    monkeypatch.setenv("VAD_HOME", str(source.home.root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    prepare_home()
    prepare_tracking()
    made = LineRegistry(MLflowTracking(), "bottles")
    made._client.create_registered_model(made.name)
    for _ in range(2):
        made._client.create_model_version(
            made.name, source=str(source.home.root), tags=TAGS, description="made for a test"
        )
    made.promote(made.version(1), by="rule")
    made._client.set_registered_model_alias(made.name, CHALLENGER, "2")
    return made


def test_a_person_promotes_and_rolls_back_with_a_reason_that_is_kept(
    web: Web, source: RigSource, registry: LineRegistry, db: InspectionDatabase
) -> None:
    address = f"{web()}/lines/bottles/versions"
    page = requests.get(address, timeout=20).text
    assert page.count('class="decide"') == 1  # nothing to go back to yet
    assert "1 of 20 (0–25 %)" in page
    assert "0.980 (" in page
    assert "No live image of the random share was scored by both yet." in page
    assert requests.post(f"{address}/2/promotion", json={"person": "Kim"}, timeout=20).status_code == 422
    said = {"reason": "finds <b>scratches</b>", "person": "Kim"}
    assert requests.post(f"{address}/2/promotion", json=said, timeout=20).json() == {"label": "vad-bottles/2"}
    assert [(registry.at(alias) or registry.version(1)).number for alias in (CHAMPION, PREVIOUS)] == ["2", "1"]
    again = requests.post(f"{address}/2/promotion", json=said, timeout=20)
    assert (again.status_code, "serves already" in again.text) == (422, True)
    back = requests.post(f"{address}/rollback", json={"reason": "too many alarms", "person": "Lee"}, timeout=20)
    assert back.json() == {"label": "vad-bottles/1"}
    changes = newest_changes(db, "bottles")
    assert list(zip(changes["action"], changes["person"], changes["reason"], strict=True)) == [
        ("rollback", "Lee", "too many alarms"),
        ("promote", "Kim", "finds <b>scratches</b>"),
    ]
    page = requests.get(address, timeout=20).text
    assert "finds &lt;b&gt;scratches&lt;/b&gt;" in page
    with db.reading() as connection:
        assert [row.event for row in connection.execute(notices.select())] == ["gate", "gate"]


def test_only_an_approver_decides_who_serves(web: Web, source: RigSource, registry: LineRegistry) -> None:
    address = f"{web(tokens=Tokens('all', 'judge'))}/lines/bottles/versions"
    judge = {"Authorization": "Bearer judge"}
    assert 'class="decide"' not in requests.get(address, headers=judge, timeout=20).text
    said = {"reason": "x", "person": "Kim"}
    assert requests.post(f"{address}/2/promotion", json=said, headers=judge, timeout=20).status_code == 403
    assert registry.champion().number == "1"


def test_where_mlflow_cannot_be_asked_the_page_says_so(
    web: Web, source: RigSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{web()}/lines/bottles/versions"

    def gone(*_: object) -> None:
        raise OSError("the server is away")

    monkeypatch.setattr(LineRegistry, "__init__", gone)
    answer = requests.get(address, timeout=20)
    assert answer.status_code == 200
    assert "MLflow cannot be asked now: OSError: the server is away" in answer.text
    said = {"reason": "x", "person": "Kim"}
    assert requests.post(f"{address}/2/promotion", json=said, timeout=20).status_code == 503
