"""Group training: from validated rows to a fitted model, its threshold, and a registered version."""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from vad_dagster import asset_metadata, recording
from vad_dagster.asset_parts import ML_TEAM, QUALITY_TEAM, log_forecast, log_progress, step, step_tags
from vad_dagster.checks import check_spec, plain_result, schema_result, weights_result
from vad_dagster.configuration import ThresholdConfig, TrainConfig
from vad_dagster.jobs import TRAIN_TAG, VERSION_TAG
from vad_dagster.partitions import lines
from vad_dagster.plans import line_of, plan_of
from vad_dagster.registry import SCORES_LIKE, LineRegistry, Version
from vad_dagster.resources import MLflowTracking
from vad_dagster.resources.tracking import TrackedRun
from vad_dagster.table_schemas import schema_metadata
from vad_dagster.values import ModelEvaluation
from vad_lib.artifacts import TrainTree
from vad_lib.errors import WeightsMissingError
from vad_lib.forecast import Forecast
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home, Line
from vad_lib.plan import ExperimentalPlan, TrainArguments
from vad_lib.readiness import ValidatedDataset
from vad_lib.tables import ThresholdTable, ValidationScores
from vad_lib.thresholds import DecisionRule, LearntThreshold
from vad_lib.trained_model import TrainedModel

WEIGHTS_CHECK, SCORES_SCHEMA, TABLE_SCHEMA = "backbone_weights", "scores_schema", "table_schema"


@dg.asset(
    partitions_def=lines,
    group_name="training",
    pool="training",
    kinds={"pytorch", "mlflow"},
    owners=[ML_TEAM],
    code_version="1",
    tags=step_tags("train", "train"),
    check_specs=[
        check_spec(
            "trained_model",
            WEIGHTS_CHECK,
            "The backbone's pretrained weights are on this machine. Without them training stops before it starts; "
            "the fallback backbone in place of the one that the plan names is a warning.",
            blocking=True,
        )
    ],
    description="The detector, fitted on the normal training rows. One is fitted at a time on a machine. What the fit "
    "will take is forecast first, refused where it cannot fit, and shown beside what it took.",
)
def trained_model(
    context: dg.AssetExecutionContext,
    config: TrainConfig,
    validated_dataset: ValidatedDataset,
    tracking: MLflowTracking,
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[TrainedModel]]:
    from vad_lib.detectors.registry import find_detector
    from vad_lib.encoders.weights import resolve_backbone_weights
    from vad_lib.training import require_usable

    line = line_of(context)
    # where a person materialized it by hand, the run counts as a training of the line too
    context.instance.add_run_tags(context.run.run_id, {TRAIN_TAG: line.name})
    with step(context, line):
        plan = plan_of(line).with_operator_arguments("train", config.arguments())
        require_usable(plan.train)
        train = plan.train.model_copy(update={"monitor_metric": validated_dataset.monitor_metric})
        try:
            own = find_detector(train.model_name).own(train.model_parameters)
            weights = resolve_backbone_weights(own.backbone(), Home.from_environment().weights_folder)
        except WeightsMissingError as error:
            yield plain_result("trained_model", WEIGHTS_CHECK, error)
            raise
    yield weights_result("trained_model", WEIGHTS_CHECK, weights)
    name, tags = f"{train.model_name} {datetime.now(UTC):%Y-%m-%d %H:%M}", recording.run_tags(context, line.name, plan)
    with step(context, line), tracking.run(line.name, name=name, tags=tags) as run:
        recording.record_start(run, line, plan, train, validated_dataset, weights.to_json())
        model = _forecast_and_fit(context, run, line, plan, train, validated_dataset)
    yield dg.MaterializeResult(
        value=model,
        metadata={
            **asset_metadata.fit_metadata(model.fit, model.detector.describe().get("memory_bank")),
            "MLflow run": dg.MetadataValue.url(run.url),
            **asset_metadata.plan_metadata(plan),
        },
    )


