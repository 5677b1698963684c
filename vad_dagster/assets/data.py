"""Group data: what people confirmed, the ground truth as it was read, and what readiness made of it."""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

from collections.abc import Iterator
from dataclasses import replace

import dagster as dg
import pandas as pd

from vad_dagster.asset_metadata import (
    dataset_metadata,
    input_metadata,
    label_metadata,
    pictures_of_dropped,
    plan_metadata,
)
from vad_dagster.asset_parts import QUALITY_TEAM, log_progress, step, step_tags
from vad_dagster.checks import check_spec, plain_result, result_of_rule, schema_result, stopped
from vad_dagster.configuration import ReadinessConfig, plan_of_run
from vad_dagster.jobs import INPUTS_TAG, LABELS_TAG
from vad_dagster.partitions import lines
from vad_dagster.plans import enough_inspected, line_of, plan_of, training_table
from vad_dagster.table_schemas import schema_metadata
from vad_lib.errors import InputError, ReadinessError
from vad_lib.findings import Finding
from vad_lib.ground_truth import InputTable
from vad_lib.inspection.confirmed_labels import NEWEST, collect_labels, lost_labels
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home, Line
from vad_lib.plan import ExperimentalPlan
from vad_lib.readiness import RULES, ValidatedDataset, prepare_training_data
from vad_lib.readiness.table_rules import missing_columns
from vad_lib.tables import ConfirmedLabels, DroppedRows, ValidatedRows

READABLE, LABELS_SCHEMA = "readable_table", "labels_schema"
LABEL_RULES = ("lost_labels",)
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
CONTRADICTIONS = "labels_against_table"
READINESS_RULES = tuple(rule.name for rule in RULES if rule.name not in (*LABEL_RULES, *INPUT_RULES, *INFERENCE_RULES))


def rule_specs(asset: str, names: tuple[str, ...]) -> list[dg.AssetCheckSpec]:
    """Return one check for each of the named rules."""
    return [
        check_spec(asset, rule.name, rule.description, blocking=rule.always_blocks)
        for rule in RULES
        if rule.name in names
    ]


def _usable_plan(context: dg.AssetExecutionContext, line: Line) -> ExperimentalPlan:
    """Return the plan with all that was entered: what a later step would refuse is refused before images are read."""
    from vad_lib.training import require_usable

    asked = plan_of_run(plan_of(line), context.run.run_config)
    require_usable(asked.train)
    return asked


@dg.asset(
    partitions_def=lines,
    group_name="data",
    kinds={"pandas", "sqlalchemy"},
    owners=[QUALITY_TEAM],
    code_version="1",
    tags=step_tags("train", "input"),
    metadata=schema_metadata(ConfirmedLabels),
    check_specs=[
        check_spec(
            "confirmed_labels", LABELS_SCHEMA, "Every label is as vad_lib.tables.ConfirmedLabels wants.", blocking=True
        ),
        *rule_specs("confirmed_labels", LABEL_RULES),
    ],
    description="What people say about images that the line inspected: the labels that hold, from the inspection "
    "database, each with who said it, when, on which prediction, and with the line's own copy of the image.",
)
def confirmed_labels(
    context: dg.AssetExecutionContext,
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[pd.DataFrame]]:
    line = line_of(context)
    with step(context, line):
        _usable_plan(context, line)
        labels = collect_labels(InspectionDatabase.from_environment(), line)
    yield schema_result("confirmed_labels", LABELS_SCHEMA, ConfirmedLabels, labels)
    lost = lost_labels(labels)
    for name in LABEL_RULES:
        yield result_of_rule("confirmed_labels", name, [lost] if lost else [])
    yield dg.MaterializeResult(value=labels, metadata=label_metadata(line.name, labels, labels.attrs[NEWEST]))


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
    description="The table of image paths and labels as it was read from the line's training data, unchanged, and a "
    "row for each label that people confirmed. Columns are the user's own; the plan says which are path and label.",
)
def ground_truth(
    context: dg.AssetExecutionContext, confirmed_labels: pd.DataFrame
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[InputTable]]:
    from vad_lib.training_inputs import digest_of_inputs

    line = line_of(context)
    with step(context, line):
        plan, asked = plan_of(line), _usable_plan(context, line)
        try:
            table, renewed = training_table(asked, line.base_folder)
        except InputError as error:
            yield plain_result("ground_truth", READABLE, error)
            raise
        inputs = digest_of_inputs(
            plan,
            table,
            Home.from_environment().weights_folder,
            labels=confirmed_labels,
            enough_inspected=enough_inspected(line, plan),
        )
        newest = str(confirmed_labels.attrs[NEWEST])
        context.instance.add_run_tags(context.run.run_id, {INPUTS_TAG: inputs, LABELS_TAG: newest})
    yield plain_result("ground_truth", READABLE, None, fine=f"{len(table.table)} rows were read.")
    if renewed:
        table = replace(table, findings=(renewed, *table.findings))
    missing = missing_columns(table, plan.readiness.train_validate_column)
    findings: list[Finding] = [*table.findings, *([missing] if missing else [])]
    for name in INPUT_RULES:
        yield result_of_rule("ground_truth", name, findings)
    chosen = asked.readiness
    table = table.with_labels(confirmed_labels, ok_class=chosen.ok_class, split_column=chosen.train_validate_column)
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
    pictures = {CONTRADICTIONS: pictures_of_dropped(dataset, CONTRADICTIONS)}
    for name in READINESS_RULES:
        yield result_of_rule("validated_dataset", name, dataset.findings, **pictures.get(name, {}))
    yield schema_result("validated_dataset", "rows_schema", ValidatedRows, dataset.rows)
    yield schema_result("validated_dataset", "dropped_schema", DroppedRows, dataset.dropped)
    yield dg.MaterializeResult(value=dataset, metadata={**dataset_metadata(dataset), **plan_metadata(plan)})
