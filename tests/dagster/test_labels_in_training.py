"""What people say reaches the next training through the graph, and the way leads back from a version to the labels."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from gravel_line import checks, failure, make_line, metadata, own_home, run
from sqlalchemy import insert
from typer.testing import CliRunner

from vad_dagster.cli import app
from vad_dagster.jobs import LABELS_TAG, TRAIN_TAG
from vad_dagster.registry import LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_dagster.sensors.trainings import inputs_of, last_trained, since_training
from vad_dagster.values import last_dataset
from vad_lib.inspection_db import InspectionDatabase, utc_now
from vad_lib.inspection_db.audit import Actor
from vad_lib.inspection_db.labels import record_label, withdraw_label
from vad_lib.inspection_db.schema import predictions
from vad_lib.lines import Home
from vad_lib.plan import read_plan

SAID = {"tile41.png": "OK", "tile40.png": "NG", "tile43.png": "OK", "learnt.png": "NG"}
"""A normal tile, a scratched one, one whose image vanishes, and one that the table calls good."""
BEFORE_FIT = ["confirmed_labels", "ground_truth", "validated_dataset"]


@pytest.fixture(scope="module")
def gravel_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with own_home(tmp_path_factory.mktemp("gravel")) as home:
        line = make_line(home)
        shutil.copy(line.folder / "train" / "good" / "tile0.png", line.folder / "inference" / "learnt.png")
        yield home


@pytest.fixture(scope="module")
def inspected(gravel_home: Home) -> Mapping[str, int]:
    """The tiles have predictions, of a version that another machine trained; their numbers by the name of the file."""
    row = {
        "line": "gravel", "model_version": "vad-gravel/1", "raw_score": 1.0, "p": 0.4, "certainty": 0.2,
        "predicted": "OK", "threshold": 1.0, "threshold_version": "t", "inference_threshold": 0.5, "source": "batch",
        "created_at": utc_now(),
    }  # fmt: skip
    numbers = {}
    with InspectionDatabase.from_environment().writing() as connection:
        for file in sorted((gravel_home.line("gravel").folder / "inference").iterdir()):
            content = {"path": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            one = insert(predictions).values(**row, **content).returning(predictions.c.prediction_id)
            numbers[file.name] = int(connection.execute(one).scalar_one())
    return numbers


@pytest.fixture(scope="module")
def trained(inspected: Mapping[str, int], gravel_home: Home, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """A training after four labels; the image of one is gone."""
    for name, label in SAID.items():
        db = InspectionDatabase.from_environment()
        record_label(db, inspected[name], label, by=Actor("Kim"))  # type: ignore[arg-type]
    (gravel_home.line("gravel").folder / "inference" / "tile43.png").unlink()
    result = run(instance, "train_line")
    assert result.success, failure(result)
    return result


def used_as(home: Home) -> dict[str, str]:
    dataset = last_dataset(home.line("gravel"))
    assert dataset is not None
    used = dataset.labels_used()
    return {Path(path).name: what for path, what in zip(used["path"], used["used_as"], strict=True)}


@pytest.mark.spec("L2.01", "L2.02", "P7.08")
def test_confirmed_images_are_trained_with_and_the_users_folder_stays_as_it_was(
    trained: dg.ExecuteInProcessResult, gravel_home: Home
) -> None:
    used = used_as(gravel_home)
    assert used.pop("tile41.png") in ("train", "valid")
    assert used == {"tile40.png": "valid", "learnt.png": "labels_against_table"}
    line = gravel_home.line("gravel")
    assert sorted(file.name for file in (line.folder / "train").iterdir()) == ["good", "scratch", "train.csv"]
    assert len(list(line.labelled_images.iterdir())) == 3
    dataset = last_dataset(line)
    assert dataset is not None
    assert dataset.rows.set_index("row")["label"].loc[33] == "scratch", "the word of the table for a defect"


@pytest.mark.spec("L1.04", "L2.01")
def test_the_page_of_the_labels_says_how_many_who_when_and_what_is_lost(
    trained: dg.ExecuteInProcessResult, inspected: Mapping[str, int]
) -> None:
    page = metadata(trained, "confirmed_labels")
    assert (page["dagster/row_count"], page["normal"], page["defective"], page["images lost"]) == (4, 2, 2, 1)
    assert page["people"] == "Kim: 4"
    assert f"/lines/gravel/results/{inspected['tile40.png']})" in page["the newest labels"]
    lost = checks(trained)["lost_labels"]
    assert not lost.passed
    assert "tile43.png" in (lost.description or "")
    assert metadata(trained, "ground_truth")["rows by people"] == 3


@pytest.mark.spec("L2.04")
def test_a_contradiction_is_a_check_with_its_picture(trained: dg.ExecuteInProcessResult) -> None:
    check = checks(trained)["labels_against_table"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.ERROR
    assert not check.blocking
    told: Any = check.metadata
    assert "data:image/jpeg;base64," in told["pictures"].value
    assert {record.data["who"] for record in told["examples"].records} > {"the table"}


@pytest.mark.spec("L2.06")
def test_the_way_leads_from_a_version_to_the_labels_that_it_was_trained_with(
    trained: dg.ExecuteInProcessResult, inspected: Mapping[str, int]
) -> None:
    registry = LineRegistry(MLflowTracking(), "gravel")
    version = registry.version(1)
    labels = registry.labels_of(version).set_index("prediction_id")
    assert set(labels.index) == {inspected[name] for name in SAID if name != "tile43.png"}
    one = labels.loc[inspected["tile40.png"]]
    assert (one["label"], one["person"], one["model_version"], one["used_as"]) == ("NG", "Kim", "vad-gravel/1", "valid")
    assert version.tags["labels_of_people"] == "3"
    assert "2 of the images are there by labels of people (Kim; the last of" in version.description
    listed = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["label", "list", "gravel", "--version", "1"])
    assert listed.exit_code == 0, listed.output
    assert "tile40.png" in listed.output
    assert "vad-gravel/1 was trained with 3 labels of people" in listed.output


@pytest.mark.slow
@pytest.mark.spec("L2.06")
def test_a_version_with_another_threshold_of_the_same_fit_has_the_same_labels(
    trained: dg.ExecuteInProcessResult, instance: dg.DagsterInstance
) -> None:
    chosen = {"threshold_table": {"chosen_threshold": 1.25, "note": "a test"}}
    again = run(instance, "train_line", chosen, ["threshold_table", "model_evaluation"])
    assert again.success, failure(again)
    registry = LineRegistry(MLflowTracking(), "gravel")
    pd.testing.assert_frame_equal(registry.labels_of(registry.version(2)), registry.labels_of(registry.version(1)))


@pytest.mark.spec("L3.02")
def test_a_training_takes_note_of_the_labels_that_it_knew(
    trained: dg.ExecuteInProcessResult, inspected: Mapping[str, int], gravel_home: Home, instance: dg.DagsterInstance
) -> None:
    last, line = last_trained(instance, "gravel"), gravel_home.line("gravel")
    assert last is not None
    assert (last.run_id, last.tags[LABELS_TAG], last.tags[TRAIN_TAG]) == (trained.run_id, "4", "gravel")
    assert last.tags["vad/training_inputs"] == inputs_of(line, read_plan(line.plan_file, line.base_folder))
    since = since_training(instance, line, last, 0.0)
    assert (since.new_labels, since.champion, since.judged) == (0, "vad-gravel/1", 4)


# last in this file: it changes the stored dataset
@pytest.mark.spec("L1.05")
def test_a_withdrawn_label_is_not_in_the_next_training(
    trained: dg.ExecuteInProcessResult, inspected: Mapping[str, int], gravel_home: Home, instance: dg.DagsterInstance
) -> None:
    withdraw_label(InspectionDatabase.from_environment(), inspected["learnt.png"], by=Actor("Lee"))
    result = run(instance, "train_line", selection=BEFORE_FIT)
    assert result.success, failure(result)
    assert "learnt.png" not in used_as(gravel_home)
    assert checks(result)["labels_against_table"].passed
    dataset = last_dataset(gravel_home.line("gravel"))
    assert dataset is not None
    assert "./good/tile0.png" in set(dataset.rows["image_path"]), "the row of the table counts again"