def _forecast_and_fit(
    context: dg.AssetExecutionContext,
    run: TrackedRun,
    line: Line,
    plan: ExperimentalPlan,
    train: TrainArguments,
    dataset: ValidatedDataset,
) -> TrainedModel:
    """Forecast, refuse what cannot fit, fit, and record each in the open run of MLflow."""
    from vad_lib.forecast import PeakMemory, forecast_training, require_fit
    from vad_lib.training import fit_detector

    home = Home.from_environment()
    forecast: Forecast = forecast_training(
        dataset,
        train,
        weights_store=home.weights_folder,
        results=line.folder,
        timeout_hours=plan.operation.training_timeout_hours,
    )
    recording.record_forecast(run, forecast)
    require_fit(forecast)
    log_forecast(context, forecast)
    with PeakMemory() as memory:
        fitted = fit_detector(
            dataset,
            train,
            weights_store=home.weights_folder,
            progress=log_progress(context),
            work_folder=line.training_work,
            cache_folder=home.feature_cache_folder,
        )
    shutil.rmtree(line.training_work, ignore_errors=True)
    model = TrainedModel.of_fit(
        fitted,
        dataset.ok_class,
        line=line.name,
        run_id=run.run_id,
        plan_digest=plan.digest,
        forecast=forecast,
        peak_memory_bytes=memory.peak_bytes,
    )
    recording.record_fit(run, model.fit)
    return model


@dg.asset(
    partitions_def=lines,
    group_name="training",
    kinds={"pandas"},
    owners=[ML_TEAM],
    code_version="1",
    tags=step_tags("train", "train"),
    metadata=schema_metadata(ValidationScores),
    check_specs=[
        check_spec(
            "validation_scores", SCORES_SCHEMA, "Every score is as tables.ValidationScores wants.", blocking=True
        )
    ],
    description="The raw score of every validation row: what the threshold is learnt from, and quality measured on.",
)
def validation_scores(
    context: dg.AssetExecutionContext, trained_model: TrainedModel, validated_dataset: ValidatedDataset
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[pd.DataFrame]]:
    from vad_lib.training import score_rows

    with step(context, line_of(context)):
        scores = score_rows(
            trained_model.detector,
            trained_model.preprocessing,
            validated_dataset.valid_rows,
            trained_model.fit.train.batch_size,
            log_progress(context),
        )
        # whose scores they are: other versions with the same ones differ in the threshold only
        scores.attrs["scores_like"] = trained_model.scores_like
        if scores.empty:  # the threshold then depends on the detector
            scores.attrs["threshold"] = trained_model.fit.train.threshold_without_images()
    yield schema_result("validation_scores", SCORES_SCHEMA, ValidationScores, scores)
    yield dg.MaterializeResult(value=scores, metadata=asset_metadata.score_metadata(trained_model.fit, scores))


@dg.asset(
    partitions_def=lines,
    group_name="training",
    kinds={"pandas"},
    owners=[ML_TEAM, QUALITY_TEAM],
    code_version="1",
    tags=step_tags("train", "train"),
    metadata=schema_metadata(ThresholdTable),
    check_specs=[
        check_spec("threshold_table", TABLE_SCHEMA, "Every row is as tables.ThresholdTable wants.", blocking=True)
    ],
    description="Performance for every threshold, and the one in force. To change only the threshold, materialize this "
    "asset and those below it again: the model is not fitted anew.",
)
def threshold_table(
    context: dg.AssetExecutionContext,
    config: ThresholdConfig,
    validation_scores: pd.DataFrame,
    validated_dataset: ValidatedDataset,
    tracking: MLflowTracking,
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[LearntThreshold]]:
    line = line_of(context)
    chosen: Any = {"chosen": config.chosen_threshold, "note": config.note}
    with step(context, line):
        plan = plan_of(line).with_operator_arguments("train", config.arguments())
        percentile = plan.train.percentile
        if validation_scores.empty:
            scores = _first_inspected(LineRegistry(tracking, line.name), validation_scores, plan)
            learnt = LearntThreshold.without_rows(validation_scores.attrs["threshold"], scores, percentile, **chosen)
        else:
            rule = plan.train.learning_rule(validated_dataset.threshold_method)
            learnt = LearntThreshold.learn(validation_scores, rule, **chosen)
    yield schema_result("threshold_table", TABLE_SCHEMA, ThresholdTable, learnt.table)
    yield dg.MaterializeResult(
        value=learnt, metadata={**asset_metadata.threshold_metadata(learnt), **asset_metadata.plan_metadata(plan)}
    )


