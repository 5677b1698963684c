"""What is wrong with the data is told in a check and in the failure, in words that a user can act on."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from gravel_line import PLAN, checks, failure, metadata, run

from vad_dagster.registry import LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_lib.encoders.fallback import TAG, measured_cost
from vad_lib.lines import Home


@pytest.fixture
def second_line(gravel_home: Home, instance: dg.DagsterInstance) -> Path:
    """A copy of the line whose data a test may spoil."""
    folder = gravel_home.line("spoilt").folder
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(gravel_home.line("gravel").folder / "train", folder / "train")
    (folder / "experimental_plan.yaml").write_text(PLAN)
    instance.add_dynamic_partitions("line", ["spoilt"])
    return folder


@pytest.mark.spec("V3.02", "V9.02")
def test_a_missing_column_stops_the_run_and_the_check_names_it(second_line: Path, instance: dg.DagsterInstance) -> None:
    table = second_line / "train" / "train.csv"
    pd.read_csv(table).rename(columns={"label": "lable"}).to_csv(table, index=False)
    result = run(instance, "train_line", line="spoilt")
    assert not result.success
    check = checks(result)["missing_columns"]
    assert not check.passed
    assert "no column 'label'" in check.description
    assert "'lable'" in check.description
    made = {event.asset_key.path[-1] for event in result.get_asset_materialization_events()}
    assert made == {"confirmed_labels", "ground_truth"}


@pytest.mark.spec("V3.04")
def test_a_wrong_normal_label_is_told_in_the_check_and_in_the_failure(
    second_line: Path, instance: dg.DagsterInstance
) -> None:
    (second_line / "experimental_plan.yaml").write_text(PLAN.replace("ok_class: good", "ok_class: goood"))
    result = run(instance, "train_line", line="spoilt")
    check = checks(result)["ok_class"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.ERROR
    assert "'goood' is not among the labels" in check.description
    assert "Readiness stopped" in failure(result)
    assert "'good'" in failure(result)


@pytest.mark.spec("V3.01", "V3.03")
def test_dropped_rows_are_examples_of_their_check(second_line: Path, instance: dg.DagsterInstance) -> None:
    table = second_line / "train" / "train.csv"
    rows = pd.read_csv(table)
    rows.loc[0, "label"] = None
    rows.loc[1, "image_path"] = "./good/nowhere.png"
    rows.to_csv(table, index=False)
    result = run(
        instance, "train_line", line="spoilt", selection=["confirmed_labels", "ground_truth", "validated_dataset"]
    )
    assert result.success, failure(result)
    found = checks(result)
    assert not found["missing_values"].passed
    assert found["missing_values"].severity == dg.AssetCheckSeverity.WARN
    records = found["missing_file"].metadata["examples"].records
    assert "nowhere.png" in str(records)
    assert metadata(result, "validated_dataset")["dropped rows"] == 2


@pytest.mark.spec("D4", "V9.07")
def test_an_enforced_requirement_stops_training(second_line: Path, instance: dg.DagsterInstance) -> None:
    plan = PLAN.replace("ok_class: good\n", "ok_class: good\n            enforce_requirements: true\n")
    (second_line / "experimental_plan.yaml").write_text(plan)
    result = run(instance, "train_line", line="spoilt")
    assert not result.success
    assert "normal_image_count" in failure(result)
    allowed = plan.replace(
        "enforce_requirements: true", "enforce_requirements: true\n            allow_small_dataset: true"
    )
    (second_line / "experimental_plan.yaml").write_text(allowed)
    again = run(
        instance, "train_line", line="spoilt", selection=["confirmed_labels", "ground_truth", "validated_dataset"]
    )
    assert again.success, failure(again)


@pytest.mark.spec("V13.09")
def test_a_wrong_plan_and_a_missing_table_fail_with_their_own_words(
    second_line: Path, instance: dg.DagsterInstance
) -> None:
    (second_line / "train" / "train.csv").unlink()
    result = run(instance, "train_line", line="spoilt")
    assert "holds no csv file" in failure(result)
    assert "holds no csv file" in checks(result)["readable_table"].description
    (second_line / "experimental_plan.yaml").write_text(PLAN.replace("percentile:", "percentil:"))
    told = failure(run(instance, "train_line", line="spoilt"))
    assert "percentil" in told
    assert "did you mean" in told.lower() or "'percentile'" in told


def test_training_stops_before_it_starts_without_weights(
    second_line: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VAD_ALLOW_RANDOM_WEIGHTS")
    monkeypatch.setenv("VAD_FALLBACK_BACKBONE", "0")
    plan = PLAN.replace("patchcore_backbone: resnet18", "patchcore_backbone: resnet34")
    (second_line / "experimental_plan.yaml").write_text(plan)
    result = run(instance, "train_line", line="spoilt")
    check = checks(result)["backbone_weights"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.ERROR
    assert "vad weights fetch resnet34" in check.description
    assert "vad weights fetch resnet34" in failure(result)
    assert not result.success


def test_inspecting_a_line_without_a_champion_says_what_to_do(second_line: Path, instance: dg.DagsterInstance) -> None:
    result = run(instance, "inspect_line", line="spoilt")
    assert "has no champion" in failure(result)
    assert "train it first" in failure(result)


def test_a_first_version_of_a_hopeless_table_waits_for_a_person(
    gravel_home: Home, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    line = gravel_home.line("tiny")
    shutil.copytree(gravel_home.line("gravel").folder / "train", line.folder / "train")
    line.plan_file.write_text(PLAN)
    table = line.folder / "train" / "train.csv"
    rows = pd.read_csv(table)
    pd.concat([rows[rows["label"] == "good"].head(5), rows[rows["label"] != "good"]]).to_csv(table, index=False)
    instance.add_dynamic_partitions("line", ["tiny"])
    result = run(instance, "train_line", line="tiny")
    assert result.success, failure(result)
    page = metadata(result, "champion_model")
    assert page["version"] == "none serves"
    assert "It waits for a person." in page["why"]
    assert "vad model promote" in page["why"]
    inspected = run(instance, "inspect_line", line="tiny")
    assert "vad-tiny/1 waits for a person" in failure(inspected)
    by_person = {"champion_model": {"promote_version": "1", "decided_by": "Kim"}}
    assert run(instance, "train_line", by_person, ["champion_model"], line="tiny").success
    assert LineRegistry(MLflowTracking(), "tiny").champion().number == "1"


# last in this file: it gives the line a champion
def test_the_fallback_backbone_stands_in_with_a_warning_that_tells_what_it_costs(
    second_line: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VAD_ALLOW_RANDOM_WEIGHTS")
    monkeypatch.delenv("VAD_FALLBACK_BACKBONE", raising=False)
    plan = PLAN.replace("patchcore_backbone: resnet18", "patchcore_backbone: resnet34")
    (second_line / "experimental_plan.yaml").write_text(plan)
    result = run(instance, "train_line", line="spoilt")
    check = checks(result)["backbone_weights"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert "is used instead" in check.description
    assert "instead of" in check.description
    assert result.success
    (version, *_) = LineRegistry(MLflowTracking(), "spoilt").versions()
    assert version.tags[TAG].startswith("tf_efficientnet_lite0 instead of resnet34. ")
    assert measured_cost() in version.tags[TAG]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"trained_model": {"batch_size": 8}}, "An operator may not change it"),
        ({"trained_model": {"model_name": "pathcore"}}, "Did you mean patchcore?"),
        ({"threshold_table": {"percentile": 2.0}}, "from 0 to 1"),
    ],
)
def test_what_a_later_step_would_refuse_is_refused_by_the_first_one(
    second_line: Path, instance: dg.DagsterInstance, config: dict[str, dict[str, object]], told: str
) -> None:
    result = run(instance, "train_line", config, line="spoilt")
    assert not result.success
    assert told in failure(result)
    assert not result.get_asset_materialization_events()


def test_layers_that_the_backbone_does_not_have_are_refused_by_the_first_step(
    second_line: Path, instance: dg.DagsterInstance
) -> None:
    (second_line / "experimental_plan.yaml").write_text(PLAN.replace("[layer1, layer2]", "[layer1, layer7]"))
    result = run(instance, "train_line", line="spoilt")
    assert "the layers of resnet18 are act1, layer1" in failure(result)
    assert not result.get_asset_materialization_events()
