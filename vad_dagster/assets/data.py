"""Group data: the ground truth as it was read, and what readiness made of it."""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

from collections.abc import Iterator
from dataclasses import replace

import dagster as dg

from vad_dagster.asset_metadata import dataset_metadata, input_metadata, plan_metadata
from vad_dagster.asset_parts import QUALITY_TEAM, log_progress, step, step_tags
from vad_dagster.checks import check_spec, plain_result, result_of_rule, schema_result, stopped
from vad_dagster.configuration import ReadinessConfig, plan_of_run
from vad_dagster.jobs import INPUTS_TAG
from vad_dagster.partitions import lines
from vad_dagster.plans import enough_inspected, line_of, plan_of, training_table
from vad_dagster.table_schemas import schema_metadata
from vad_lib.errors import InputError, ReadinessError
from vad_lib.findings import Finding
from vad_lib.ground_truth import InputTable
from vad_lib.lines import Home
from vad_lib.readiness import RULES, ValidatedDataset, prepare_training_data
from vad_lib.readiness.table_rules import missing_columns
from vad_lib.tables import DroppedRows, ValidatedRows

READABLE = "readable_table"
INPUT_RULES = (
    "other_formats",
    "undecodable_names",
    "no_training_images",
    "masks",
    "mask_rows",
    "tables_in_subfolders",
    "renewed_table",
    "images_without_row",
    "missing_columns",
)
INFERENCE_RULES = ("environment_changed",)
READINESS_RULES = tuple(rule.name for rule in RULES if rule.name not in (*INPUT_RULES, *INFERENCE_RULES))


def rule_specs(asset: str, names: tuple[str, ...]) -> list[dg.AssetCheckSpec]:
    """Return one check for each of the named rules."""
    return [
        check_spec(asset, rule.name, rule.description, blocking=rule.always_blocks)
        for rule in RULES
        if rule.name in names
    ]


@dg.asset(
    partitions_def=lines,
    group_name="data",
    kinds={"pandas", "csv"},
    owners=[QUALITY_TEAM],
    code_version="1",
    tags=step_tags("train", "input"),
    check_specs=[
        check_spec("ground_truth", READABLE, "The plan's folder holds a table that can be read.", blocking=True),
        *rule_specs("ground_truth", INPUT_RULES),
    ],
    description="The table of image paths and labels as it was read from the line's training data, unchanged. "
    "Columns are the user's own; the plan says which of them are path and label.",
)
def ground_truth(
    context: dg.AssetExecutionContext,
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[InputTable]]:
    from vad_lib.training import require_usable
    from vad_lib.training_inputs import digest_of_inputs

    line = line_of(context)
    with step(context, line):
        plan = plan_of(line)
        asked = plan_of_run(plan, context.run.run_config)
        # What a later step would refuse is refused before minutes are spent on the images.
        require_usable(asked.train)
        try:
            table, renewed = training_table(asked, line.base_folder)
        except InputError as error:
            yield plain_result("ground_truth", READABLE, error)
            raise
        weights = Home.from_environment().weights_folder
        inputs = digest_of_inputs(plan, table, weights, enough_inspected=enough_inspected(line, plan))
        context.instance.add_run_tags(context.run.run_id, {INPUTS_TAG: inputs})
    yield plain_result("ground_truth", READABLE, None, fine=f"{len(table.table)} rows were read.")
    if renewed:
        table = replace(table, findings=(renewed, *table.findings))
    missing = missing_columns(table, plan.readiness.train_validate_column)
    findings: list[Finding] = [*table.findings, *([missing] if missing else [])]
    for name in INPUT_RULES:
        yield result_of_rule("ground_truth", name, findings)
    yield dg.MaterializeResult(value=table, metadata={**input_metadata(table), **plan_metadata(plan)})


@dg.asset(
    partitions_def=lines,
    group_name="data",
    kinds={"pandas", "pandera"},
    owners=[QUALITY_TEAM],
    code_version="1",
    tags=step_tags("train", "readiness"),
    metadata=schema_metadata(ValidatedRows),
    check_specs=[
        *rule_specs("validated_dataset", READINESS_RULES),
        check_spec(
            "validated_dataset", "rows_schema", "Every row is as vad_lib.tables.ValidatedRows describes.", blocking=True
        ),
        check_spec("validated_dataset", "dropped_schema", "Every dropped row is named with its rule and reason."),
    ],
    description="The rows that can be used: every image decoded once and checked, labels made binary, split into train "
    "and valid, arguments resolved. What was dropped or changed is listed with its reason.",
)
def validated_dataset(
    context: dg.AssetExecutionContext, config: ReadinessConfig, ground_truth: InputTable
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[ValidatedDataset]]:
    line = line_of(context)
    with step(context, line):
        plan = plan_of(line).with_operator_arguments("readiness", config.arguments())
        try:
            asked = plan_of_run(plan, context.run.run_config).train.model_name
            train = plan.train.model_copy(update={"model_name": asked})
            dataset = prepare_training_data(ground_truth, plan.readiness, train, log_progress(context))
        except ReadinessError as error:
            for name in READINESS_RULES:
                yield result_of_rule("validated_dataset", name, error.findings)
            raise stopped(error.findings, "Readiness") from None
    for name in READINESS_RULES:
        yield result_of_rule("validated_dataset", name, dataset.findings)
    yield schema_result("validated_dataset", "rows_schema", ValidatedRows, dataset.rows)
    yield schema_result("validated_dataset", "dropped_schema", DroppedRows, dataset.dropped)
    yield dg.MaterializeResult(value=dataset, metadata={**dataset_metadata(dataset), **plan_metadata(plan)})
