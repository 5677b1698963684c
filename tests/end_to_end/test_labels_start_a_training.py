"""The loop on real processes: images are inspected, people say what they are, and a training starts by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_processes import SMALL_PLAN, Place, wait_for

from vad_dagster.registry import LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home
from vad_lib.synthetic import make_demo_drop, make_demo_line

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ASKED = "operation: {train_after_labels: 3, retrain_interval_hours: 0, settle_seconds: 1.0}\n"


@pytest.mark.spec("L2.01", "L3.02", "L3.04")
def test_three_labels_start_a_training_that_takes_exactly_them(place: Place, tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_demo_line(data, train_normal=40, valid_normal=10, valid_of_each_kind=2, side=64)
    (data / "experimental_plan.yaml").write_text(SMALL_PLAN + ASKED)
    place.vad("line", "add", "bricks", "--plan", data / "experimental_plan.yaml")
    place.vad("train", "bricks")
    line = Home(place.home).line("bricks")
    make_demo_drop(line.inbox, 5, normal=4, defective=2, broken=0, side=64)
    db = InspectionDatabase.of(Home(place.home))
    registry = LineRegistry(MLflowTracking(), "bricks")
    with place.daemon():
        wait_for(lambda: db.count_predictions("bricks") == 6, 300, "prediction of every image")
        judged = [int(number) for number in db.predictions("bricks")["prediction_id"].head(3)]
        for number in judged:
            place.vad("label", "give", "bricks", number, "ok", "--person", "Kim")
        wait_for(lambda: (last := registry.last()) is not None and last.number == "2", 500, "second version")
    labels = registry.labels_of(registry.version(2))
    assert sorted(labels["prediction_id"]) == judged
    assert set(labels["used_as"]) <= {"train", "valid"}
    reason = MLflowTracking().connect().get_run(registry.version(2).run_id).data.tags["vad.reason"]
    assert reason == "people judged 3 images since the last training (3 are enough)"
    assert "Kim" in place.vad("label", "list", "bricks", "--version", "2")
