"""The graph, as other people's bookmarks and scripts know it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import warnings
from pathlib import Path

import dagster as dg
import pytest

import vad_dagster.assets
from vad_dagster.configuration import InspectionConfig, ReadinessConfig, ThresholdConfig, TrainConfig, plan_of_run
from vad_dagster.definitions import build_defs, defs
from vad_lib.detectors.registry import detector_names
from vad_lib.errors import PlanError
from vad_lib.plan import InferenceArguments, ReadinessArguments, TrainArguments, parse_plan

GRAPH = {
    "confirmed_labels": ("data", set()),
    "ground_truth": ("data", {"confirmed_labels"}),
    "validated_dataset": ("data", {"ground_truth"}),
    "trained_model": ("training", {"validated_dataset"}),
    "validation_scores": ("training", {"trained_model", "validated_dataset"}),
    "threshold_table": ("training", {"validation_scores", "validated_dataset"}),
    "model_evaluation": (
        "training",
        {"trained_model", "validation_scores", "threshold_table", "validated_dataset"},
    ),
    "champion_model": ("registry", {"model_evaluation"}),
    "extended_model": ("extension", {"champion_model", "validated_dataset"}),
    "inference_outputs": ("inference", {"champion_model"}),
    "inference_summary": ("inference", {"inference_outputs"}),
    "field_performance": ("monitoring", {"inference_outputs"}),
    "model_choice": ("choice", {"ground_truth"}),
    "drift_report": ("monitoring", {"inference_outputs"}),
    "finding_descriptions": ("words", {"inference_outputs"}),
}


def graph() -> dg.AssetsDefinition:
    return defs.resolve_asset_graph()  # type: ignore[return-value]


@pytest.mark.spec("V1.01", "V1.02", "V1.04")
def test_keys_groups_and_dependencies_are_what_they_were() -> None:
    found = {
        node.key.to_user_string(): (node.group_name, {parent.to_user_string() for parent in node.parent_keys})
        for node in graph().asset_nodes
    }
    assert found == GRAPH


@pytest.mark.spec("V1.01", "V1.02")
def test_the_steps_of_the_guide_follow_each_other() -> None:
    """Train: input, readiness, train. Inference: input, readiness, inference, output."""
    steps: dict[str, list[str]] = {"train": [], "inference": []}
    for key in graph().toposorted_asset_keys:
        tags = graph().get(key).tags
        for step in tags.get("vad/step", "").split("."):
            pipeline = steps.get(tags.get("vad/pipeline", ""), [])
            if step and step not in pipeline[-1:]:
                pipeline.append(step)
    assert steps == {
        "train": ["input", "readiness", "train"],
        "inference": ["input", "readiness", "inference", "output"],
    }


def test_every_asset_explains_itself() -> None:
    for node in graph().asset_nodes:
        assert len(node.description or "") > 40, node.key
        assert node.owners, node.key
        assert node.kinds, node.key
        assert node.code_version, node.key
        assert isinstance(node.partitions_def, dg.DynamicPartitionsDefinition), node.key


def test_the_body_of_an_asset_is_glue_and_no_longer_than_forty_lines() -> None:
    for file in sorted(Path(vad_dagster.assets.__file__).parent.glob("*.py")):
        for part in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(part, ast.FunctionDef):
                lines = (part.end_lineno or 0) - part.body[0].lineno + 1
                assert lines <= 40, f"{file.name}: {part.name} has {lines} lines"


def test_tables_show_their_columns_with_descriptions() -> None:
    schema = graph().get(dg.AssetKey("threshold_table")).metadata["dagster/column_schema"]
    columns = {column.name: column.description for column in schema.columns}
    assert columns["p"]
    assert "inference_threshold" in columns["p"]


@pytest.mark.spec("V9.07")
def test_checks_are_partitioned_and_what_makes_work_impossible_blocks() -> None:
    checks = {key.name: graph().get_check_spec(key) for key in graph().asset_check_keys}
    assert {name for name, spec in checks.items() if spec.blocking} == {
        *("readable_table", "missing_columns", "no_rows_left", "ok_class", "normal_rows_to_split", "backbone_weights"),
        *("labels_schema", "rows_schema", "scores_schema", "table_schema", "predictions_schema"),
    }
    assert all(spec.description for spec in checks.values())
    unpartitioned = {name for name, spec in checks.items() if spec.partitions_def is None}
    assert unpartitioned == {"latency_objective"}, "it is told outside of runs, for all lines at once"
    assert {"channels", "resolution", "normal_image_count"} <= set(checks)


def test_jobs_sensors_and_schedules_are_switched_as_promised() -> None:
    repository = defs.get_repository_def()
    assert {"train_line", "extend_line", "inspect_line", "watch_line"} <= set(repository.job_names)
    for sensor in repository.sensor_defs:
        assert sensor.default_status == dg.DefaultSensorStatus.RUNNING, sensor.name
    for schedule in repository.schedule_defs:
        assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED, schedule.name
    train = repository.get_job("train_line")
    assert {key.to_user_string() for key in train.asset_layer.executable_asset_keys} == {
        name for name, (group, _) in GRAPH.items() if group in ("data", "training", "registry")
    }
    assert graph().get(dg.AssetKey("trained_model")).pools == {"training"}


def test_the_launchpad_explains_each_field() -> None:
    job = defs.resolve_job_def("train_line")
    fields = job.run_config_schema.config_type.fields["ops"].config_type.fields["trained_model"].config_type.fields
    model_name = fields["config"].config_type.fields["model_name"]
    assert all(name in (model_name.description or "") for name in detector_names())
    assert not model_name.is_required


def test_every_argument_that_a_plan_may_hand_to_operators_is_a_field() -> None:
    fields = set(ReadinessConfig.model_fields) | set(TrainConfig.model_fields) | set(ThresholdConfig.model_fields)
    wanted = {*ReadinessArguments.model_fields, *TrainArguments.model_fields} - {"model_parameters"}
    assert wanted <= fields
    assert set(InferenceArguments.model_fields) <= set(InspectionConfig.model_fields)


def test_what_was_left_empty_is_no_argument() -> None:
    assert TrainConfig().arguments() == {}
    assert TrainConfig(img_size=[224], batch_size=8).arguments() == {"img_size": 224, "batch_size": 8}
    assert TrainConfig(img_size=[64, 96]).arguments() == {"img_size": [64, 96]}
    assert ThresholdConfig(chosen_threshold=2.0, note="x", percentile=0.9).arguments() == {"percentile": 0.9}
    assert InspectionConfig(folder="/x", batch_id="b", save_anomaly_maps=False).arguments() == {
        "save_anomaly_maps": False
    }


def test_what_a_run_is_given_means_the_same_before_it_starts_and_in_its_asset() -> None:
    plan = parse_plan(
        "user_parameters:\n  - train_pipeline:\n    - step: train\n      ui_args: [img_size]\n"
        "ui_args_detail:\n  - train_pipeline:\n"
        "    - {step: train, args: [{name: img_size, selectable: ['224', '256']}]}\n"
    )
    for given in ([256], [224]):
        started = plan_of_run(plan, {"ops": {"trained_model": {"config": {"img_size": given, "accelerator": ""}}}})
        in_asset = plan.with_operator_arguments("train", TrainConfig(img_size=given).arguments())
        assert started == in_asset
        assert started.train_as_written.img_size == given[0]
    with pytest.raises(PlanError, match="not among what the plan lets select"):
        plan_of_run(plan, {"ops": {"trained_model": {"config": {"img_size": [128]}}}})


def test_a_resource_can_be_swapped() -> None:
    manager = dg.InMemoryIOManager()
    assert build_defs(resource_overrides={"io_manager": manager}).resources["io_manager"] is manager


def test_loading_costs_little_and_warns_of_nothing() -> None:
    """Every process that Dagster starts loads the definitions; torch and its friends would add ten seconds to each."""
    code = (
        "import sys, json, warnings; warnings.simplefilter('always'); import dagster\n"
        "import warnings as w\n"
        "with w.catch_warnings(record=True) as caught:\n"
        "    w.simplefilter('always')\n"
        "    import vad_dagster.definitions as d; d.defs.get_repository_def()\n"
        "heavy = [m for m in ('torch', 'torchvision', 'anomalib', 'mlflow', 'timm', 'matplotlib', 'sklearn', 'skimage',"
        " 'scipy') if m in sys.modules]\n"
        "told = sorted({str(c.message) for c in caught if c.category.__module__.startswith('dagster')})\n"
        "print(json.dumps([heavy, told]))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    heavy, told = json.loads(answer.stdout.splitlines()[-1])
    assert heavy == []
    assert told == []


def test_no_deprecated_or_unstable_interface_is_used() -> None:
    with warnings.catch_warnings():
        for category in (dg.BetaWarning, dg.PreviewWarning, dg.SupersessionWarning):
            warnings.simplefilter("error", category=category)
        warnings.filterwarnings("error", message=".*deprecated and will be removed in.*")
        build_defs().get_repository_def()


@pytest.mark.parametrize(("name", "version"), [("promote_line", "challenger"), ("roll_back_line", "previous")])
def test_the_launchpad_of_promotion_and_rollback_opens_filled_in(name: str, version: str) -> None:
    job = defs.resolve_job_def(name)
    assert job.partitioned_config is not None
    filled = job.partitioned_config.get_run_config_for_partition_key("bottles")
    assert filled == {"ops": {"champion_model": {"config": {"promote_version": version, "decided_by": ""}}}}
    assert dg.validate_run_config(job, filled)


def test_an_inspection_of_one_line_does_not_run_the_check_that_looks_at_all_lines() -> None:
    job = defs.resolve_job_def("inspect_line")
    names = {node.name for node in job.nodes}
    assert "inference_outputs" in names
    assert not [name for name in names if "latency" in name]
