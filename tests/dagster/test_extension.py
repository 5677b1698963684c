"""A champion that is extended, promoted and rolled back: the real job, a real registry, and the commands."""

from __future__ import annotations

import json
import os
from pathlib import Path

import dagster as dg
import pytest
from gravel_line import draw_tile, failure, make_line, metadata, run
from typer.testing import CliRunner, Result

from vad_dagster.cli import app
from vad_dagster.registry import CHALLENGER, CHAMPION, LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_lib.lines import Home
from vad_lib.models import InspectionModel


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three normal tiles, brighter than those that were trained on, and one file that is no image."""
    folder = tmp_path_factory.mktemp("confirmed")
    for number in (50, 51, 52):
        draw_tile(number).point(lambda value: min(255, value + 70)).save(folder / f"bright{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def extended(gravel_home: Home, instance: dg.DagsterInstance, photographs: Path) -> dg.ExecuteInProcessResult:
    trained = run(instance, "train_line")
    assert trained.success, failure(trained)
    result = run(instance, "extend_line", {"extended_model": {"images": [str(photographs)], "decided_by": "Kim"}})
    assert result.success, failure(result)
    return result


def vad(*words: object) -> Result:
    before = dict(os.environ)
    try:
        return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.spec("X1.04")
def test_an_extension_is_a_challenger_of_its_own_that_tells_before_and_after(
    extended: dg.ExecuteInProcessResult, photographs: Path
) -> None:
    page = metadata(extended, "extended_model")
    assert (page["images added"], page["images refused"], page["rows added"] > 0) == (3, 1, True)
    assert "broken.png" in page["notices"]
    registry = LineRegistry(MLflowTracking(), "gravel")
    champion, challenger = registry.at(CHAMPION), registry.at(CHALLENGER)
    assert champion is not None
    assert challenger is not None
    assert (champion.number, challenger.number) == ("1", "2")
    assert challenger.tags["extended_from"] == "vad-gravel/1"
    assert challenger.tags["extended_by"] == "Kim"
    assert (challenger.tags["images_added"], challenger.tags["rows_added"]) == ("3", str(page["rows added"]))
    assert "promoted_by" not in challenger.tags
    assert challenger.tags["backbone"] == champion.tags["backbone"]
    client = MLflowTracking().connect()
    recorded = client.get_run(challenger.run_id)
    assert recorded.data.tags["mlflow.parentRunId"] == champion.run_id
    assert {"before_f1", "f1", "kept_threshold_f1", "rows_added"} <= set(recorded.data.metrics)
    told = json.loads(Path(client.download_artifacts(challenger.run_id, "extension.json")).read_text())
    assert [Path(file).name for file in told["images_added"]] == ["bright50.png", "bright51.png", "bright52.png"]
    old, new = (InspectionModel.load(registry.folder(version)) for version in (champion, challenger))
    rows = [len(model.detector.state_dict()["memory_bank"]) for model in (old, new)]
    assert rows[1] - rows[0] == page["rows added"]


def test_the_job_refuses_without_a_name_and_where_nothing_is_new(
    extended: dg.ExecuteInProcessResult, instance: dg.DagsterInstance, gravel_home: Home, photographs: Path
) -> None:
    nameless = run(instance, "extend_line", {"extended_model": {"images": [str(photographs)]}})
    assert "decided_by" in failure(nameless)
    known = gravel_home.line("gravel").folder / "train" / "scratch"
    refused = run(instance, "extend_line", {"extended_model": {"images": [str(known)], "decided_by": "Kim"}})
    assert "the ground-truth table calls it 'scratch'" in failure(refused)
    assert len(LineRegistry(MLflowTracking(), "gravel").versions()) == 2


def test_where_everything_is_materialized_at_once_and_no_image_is_given_nothing_is_extended(
    extended: dg.ExecuteInProcessResult, instance: dg.DagsterInstance
) -> None:
    result = run(instance, "extend_line")
    assert result.success
    assert not result.asset_materializations_for_node("extended_model")
    assert len(LineRegistry(MLflowTracking(), "gravel").versions()) == 2


@pytest.mark.spec("X1.04")
def test_versions_are_listed_promoted_and_rolled_back_by_commands(
    extended: dg.ExecuteInProcessResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order matters: the last test that changes who serves."""
    listed = vad("model", "list", "gravel").output
    assert "vad-gravel/1 and 3 images" in listed
    assert "challenger" in listed
    monkeypatch.setenv("SERVICE_UI_URL", "https://lines.example")
    shown = vad("model", "show", "gravel", "challenger").output
    assert "Nothing was fitted again" in shown
    assert "predictions: https://lines.example/lines/gravel/results?version=2" in shown
    promoted = vad("model", "promote", "gravel", "--by", "Lee")
    assert promoted.exit_code == 0, promoted.output
    assert "vad-gravel/2 serves line gravel; vad-gravel/1 is the previous one." in promoted.output
    registry = LineRegistry(MLflowTracking(), "gravel")
    assert registry.champion().tags["promoted_by"] == "person: Lee"
    assert "vad-gravel/1 serves" in vad("model", "rollback", "gravel").output
    assert registry.champion().number == "1"
    wrong = vad("model", "promote", "gravel", "17")
    assert wrong.exit_code == 1
    assert "There are: 2 (previous), 1 (champion)" in wrong.output


def test_a_line_without_versions_says_how_to_get_one(extended: dg.ExecuteInProcessResult, gravel_home: Home) -> None:
    make_line(gravel_home, "sand", normal=1, scratched=0)
    assert "vad train sand" in vad("model", "list", "sand").output
    none = vad("model", "promote", "sand")
    assert none.exit_code == 1
    assert "no version 'challenger'" in none.output


@pytest.mark.spec("F1.04")
def test_a_dry_run_tells_what_a_training_takes_and_writes_nothing(
    extended: dg.ExecuteInProcessResult, gravel_home: Home
) -> None:
    before = {file: file.stat().st_mtime_ns for file in gravel_home.root.rglob("*") if "mlflow.db" not in file.name}
    told = vad("train", "gravel", "--dry-run")
    assert told.exit_code == 0, told.output
    for what in ("time to fit", "memory at the peak", "memory bank", "inspecting an image", "Nothing was written"):
        assert what in told.output
    wrong = vad("train", "gravel", "--dry-run", "--set", "max_epochs=2")
    assert wrong.exit_code == 1
    assert "ui_args" in wrong.output
    after = {file: file.stat().st_mtime_ns for file in gravel_home.root.rglob("*") if "mlflow.db" not in file.name}
    assert after == before
