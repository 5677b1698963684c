"""Versions and aliases of a line, on a tracking database of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from vad_dagster.io_manager import store_folder
from vad_dagster.registry import CHALLENGER, CHAMPION, PREVIOUS, LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_dagster.sensors.serving import MOVED, serving_versions
from vad_dagster.values import ChampionRecord
from vad_lib.detectors.storage import WHOLE, description_text, part_digests
from vad_lib.errors import InputError, ModelFormatError


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowTracking]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAD_HOME", str(tmp_path_factory.mktemp("registry")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield MLflowTracking()


DESCRIPTION = {"threshold": {"value": 1.25}, "calibration": {"threshold": 1.25}, "tensors_sha256": "0" * 64}


def add_version(
    tracking: MLflowTracking, line: str, folder: Path, description: Mapping[str, Any] = DESCRIPTION, **tags: Any
) -> str:
    """Register a version whose model folder holds one small file; it is never loaded."""
    model = folder / "inspection_model"
    model.mkdir(exist_ok=True)
    (model / "detector.json").write_text(description_text(dict(description)))
    with tracking.run(line, name="test") as run:
        registry = LineRegistry(tracking, line)
        version = registry.register(
            model, run_id=run.run_id, tags={"f1": 0.5, **tags}, description="x", example_image=None
        )
    return version.number


def test_a_new_version_is_the_challenger_and_its_folder_is_found(tracking: MLflowTracking, tmp_path: Path) -> None:
    number = add_version(tracking, "a", tmp_path)
    registry = LineRegistry(tracking, "a")
    challenger = registry.at(CHALLENGER)
    assert challenger is not None
    assert (challenger.number, challenger.label, challenger.tags["f1"]) == (number, f"vad-a/{number}", "0.5")
    assert (registry.folder(challenger) / "detector.json").read_text() == description_text(DESCRIPTION)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("threshold", {"value": 9.5}),
        ("calibration", {"threshold": 9.5}),
        ("tensors_sha256", "f" * 64),
        ("detector", {"name": "another"}),
    ],
)
def test_a_model_that_was_changed_with_checksums_recomputed_is_not_used(
    tracking: MLflowTracking, tmp_path: Path, part: str, value: object
) -> None:
    registry = LineRegistry(tracking, "changed")
    version = registry.version(add_version(tracking, "changed", tmp_path, threshold=1.25))
    folder = registry.folder(version)
    (folder / "detector.json").write_text(description_text({**DESCRIPTION, part: value}))
    told = rf"{version.label} is not used.*What differs: {part.removesuffix('_sha256')}\..*vad model rollback"
    with pytest.raises(ModelFormatError, match=told):
        registry.folder(version)
    # whoever may write there may change what stands beside the folder as well
    mlmodel = folder.parent.parent / "MLmodel"
    mlmodel.write_text(mlmodel.read_text().replace(part_digests(tmp_path / "inspection_model")[WHOLE], "0" * 64))
    with pytest.raises(ModelFormatError, match="is not used"):
        registry.folder(version)


def test_a_version_whose_tags_do_not_belong_to_its_model_is_not_used(tracking: MLflowTracking, tmp_path: Path) -> None:
    registry = LineRegistry(tracking, "tags")
    version = registry.version(add_version(tracking, "tags", tmp_path, threshold=1.25))
    assert registry.folder(version).is_dir()
    registry.tag(version, {"threshold": 0.5})
    with pytest.raises(ModelFormatError, match=r"its tag threshold says 0\.5, but its model was registered with 1\.25"):
        registry.folder(registry.version(version.number))
    tracking.connect().delete_model_version_tag(registry.name, version.number, "model_digest")
    with pytest.raises(ModelFormatError, match="has no tag model_digest"):
        registry.folder(registry.version(version.number))


@pytest.mark.parametrize("content", ["", "flavors: []", "flavors: {python_function: {}}", "\x00"])
def test_a_version_whose_mlmodel_is_damaged_is_refused_in_words(
    tracking: MLflowTracking, tmp_path: Path, content: str
) -> None:
    registry = LineRegistry(tracking, "damaged")
    version = registry.version(add_version(tracking, "damaged", tmp_path))
    (registry.folder(version).parent.parent / "MLmodel").write_text(content)
    with pytest.raises(ModelFormatError, match="is missing or damaged"):
        registry.folder(version)


def test_promotion_moves_three_aliases_and_rolling_back_returns(tracking: MLflowTracking, tmp_path: Path) -> None:
    first, second = (add_version(tracking, "b", tmp_path) for _ in range(2))
    registry = LineRegistry(tracking, "b")
    registry.promote(registry.version(first), by="rule: first_version")
    challenger = registry.at(CHALLENGER)
    assert challenger is not None
    assert challenger.number == second
    registry.promote(registry.version(second), by="person: Kim")
    assert registry.at(CHALLENGER) is None
    previous = registry.at(PREVIOUS)
    assert previous is not None
    assert (registry.champion().number, previous.number) == (second, first)
    assert registry.roll_back(by="person: Lee").number == first
    assert registry.champion().tags["promoted_by"] == "person: Lee"
    assert [version.number for version in registry.versions()] == [second, first]


def test_the_registry_knows_whether_a_person_chose_the_version_that_serves(
    tracking: MLflowTracking, tmp_path: Path
) -> None:
    first, second = (add_version(tracking, "p", tmp_path) for _ in range(2))
    registry = LineRegistry(tracking, "p")
    registry.promote(registry.version(first), by="rule: first_version")
    assert registry.chosen_by() == ""
    registry.promote(registry.version(second), by="person: Kim")
    assert registry.chosen_by() == "Kim"
    registry.lift_choice(by="Lee")
    assert registry.chosen_by() == ""
    tracking.connect().set_registered_model_alias("vad-p", CHAMPION, first)
    assert registry.chosen_by() == "a person, in MLflow"
    registry.lift_choice(by="Lee")
    assert registry.chosen_by() == ""


def test_a_line_whose_first_version_waits_says_which_one_it_is(tracking: MLflowTracking, tmp_path: Path) -> None:
    number = add_version(tracking, "w", tmp_path)
    with pytest.raises(InputError, match=f"vad-w/{number} waits for a person.*vad model promote w"):
        LineRegistry(tracking, "w").champion()


def test_a_line_without_champion_or_previous_says_what_to_do(tracking: MLflowTracking) -> None:
    registry = LineRegistry(tracking, "empty")
    with pytest.raises(InputError, match="train it first"):
        registry.champion()
    with pytest.raises(InputError, match="no previous version"):
        registry.roll_back(by="x")
    assert registry.versions() == []


def test_an_alias_that_a_person_moved_in_mlflow_is_followed_and_recorded(
    tracking: MLflowTracking, tmp_path: Path
) -> None:
    first, second = (add_version(tracking, "c", tmp_path) for _ in range(2))
    registry = LineRegistry(tracking, "c")
    registry.promote(registry.version(first), by="rule: first_version")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("line", ["c"])
        context = dg.build_sensor_context(instance, resources={"tracking": tracking})
        serving_versions(context)
        tracking.connect().set_registered_model_alias("vad-c", CHAMPION, second)
        assert registry.champion().number == second
        result = serving_versions(dg.build_sensor_context(instance, resources={"tracking": tracking}))
        assert isinstance(result, dg.SensorResult)
        (event,) = result.asset_events
        assert event.partition == "c"
        assert event.metadata["by"].value == MOVED
        assert ChampionRecord.load(store_folder("c", "champion_model")).version == second
        again = serving_versions(dg.build_sensor_context(instance, resources={"tracking": tracking}))
        assert isinstance(again, dg.SensorResult)
        assert "as recorded" in str(again.skip_reason)


def test_a_run_that_fails_is_marked_as_failed(tracking: MLflowTracking) -> None:
    with pytest.raises(RuntimeError), tracking.run("d", name="broken") as run:
        raise RuntimeError("no")
    assert tracking.connect().get_run(run.run_id).info.status == "FAILED"


def test_one_experiment_a_line_also_after_it_was_deleted(tracking: MLflowTracking) -> None:
    experiment = tracking.experiment("e")
    assert tracking.experiment("e") == experiment
    tracking.connect().delete_experiment(experiment)
    assert tracking.experiment("e") == experiment
    assert tracking.connect().get_experiment(experiment).lifecycle_stage == "active"


def test_long_arguments_are_cut_and_missing_numbers_left_out(tracking: MLflowTracking) -> None:
    with tracking.run("f") as run:
        run.parameters({"long": "x" * 9000, "list": [1, 2]})
        run.metrics({"f1": None, "auroc": float("nan"), "tp": 3})
        run.curve([{"number": 1, "loss": 0.5, "best": True}, {"number": 2, "loss": 0.25, "best": False}])
    recorded = tracking.connect().get_run(run.run_id).data
    assert len(recorded.params["long"]) == 500
    assert recorded.params["list"] == "[1, 2]"
    assert recorded.metrics == {"tp": 3.0, "loss": 0.25}
    history = tracking.connect().get_metric_history(run.run_id, "loss")
    assert [(entry.step, entry.value) for entry in history] == [(1, 0.5), (2, 0.25)]


def test_links_lead_to_the_server_where_there_is_one(tracking: MLflowTracking, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking.version_url("vad-a", 3) == "http://127.0.0.1:5000/#/models/vad-a/versions/3"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:8080/")
    assert tracking.run_url("1", "abc") == "http://tracker:8080/#/experiments/1/runs/abc"
    assert MLflowTracking(ui_url="https://ml.example").run_url("1", "r").startswith("https://ml.example/#/")


def test_a_process_that_turns_to_another_home_finds_the_tracking_database_there(
    tracking: MLflowTracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tracking.experiment("g")
    monkeypatch.setenv("VAD_HOME", str(tmp_path))
    assert LineRegistry(MLflowTracking(), "a").versions() == []
    assert (tmp_path / "mlflow" / "mlflow.db").is_file()
    monkeypatch.undo()
    assert tracking.experiment("g") == first