def _first_inspected(registry: LineRegistry, scores: pd.DataFrame, plan: ExperimentalPlan) -> list[float]:
    """Return the raw scores that the plan's ``threshold_from_first`` asks for; none before there are so many."""
    if not (wanted := plan.train.threshold_from_first):
        return []
    alike = [one.label for one in registry.versions() if one.tags.get(SCORES_LIKE) == scores.attrs["scores_like"]]
    return InspectionDatabase.from_environment().first_scores(registry.line, alike, wanted)


@dg.asset(
    partitions_def=lines,
    group_name="training",
    kinds={"mlflow", "pytorch"},
    owners=[ML_TEAM],
    code_version="1",
    tags=step_tags("train", "train"),
    description="The model with its threshold on the validation rows, beside the champion on the same rows: numbers, "
    "heatmaps, report, the train artifacts, and the registered version.",
)
def model_evaluation(
    context: dg.AssetExecutionContext,
    trained_model: TrainedModel,
    validation_scores: pd.DataFrame,
    threshold_table: LearntThreshold,
    validated_dataset: ValidatedDataset,
    tracking: MLflowTracking,
) -> dg.MaterializeResult[ModelEvaluation]:
    from vad_lib.validation import publish_training

    line, train, progress = line_of(context), trained_model.fit.train, log_progress(context)
    registry = LineRegistry(tracking, line.name)
    with step(context, line) as logs, tempfile.TemporaryDirectory(prefix="vad_evaluate_") as work:
        plan = plan_of(line)
        record, tree = publish_training(
            trained_model,
            threshold_table,
            validated_dataset,
            validation_scores,
            line=line.name,
            target=plan.train_artifacts_folder(line.train_artifacts, line.base_folder),
            work=Path(work),
            log_folder=logs,
            progress=progress,
        )
        mine = validation_scores, DecisionRule(threshold_table.calibration)
        champion = recording.measure_champion(registry, validated_dataset, train.accelerator, progress, beside=mine)
        with recording.evaluation_run(context, tracking, registry, trained_model, plan) as run:
            version, is_new = recording.register_training(
                run, registry, record, tree, champion.evaluation, plan, context.run.run_id
            )
        context.instance.add_run_tags(context.run.run_id, {VERSION_TAG: version.label})
    shutil.rmtree(logs, ignore_errors=True)
    value = ModelEvaluation(
        version=version.number,
        evaluation=record.evaluation,
        champion=champion,
        doubts=validated_dataset.doubts(fits=train.needs_images),
    )
    return dg.MaterializeResult(
        value=value,
        metadata={
            **asset_metadata.evaluation_metadata(record.evaluation, champion, tree.most_telling(recording.THUMBNAILS)),
            **_where_to_look(run, tree, tracking.version_url(registry.name, version.number), version, is_new),
            "threshold": threshold_table.threshold.value,
            **asset_metadata.plan_metadata(plan),
        },
    )


def _where_to_look(
    run: TrackedRun, tree: TrainTree, version_page: str, version: Version, is_new: bool
) -> dict[str, Any]:
    """Return the version and the pages and files that hold the whole story."""
    report = run.artifact_url(recording.REPORT)
    links = {"training report": report, "model version in the registry": version_page, "MLflow run": run.url}
    picture = asset_metadata.linked_picture(
        "Heatmaps: misses and false alarms first (seen while MLflow's UI runs)",
        run.artifact_address(recording.MOST_TELLING),
        report,
    )
    return {
        "model version": version.label,
        **({} if is_new else {"nothing new": f"{version.label} was made from the same; it stays the last version."}),
        "links": asset_metadata.links_markdown(links),
        **({"most telling heatmaps": picture} if tree.heatmaps else {}),
        "report": dg.MetadataValue.path(str(tree.report)),
        "artifacts": dg.MetadataValue.path(str(tree.folder)),
    }
