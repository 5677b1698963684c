"""A small line from its table to a champion and to predictions, through the real jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
import yaml
from gravel_line import PLAN, checks, draw_tile, failure, metadata, run
from sqlalchemy import update

from tests.words.stub_endpoint import Stub
from tests.words.words_rig import data_of, texts
from vad_dagster.definitions import defs
from vad_dagster.io_manager import TABLE_FILE, store_folder
from vad_dagster.promotions import roll_back_by_person
from vad_dagster.registry import CHALLENGER, CHAMPION, PREVIOUS, SCORES_LIKE, LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_dagster.sensors import drift_alarms, new_judgements
from vad_dagster.thresholds import save_threshold, validation_scores_of
from vad_lib.errors import InputError, VadError
from vad_lib.ingest import Arrival, FolderWatch
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import Actor, newest_changes
from vad_lib.inspection_db.labels import labels_that_hold, record_label, withdraw_label
from vad_lib.inspection_db.monitoring import alarm_changes, chart_states
from vad_lib.inspection_db.schema import monitoring_state
from vad_lib.lines import Home
from vad_lib.models import InspectionModel
from vad_lib.queue import register


@pytest.fixture(scope="module")
def trained(gravel_home: Home, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    result = run(instance, "train_line")
    assert result.success, failure(result)
    return result


@pytest.fixture(scope="module")
def inspected(trained: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    result = run(instance, "inspect_line")
    assert result.success, failure(result)
    return result


@pytest.mark.spec("V1.01", "V4.07", "V4.09", "V11.12")
def test_training_goes_from_the_table_to_a_champion(trained: dg.ExecuteInProcessResult, gravel_home: Home) -> None:
    page = metadata(trained, "model_evaluation")
    assert page["n"] == page["tp"] + page["fp"] + page["tn"] + page["fn"] > 8
    assert 0 <= page["image_auroc"] <= 1
    assert "data:image/jpeg;base64," in page["heatmaps"]
    assert "/#/models/vad-gravel/versions/1" in page["links"]
    assert metadata(trained, "trained_model")["memory bank"].startswith("exact, ")
    assert not gravel_home.line("gravel").training_work.exists()
    assert metadata(trained, "champion_model")["why"] == "It is the line's first model."
    tree = gravel_home.line("gravel").train_artifacts
    assert (tree / "models" / "train" / "patchcore_model.ckpt").is_file()
    assert len(pd.read_csv(tree / "output" / "output.csv")) == page["n"]
    log = (tree / "log" / "pipeline.log").read_text()
    for asset in ("validated_dataset", "trained_model", "threshold_table", "model_evaluation"):
        assert f"step {asset} of line gravel" in log


@pytest.mark.spec("V1.03")
def test_values_lie_in_readable_files_and_nothing_is_pickled(
    trained: dg.ExecuteInProcessResult, gravel_home: Home
) -> None:
    store = gravel_home.line("gravel").store
    assert (store / "trained_model" / "detector" / "model.safetensors").is_file()
    files = [file for file in store.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".parquet", ".json", ".safetensors"}


def test_random_weights_are_a_warning_on_the_model(trained: dg.ExecuteInProcessResult) -> None:
    check = checks(trained)["backbone_weights"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert "random" in (check.description or "")


def test_checks_carry_the_line_and_broken_requirements_are_shown_without_stopping(
    trained: dg.ExecuteInProcessResult,
) -> None:
    found = checks(trained)
    assert {check.partition for check in found.values()} == {"gravel"}
    few = found["normal_image_count"]
    assert not few.passed
    assert few.severity == dg.AssetCheckSeverity.ERROR
    assert not few.blocking


def test_the_run_in_mlflow_tells_the_whole_story(trained: dg.ExecuteInProcessResult, gravel_home: Home) -> None:
    tracking = MLflowTracking()
    version = LineRegistry(tracking, "gravel").champion()
    client = tracking.connect()
    recorded = client.get_run(version.run_id)
    assert recorded.info.status == "FINISHED"
    assert recorded.data.tags["dagster.partition"] == "gravel"
    assert recorded.data.tags["dagster.run_id"] == trained.run_id
    assert recorded.data.params["model_name"] == "patchcore"
    assert recorded.data.params["patchcore_coreset_sampling_ratio"] == "0.1"
    assert {"image_auroc", "f1", "threshold", "fit_seconds", "rows_train"} <= set(recorded.data.metrics)
    inputs = {entry.tags[0].value: entry.dataset for entry in recorded.inputs.dataset_inputs}
    assert set(inputs) == {"training", "validation"}
    artifacts = {file.path for file in client.list_artifacts(version.run_id)}
    assert {"plan", "report", "threshold", "heatmaps", "system.json", "readiness_config.json"} <= artifacts
    assert "contact_sheet.jpg" in {
        file.path.split("/")[-1] for file in client.list_artifacts(version.run_id, "heatmaps")
    }


def test_what_the_fit_took_stands_beside_its_forecast(trained: dg.ExecuteInProcessResult, gravel_home: Home) -> None:
    page = metadata(trained, "trained_model")
    told = {record.data["what"]: record.data for record in page["forecast and actual"].records}
    assert told["rows of the memory bank"]["forecast"] == told["rows of the memory bank"]["actual"] > 0
    assert page["rows of the memory bank, actual / forecast"] == 1
    assert told["seconds of the fit"]["actual"] == pytest.approx(page["fit seconds"], abs=1e-3)
    assert metadata(trained, "validation_scores")["ms per image"] > 0
    run = MLflowTracking().connect().get_run(LineRegistry(MLflowTracking(), "gravel").champion().run_id)
    numbers = {f"{kind}_{name}" for kind in ("forecast", "actual") for name in ("seconds", "peak_memory_mib")}
    assert numbers | {"forecast_ms_per_image", "actual_ms_per_image"} <= set(run.data.metrics)
    report = (gravel_home.line("gravel").train_artifacts / "report" / "report.html").read_text()
    assert "What it took" in report


def test_a_version_describes_itself(trained: dg.ExecuteInProcessResult, gravel_home: Home) -> None:
    version = LineRegistry(MLflowTracking(), "gravel").version(1)
    assert CHAMPION in version.aliases
    assert version.tags["promoted_by"] == "rule: first_version"
    assert "Backbone resnet18 from random" in version.description
    assert version.description.endswith("by rule: first_version. It is the line's first model.")
    by_person = {
        "detector",
        "backbone",
        "image_auroc",
        "f1",
        "fn",
        "fp",
        "tp",
        "tn",
        "threshold",
        "threshold_method",
        "promoted_by",
    }
    by_software = {"dataset_digest", "made_from", "model_digest", "scores_like"}
    assert set(version.tags) == by_person | by_software
    for heading in (
        "### Data",
        "### On the validation rows",
        "### Threshold",
        "### Weights",
        "### Where it comes from",
    ):
        assert heading in version.description
    assert f"Run in Dagster: `{trained.run_id}`" in version.description


def test_what_mlflow_stores_names_no_address_and_leads_from_page_to_page_of_its_own(
    trained: dg.ExecuteInProcessResult,
) -> None:
    tracking = MLflowTracking()
    version = LineRegistry(tracking, "gravel").champion()
    recorded = tracking.connect().get_run(version.run_id).data.tags
    told = json.dumps([version.description, dict(version.tags), recorded])
    assert "://" not in told
    page = f"#/experiments/{tracking.experiment('gravel')}/runs/{version.run_id}"
    for name, link in (("run in MLflow", page), ("Training report", f"{page}/artifacts/report/report.html")):
        assert f"[{name}]({link})" in version.description
        assert f"[{name}]({link})" in recorded["mlflow.note.content"]


@pytest.mark.spec("V1.02", "V5.01", "V5.02", "V5.03", "V5.05", "V5.08", "V2.05")
def test_inspection_takes_the_champion_and_writes_summary_and_results(
    inspected: dg.ExecuteInProcessResult, gravel_home: Home
) -> None:
    page = metadata(inspected, "inference_outputs")
    assert (page["images"], page["without a prediction"]) == (6, 0)
    assert page["model version"] == "vad-gravel/1"
    tree = gravel_home.line("gravel").inference_artifacts
    summary = yaml.safe_load((tree / "score" / "inference_summary.yaml").read_text())
    assert summary["result"] == metadata(inspected, "inference_summary")["result"] == f"OK:{page['OK']} NG:{page['NG']}"
    assert summary["version"] == "vad-gravel/1"
    assert not list((tree / "output").glob("*confusion*"))
    assert InspectionDatabase.of(gravel_home).count_predictions("gravel") == 6


def test_inspecting_again_scores_nothing_twice(
    inspected: dg.ExecuteInProcessResult, instance: dg.DagsterInstance
) -> None:
    page = metadata(run(instance, "inspect_line"), "inference_outputs")
    assert (page["scored now"], page["known before"]) == (0, 6)


def test_a_broken_image_is_named_and_the_others_have_results(
    inspected: dg.ExecuteInProcessResult, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    draw_tile(50).save(tmp_path / "fine.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    result = run(instance, "inspect_line", {"inference_outputs": {"folder": str(tmp_path)}})
    assert result.success, failure(result)
    check = checks(result)["all_images_decided"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert "broken.png" in str(check.metadata["examples"])
    assert metadata(result, "inference_outputs")["images"] == 2


@pytest.mark.spec("V5.04", "V2.06")
def test_labels_that_are_there_are_scored(
    inspected: dg.ExecuteInProcessResult, instance: dg.DagsterInstance, gravel_home: Home
) -> None:
    folder = gravel_home.line("gravel").folder / "train"
    result = run(instance, "inspect_line", {"inference_outputs": {"folder": str(folder)}})
    assert result.success, failure(result)
    page = metadata(result, "inference_outputs")
    assert page["tp"] + page["fn"] == 8
    assert page["tn"] + page["fp"] == 24
    assert (gravel_home.line("gravel").inference_artifacts / "output" / "inference_confusion_matrix.csv").is_file()


@pytest.mark.spec("V5.06", "V5.07")
def test_heatmaps_of_every_image_are_saved_where_the_plan_asks_for_them(
    inspected: dg.ExecuteInProcessResult, instance: dg.DagsterInstance, gravel_home: Home
) -> None:
    line = gravel_home.line("gravel")
    images = line.inference_artifacts / "extra_output" / "inference" / "Patchcore" / "latest" / "images"
    assert not list(images.glob("*"))
    wanted = PLAN.replace(
        "inference_threshold: 0.5\n", "inference_threshold: 0.5\n            save_anomaly_maps: true\n"
    )
    line.plan_file.write_text(wanted)
    try:
        result = run(instance, "inspect_line")
    finally:
        line.plan_file.write_text(PLAN)
    assert result.success, failure(result)
    assert len(list(images.iterdir())) == 6
    assert "data:image/jpeg;base64," in metadata(result, "inference_outputs")["heatmaps"]
    assert not (line.folder / "maps").exists() or not any((line.folder / "maps").iterdir())


@pytest.mark.spec("V13.07")
def test_an_operator_may_set_what_the_plan_lists_and_nothing_else(
    inspected: dg.ExecuteInProcessResult, instance: dg.DagsterInstance
) -> None:
    result = run(instance, "inspect_line", {"inference_outputs": {"inference_threshold": 0.000001}})
    page = metadata(result, "inference_outputs")
    assert page["NG"] == 6
    assert page["set by the operator"] == {"inference.inference_threshold": "1e-06"}
    refused = run(instance, "inspect_line", {"inference_outputs": {"save_anomaly_maps": True}})
    assert not refused.success
    assert "save_anomaly_maps" in failure(refused)
    assert "ui_args" in failure(refused)


def test_a_new_threshold_makes_a_version_without_a_fit_and_a_person_promotes_it(
    inspected: dg.ExecuteInProcessResult, instance: dg.DagsterInstance, gravel_home: Home
) -> None:
    """Order matters: this is the only test that changes who serves."""
    weights = gravel_home.line("gravel").store / "trained_model" / "detector" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    later = ["threshold_table", "model_evaluation", "champion_model"]
    config = {"threshold_table": {"chosen_threshold": 0.01, "note": "Miss nothing."}}
    result = run(instance, "train_line", config, later)
    assert result.success, failure(result)
    assert weights.stat().st_mtime_ns == before
    registry = LineRegistry(MLflowTracking(), "gravel")
    second = registry.at(CHALLENGER)
    assert second is not None
    assert second.number == "2"
    assert second.tags["threshold_method"] == "chosen"
    assert registry.champion().number == "1"
    assert "is worse on the same rows" in metadata(result, "champion_model")["why"]
    child = MLflowTracking().connect().get_run(second.run_id)
    assert child.data.tags["mlflow.parentRunId"] == registry.champion().run_id
    assert "vad-gravel/1" in metadata(result, "model_evaluation")["beside the champion"]

    nameless = run(instance, "train_line", {"champion_model": {"promote_version": "2"}}, ["champion_model"])
    assert "decided_by" in failure(nameless)
    by_person = {"champion_model": {"promote_version": "2", "decided_by": "Kim"}}
    assert run(instance, "train_line", by_person, ["champion_model"]).success
    assert registry.champion().number == "2"
    assert registry.champion().tags["promoted_by"] == "person: Kim"
    previous = registry.at(PREVIOUS)
    assert previous is not None
    assert previous.number == "1"

    page = metadata(run(instance, "inspect_line"), "inference_outputs")
    assert (page["model version"], page["NG"]) == ("vad-gravel/2", 6)
    back = {"champion_model": {"promote_version": "previous", "decided_by": "Kim"}}
    assert run(instance, "train_line", back, ["champion_model"]).success
    assert registry.champion().number == "1"
    again = metadata(run(instance, "train_line", selection=["champion_model"]), "champion_model")
    assert "chosen by Kim" in again["why"]
    lifted = {"champion_model": {"lift_choice": True, "decided_by": "Kim"}}
    after = metadata(run(instance, "train_line", lifted, ["champion_model"]), "champion_model")
    assert "chosen by Kim" not in after["why"]
    assert registry.champion().number == "1"


def test_a_training_in_which_nothing_changed_registers_no_twin_and_says_so(
    inspected: dg.ExecuteInProcessResult, instance: dg.DagsterInstance
) -> None:
    """After the one that changes who serves: it fits anew."""
    registry = LineRegistry(MLflowTracking(), "gravel")
    assert run(instance, "train_line").success
    last = registry.last()
    assert last is not None
    for selection in (None, ["model_evaluation", "champion_model"]):
        again = run(instance, "train_line", selection=selection)
        assert again.success, failure(again)
        page = metadata(again, "model_evaluation")
        assert page["model version"] == last.label
        assert "made from the same" in page["nothing new"]
        assert registry.versions()[0].number == last.number
        told = instance.get_run_by_id(again.run_id)
        assert told is not None
        assert told.tags["vad/model_version"] == last.label


@pytest.mark.spec("V10.08", "W1.09")
def test_inspected_images_are_watched_and_an_alarm_becomes_a_report_of_its_own(
    inspected: dg.ExecuteInProcessResult, gravel_home: Home, instance: dg.DagsterInstance
) -> None:
    db = InspectionDatabase.of(gravel_home)
    line = gravel_home.line("gravel")
    assert chart_states(db, "gravel") == ("", {}), "a folder that is inspected is not the line"
    for number in range(3):
        draw_tile(100 + number).save(line.inbox / f"new {number}.png")
    watch = FolderWatch("gravel", line.inbox, 0.0, known=lambda versions: {}, skip_folders=line.own_folders)
    watch.scan()
    register(db, "gravel", line.inbox, [Arrival(version, moment) for version, moment in watch.waiting.items()])
    assert run(instance, "inspect_line", {"inference_outputs": {"queue": True}}).success
    version, states = chart_states(db, "gravel")
    assert version == LineRegistry(MLflowTracking(), "gravel").champion().label
    assert {"ng_rate", "brightness", "contrast", "sharpness", "noise"} <= set(states)
    counted = states["ng_rate"].images
    assert counted == 3
    told = drift_alarms(dg.build_sensor_context(instance, repository_def=defs.get_repository_def()))
    assert isinstance(told, dg.SkipReason) == (alarm_changes(db) == {})
    darker = replace(states["brightness"], alarm="darker by 20%", raised_at=states["brightness"].since)
    with db.writing(line="gravel") as connection:
        this = (monitoring_state.c.line == "gravel") & (monitoring_state.c.chart == "brightness")
        connection.execute(update(monitoring_state).where(this).values(alarm=darker.alarm, raised_at=darker.raised_at))
    (request,) = drift_alarms(dg.build_sensor_context(instance, repository_def=defs.get_repository_def()))
    assert request.partition_key == "gravel"
    result = run(instance, "watch_line")
    assert result.success, failure(result)
    assert metadata(result, "drift_report")["images watched"] == counted
    assert not checks(result)["no_drift"].passed
    assert checks(result)["no_drift"].description == "darker by 20%"


def test_what_people_said_is_the_line_s_performance_in_use_with_a_check_against_the_plan(
    inspected: dg.ExecuteInProcessResult, instance: dg.DagsterInstance, gravel_home: Home
) -> None:
    line, db = gravel_home.line("gravel"), InspectionDatabase.from_environment()
    assert isinstance(new_judgements(dg.build_sensor_context(instance)), dg.SkipReason)
    newest = db.predictions("gravel").query("predicted == 'NG'")["prediction_id"]
    for number in newest:
        record_label(db, int(number), "OK", by=Actor("Kim"))
    plan = yaml.safe_load(line.plan_file.read_text(encoding="utf-8"))
    try:
        asked = plan | {"operation": {**plan.get("operation", {}), "least_precision": 0.9, "least_recall": 0.9}}
        line.plan_file.write_text(yaml.safe_dump(asked), encoding="utf-8")
        (request,) = new_judgements(dg.build_sensor_context(instance))
        assert request.partition_key == "gravel"
        result = run(instance, "watch_line")
        assert result.success, failure(result)
    finally:
        line.plan_file.write_text(yaml.safe_dump(plan), encoding="utf-8")
        for number in labels_that_hold(db, "gravel")["prediction_id"]:
            withdraw_label(db, int(number), by=Actor("Kim"))
    page, check = metadata(result, "field_performance"), checks(result)["within_limits"]
    assert page["in words"].startswith(f"{db.count_predictions('gravel')} images")
    assert "0.0% of what is called NG is defective" in page["in words"]
    assert "data:image/png;base64," in page["by week"]
    assert not check.passed
    assert check.description is not None
    assert check.description.startswith("Precision is 0 ")
    label = db.predictions("gravel")["model_version"].iloc[-1]  # an earlier test may have changed who serves
    version = LineRegistry(MLflowTracking(), "gravel").version(label.rpartition("/")[2])
    assert MLflowTracking().connect().get_run(version.run_id).data.metrics["field_precision"] == 0


@pytest.mark.spec("P7.10")
def test_findings_are_described_with_the_references_and_the_maps_of_the_line_s_own_training(
    inspected: dg.ExecuteInProcessResult,
    instance: dg.DagsterInstance,
    gravel_home: Home,
    stub: Stub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VAD_VLM_URL", stub.url)
    monkeypatch.setenv("VAD_VLM_MODEL", "stub")
    result = run(instance, "describe_line", {"finding_descriptions": {"newest": 1, "only_ng": True}})
    assert result.success, failure(result)
    page = metadata(result, "finding_descriptions")
    assert (page["described"], page["failed"], page["disagreements"]) == (1, 0, 0)
    (body,) = stub.asked
    captions = [text for text in texts(body) if text.startswith("Picture")]
    assert captions[:2] == [f"Picture {n}: a normal part, reference {n}." for n in (1, 2)]
    assert "numbered boxes" in captions[3]
    data = data_of(body)
    assert data["detector"]["decision"] == "NG"
    assert data["regions"]
    assert not data["known_kinds_of_defect"], "the table calls everything that is wrong a scratch"


def test_a_person_saves_another_threshold_as_a_version_that_serves_and_goes_back(
    trained: dg.ExecuteInProcessResult, instance: dg.DagsterInstance, gravel_home: Home
) -> None:
    tracking, db = MLflowTracking(), InspectionDatabase.from_environment()
    registry = LineRegistry(tracking, "gravel")
    before = registry.champion()
    # an earlier test may have left the scores of a training that made another version
    file = store_folder("gravel", "validation_scores") / TABLE_FILE
    scores = pd.read_parquet(file)
    assert scores.attrs["scores_like"], "a training says whose scores they are"
    scores.attrs["scores_like"] = before.tags[SCORES_LIKE]
    scores.to_parquet(file, index=False)
    old = InspectionModel.load(registry.folder(before))
    rows = validation_scores_of(before)
    assert len(rows) > 8
    above_all = float(rows["raw_score"].max()) + 1
    for value, reason, said in (
        (above_all, " ", "Say why"),
        (float("inf"), "x", "a number"),
        (old.threshold.value, "x", "already"),
    ):
        with pytest.raises(InputError, match=said):
            save_threshold(db, tracking, "gravel", value, Actor("Kim"), reason)
    plan_file = gravel_home.line("gravel").plan_file
    text = plan_file.read_text(encoding="utf-8")
    plan = yaml.safe_load(text)
    plan["operation"] = {**plan.get("operation", {}), "promotion": "never"}
    plan_file.write_text(yaml.safe_dump(plan), encoding="utf-8")
    try:
        with pytest.raises(VadError, match="never"):
            save_threshold(db, tracking, "gravel", above_all, Actor("Kim"), "fewer alarms")
    finally:
        plan_file.write_text(text, encoding="utf-8")
    made = save_threshold(db, tracking, "gravel", above_all, Actor("Kim", "approver"), "fewer alarms")
    try:
        assert (registry.champion().label, registry.at(PREVIOUS).label) == (made.label, before.label)  # type: ignore[union-attr]
        new = InspectionModel.load(registry.folder(made))
        assert (new.threshold.value, new.threshold.method) == (above_all, "chosen")
        assert "Kim: fewer alarms" in new.threshold.note
        assert new.calibration(above_all) == 0.5
        for name, tensor in new.detector.state_dict().items():
            assert (tensor == old.detector.state_dict()[name]).all()
        assert made.tags["fp"] == "0"
        assert made.tags["threshold_from"] == before.label
        assert registry.labels_of(made).equals(registry.labels_of(before))
        assert len(validation_scores_of(made)) == len(rows)
        change = newest_changes(db, "gravel").iloc[0]
        assert (change["action"], change["person"], change["reason"]) == ("threshold", "Kim", "fewer alarms")
    finally:
        roll_back_by_person(db, registry, Actor("Kim"), "a test")
    assert registry.champion().label == before.label


def test_detectors_are_compared_on_the_line_and_the_plan_stays_as_it_is(
    trained: dg.ExecuteInProcessResult, instance: dg.DagsterInstance, gravel_home: Home
) -> None:
    line = gravel_home.line("gravel")
    plan = line.plan_file.read_bytes()
    result = run(instance, "compare_line", {"model_choice": {"models": ["patchcore"], "parts": 3}})
    assert result.success, failure(result)
    page = metadata(result, "model_choice")
    assert page["recommendation"].startswith("Recommended: patchcore. Its AUROC is ")
    assert "patchcore" in (line.comparison / "index.html").read_text(encoding="utf-8")
    assert list(pd.read_csv(line.comparison / "figures.csv")["detector"]) == ["patchcore"]
    assert line.plan_file.read_bytes() == plan


def test_the_champion_loads_and_predicts_in_a_fresh_process(
    trained: dg.ExecuteInProcessResult, gravel_home: Home, tmp_path: Path
) -> None:
    """Away from the repository, so that the model's own copy of the code has to do."""
    image = gravel_home.line("gravel").folder / "inference" / "tile40.png"
    code = (
        "import base64, json, mlflow, pandas as pd, pathlib, sys\n"
        "model = mlflow.pyfunc.load_model('models:/vad-gravel@champion')\n"
        f"file = {str(image)!r}\n"
        "by_path = model.predict(pd.DataFrame({'image_path': [file, '/nowhere.png']}))\n"
        "encoded = base64.b64encode(pathlib.Path(file).read_bytes()).decode()\n"
        "frame = pd.DataFrame({'image_base64': [encoded]})\n"
        "by_bytes = model.predict(frame, params={'inference_threshold': 0.999999})\n"
        "print(json.dumps([by_path.to_dict('records'), by_bytes.to_dict('records')]))\n"
    )
    from vad_dagster.home import prepare_home

    environment = prepare_home(gravel_home)
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    (good, missing), (same,) = json.loads(answer.stdout.splitlines()[-1])
    assert good["predicted"] in ("OK", "NG")
    assert good["error"] is None
    assert missing["predicted"] is None
    assert missing["error"]
    assert same["raw_score"] == pytest.approx(good["raw_score"], abs=0)
    assert same["predicted"] == "OK"
