"""The page of the threshold: what it is given to judge, and who may save."""

from __future__ import annotations

import json
import re
from pathlib import Path

import requests
from brightness_model import write_image
from serving_rig import RigSource, until

from tests.serving_web.conftest import Web
from tests.serving_web.test_version_pages import registry
from vad_dagster.registry import LineRegistry
from vad_dagster.service.people import Tokens
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import Actor
from vad_lib.inspection_db.labels import record_label
from vad_lib.inspection_db.schema import predictions

__all__ = ["registry"]


def test_recent_images_are_given_with_scores_and_labels_and_the_plans_costs(
    web: Web, source: RigSource, registry: LineRegistry, db: InspectionDatabase
) -> None:
    address = web()
    write_image(Path(source.lines["bottles"].folder) / "</script>part.png".replace("/", "_"), 200)
    until(lambda: db.count_predictions("bottles") == 1)
    with db.writing() as connection:
        connection.execute(predictions.update().values(model_version="vad-bottles/1"))
    record_label(db, 1, "OK", by=Actor("Kim"))
    page = requests.get(f"{address}/lines/bottles/threshold", timeout=20).text
    found = re.search(r'id="scores">(.*?)</script>', page)
    assert found is not None
    data = json.loads(found.group(1))
    assert data["threshold"] == 1.5
    assert data["validation"] == []
    assert [(one["id"], one["was"], one["said"]) for one in data["recent"]] == [(1, "NG", "OK")]
    assert "are not on this machine: only recent images are shown" in page
    assert 'id="miss" type="number" min="0" step="any" value="100"' in page


def test_only_an_approver_saves_and_only_a_number_with_a_reason(
    web: Web, source: RigSource, registry: LineRegistry
) -> None:
    address = f"{web(tokens=Tokens('all', 'judge'))}/lines/bottles/threshold"
    said = {"threshold": 2.0, "reason": "x", "person": "Kim"}
    assert requests.post(address, json=said, headers={"Authorization": "Bearer judge"}, timeout=20).status_code == 403
    bearer = {"Authorization": "Bearer all"}
    assert "There is no score yet" in requests.get(address, headers=bearer, timeout=20).text
    for wrong in ({"threshold": 2.0, "person": "Kim"}, {**said, "threshold": "NaN"}, {**said, "reason": ""}):
        assert requests.post(address, json=wrong, headers=bearer, timeout=20).status_code == 422
