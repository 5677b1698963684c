"""A line without training images, from ``vad line add`` through the real jobs to a champion and its predictions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import mlflow
import pandas as pd
import pytest
from gravel_line import checks, draw_tile, failure, metadata, own_home, run
from typer.testing import CliRunner

from tests.detectors.tiny_prompts import write_tiny_prompts
from vad_dagster.cli import app
from vad_dagster.cli.lines import add_line
from vad_dagster.registry import CHALLENGER, CHAMPION, LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_dagster.sensors.trainings import inputs_of
from vad_lib.comparison.random_clip import write_random_clip
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home
from vad_lib.models import InspectionModel
from vad_lib.plan import read_plan


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with the line 'sand', whose plan is that of ``vad line add sand --model anomalyclip`` with a tiny CLIP."""
    with own_home(tmp_path_factory.mktemp("sand")) as home:
        write_random_clip(home.weights_folder / "tiny_clip")
        write_tiny_prompts(home.weights_folder)
        line = home.line("sand")
        add_line(line, model="anomalyclip")
        tiny = "anomalyclip_encoder: tiny_clip, anomalyclip_levels: [2, 4], anomalyclip_image_side: 48"
        text = line.plan_file.read_text().replace("# model_parameters: {", f"model_parameters: {{{tiny}}}  # {{", 1)
        text = text.replace("# threshold_from_first: 0", "threshold_from_first: 6", 1)
        line.plan_file.write_text(text.replace("# promotion: by_person", "promotion: automatic", 1))
        (line.folder / "inference").mkdir()
        for number in range(6):
            draw_tile(number, scratched=number % 2 == 0).save(line.folder / "inference" / f"tile{number}.png")
        yield home


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        ephemeral.add_dynamic_partitions("line", ["sand"])
        yield ephemeral


@pytest.fixture(scope="module")
def trained(home: Home, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    result = run(instance, "train_line", line="sand")
    assert result.success, failure(result)
    return result


def test_a_line_without_a_table_is_trained_and_serves_where_the_plan_promotes_by_itself(
    trained: dg.ExecuteInProcessResult, home: Home
) -> None:
    version = LineRegistry(MLflowTracking(), "sand").champion()
    assert version.number == "1"
    assert version.tags["threshold_method"] == "Fixed"
    assert not {"fn", "fp", "f1"} & set(version.tags)
    assert "promotion: automatic lets it serve" in version.description
    assert "nothing is known yet about misses and false alarms" in version.description
    model = InspectionModel.load(LineRegistry(MLflowTracking(), "sand").folder(version))
    assert model.threshold.value == 0.5
    assert float(model.calibration(0.5)) == 0.5
    assert float(model.calibration(1.0)) == pytest.approx(0.9, abs=1e-3)


def test_every_room_says_that_there_were_no_images(trained: dg.ExecuteInProcessResult, home: Home) -> None:
    told = checks(trained)["no_training_images"]
    assert told.passed
    assert "needs none" in (told.description or "")
    assert all(check.passed or check.severity == dg.AssetCheckSeverity.WARN for check in checks(trained).values())
    page = metadata(trained, "model_evaluation")
    assert page["n"] == 0
    assert "fn" not in page
    assert "nothing is known yet" in page["result"]
    report = (home.line("sand").train_artifacts / "report" / "report.html").read_text()
    assert "trained on no images" in report
    assert "nothing is known yet about misses and false alarms" in report
    assert "decided wrongly" not in report


def test_the_registered_version_predicts(trained: dg.ExecuteInProcessResult, home: Home) -> None:
    MLflowTracking().connect()
    model = mlflow.pyfunc.load_model(f"models:/vad-sand@{CHAMPION}")
    found = model.predict(pd.DataFrame({"image_path": [str(home.line("sand").folder / "inference" / "tile0.png")]}))
    assert found["error"].isna().all()
    assert (found["predicted"][0] == "NG") == (found["raw_score"][0] >= 0.5)


def test_the_next_training_takes_the_quantile_of_the_first_images_that_were_inspected(
    trained: dg.ExecuteInProcessResult, home: Home, instance: dg.DagsterInstance
) -> None:
    line = home.line("sand")
    plan = read_plan(line.plan_file, line.base_folder)
    before = inputs_of(line, plan)
    folder = str(line.folder / "inference")
    inspected = run(instance, "inspect_line", {"inference_outputs": {"folder": folder}}, line="sand")
    assert inspected.success, failure(inspected)
    assert inputs_of(line, plan) != before
    later = ["threshold_table", "model_evaluation", "champion_model"]
    again = run(instance, "train_line", selection=later, line="sand")
    assert again.success, failure(again)
    scores = InspectionDatabase.of(home).predictions("sand")["raw_score"]
    learnt = metadata(again, "threshold_table")
    assert learnt["method"] == "FirstInspected"
    assert scores.quantile(0.9) < learnt["threshold"] <= scores.max()
    registry = LineRegistry(MLflowTracking(), "sand")
    waiting = registry.at(CHALLENGER)
    assert waiting is not None
    assert (registry.champion().number, waiting.number) == ("1", "2")
    assert "a person decides" in metadata(again, "champion_model")["why"]


def test_inspected_images_have_heatmaps(
    trained: dg.ExecuteInProcessResult, home: Home, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    line = home.line("sand")
    before = line.plan_file.read_text()
    draw_tile(20).save(tmp_path / "tile20.png")
    line.plan_file.write_text(before.replace("# save_anomaly_maps: False", "save_anomaly_maps: True", 1))
    try:
        result = run(instance, "inspect_line", {"inference_outputs": {"folder": str(tmp_path)}}, line="sand")
    finally:
        line.plan_file.write_text(before)
    assert result.success, failure(result)
    assert "data:image/jpeg;base64," in metadata(result, "inference_outputs")["heatmaps"]


def test_the_drift_report_knows_of_no_training_image(
    trained: dg.ExecuteInProcessResult, instance: dg.DagsterInstance
) -> None:
    result = run(instance, "watch_line", line="sand")
    assert result.success, failure(result)
    assert checks(result)["no_drift"].passed


def test_a_dry_run_and_an_export_say_what_they_can_without_images(
    trained: dg.ExecuteInProcessResult, tmp_path: Path
) -> None:
    before = dict(os.environ)
    try:
        told = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["train", "sand", "--dry-run"])
        refused = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["export", "sand", "--to", str(tmp_path / "out")])
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert told.exit_code == 0, told.output
    assert "inspecting an image" in told.output
    assert "name a folder of images to compare on with --images" in " ".join(refused.output.split())
