"""Group training: from validated rows to a fitted model, its threshold, and a registered version."""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from vad_dagster import asset_metadata, recording
from vad_dagster.asset_parts import (
    CODE_VERSION,
    ML_TEAM,
    QUALITY_TEAM,
    linked_picture,
    links_markdown,
    log_forecast,
    log_progress,
    plan_metadata,
    preview_table,
    step,
    step_tags,
    thumbnails,
)
from vad_dagster.checks import check_spec, plain_result, schema_result
from vad_dagster.configuration import ThresholdConfig, TrainConfig
from vad_dagster.partitions import lines
from vad_dagster.plans import line_of, plan_of
from vad_dagster.registry import MODEL_FOLDER, LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_dagster.table_schemas import schema_metadata
from vad_dagster.values import LearntThreshold, ModelEvaluation, TrainedModel
from vad_lib.errors import WeightsMissingError
from vad_lib.lines import Home
from vad_lib.readiness import ValidatedDataset
from vad_lib.tables import ThresholdTable, ValidationScores
from vad_lib.thresholds import choose_threshold, learn_calibration, learn_threshold
from vad_lib.thresholds import threshold_table as sweep_thresholds

WEIGHTS_CHECK, SCORES_SCHEMA = "backbone_weights", "scores_schema"
THUMBNAILS = 6


@dg.asset(
    partitions_def=lines,
    group_name="training",
    pool="training",
    kinds={"pytorch", "mlflow"},
    owners=[ML_TEAM],
    code_version=CODE_VERSION,
    tags=step_tags("train", "train"),
    check_specs=[
        check_spec(
            "trained_model",
            WEIGHTS_CHECK,
            "The backbone's pretrained weights are on this machine. Without them training stops before it starts; "
            "weights that stand in for others are a warning.",
            blocking=True,
        )
    ],
    description="The detector, fitted on the normal training rows. One is fitted at a time on a machine. What the fit "
    "will take is forecast first, refused where it cannot fit, and shown beside the truth.",
)
def trained_model(
    context: dg.AssetExecutionContext,
    config: TrainConfig,
    validated_dataset: ValidatedDataset,
    tracking: MLflowTracking,
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[TrainedModel]]:
    from vad_lib.backbones.weights import resolve_backbone_weights
    from vad_lib.detectors.registry import find_detector
    from vad_lib.forecast import PeakMemory, Truth, forecast_training, require_fit
    from vad_lib.training import fit_detector

    line, store = line_of(context), Home.from_environment().weights_folder
    with step(context, line):
        plan = plan_of(line).with_operator_arguments("train", config.arguments())
        train = plan.train.model_copy(update={"monitor_metric": validated_dataset.monitor_metric})
        try:
            own = find_detector(train.model_name).own(train.model_parameters)
            weights = resolve_backbone_weights(own.backbone(), store)
        except WeightsMissingError as error:
            yield plain_result("trained_model", WEIGHTS_CHECK, error)
            raise
    yield asset_metadata.weights_result("trained_model", WEIGHTS_CHECK, weights)
    with (
        step(context, line),
        tracking.run(
            line.name,
            name=f"{train.model_name} {datetime.now(UTC):%Y-%m-%d %H:%M}",
            tags=recording.run_tags(context, line.name, plan),
        ) as run,
    ):
        recording.record_start(run, line, plan, train, validated_dataset, weights.to_json())
        forecast = forecast_training(
            validated_dataset,
            train,
            weights_store=store,
            results=line.folder,
            timeout_hours=plan.operation.training_timeout_hours,
        )
        recording.record_forecast(run, forecast)
        require_fit(forecast)
        log_forecast(context, forecast)
        with PeakMemory() as memory:
            fitted = fit_detector(
                validated_dataset,
                train,
                weights_store=store,
                progress=log_progress(context),
                work_folder=line.training_work,
                cache_folder=Home.from_environment().feature_cache_folder,
            )
        shutil.rmtree(line.training_work, ignore_errors=True)
        model = TrainedModel.of_fit(
            fitted,
            validated_dataset.ok_class,
            line=line.name,
            run_id=run.run_id,
            plan_digest=plan.digest,
            forecast=forecast,
            truth=Truth.of_fit(fitted.detector, fitted.seconds, memory.peak_bytes),
        )
        recording.record_fit(run, model)
    yield dg.MaterializeResult(
        value=model,
        metadata={
            **asset_metadata.fit_metadata(model),
            "MLflow run": dg.MetadataValue.url(run.url),
            **plan_metadata(plan),
        },
    )


@dg.asset(
    partitions_def=lines,
    group_name="training",
    kinds={"pandas"},
    owners=[ML_TEAM],
    code_version=CODE_VERSION,
    tags=step_tags("train", "train"),
    metadata=schema_metadata(ValidationScores),
    check_specs=[
        check_spec(
            "validation_scores", "scores_schema", "Every score is as tables.ValidationScores wants.", blocking=True
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
            trained_model.train.batch_size,
            log_progress(context),
        )
    yield schema_result("validation_scores", SCORES_SCHEMA, ValidationScores, scores)
    yield dg.MaterializeResult(
        value=scores,
        metadata={
            "dagster/row_count": len(scores),
            **asset_metadata.score_metadata(scores),
            **asset_metadata.speed_metadata(trained_model, scores),
        },
    )


@dg.asset(
    partitions_def=lines,
    group_name="training",
    kinds={"pandas"},
    owners=[ML_TEAM, QUALITY_TEAM],
    code_version=CODE_VERSION,
    tags=step_tags("train", "train"),
    metadata=schema_metadata(ThresholdTable),
    check_specs=[
        check_spec("threshold_table", "table_schema", "Every row is as tables.ThresholdTable wants.", blocking=True)
    ],
    description="Performance for every threshold, and the one in force. To change only the threshold, materialize this "
    "asset and those below it again: the model is not fitted anew.",
)
def threshold_table(
    context: dg.AssetExecutionContext,
    config: ThresholdConfig,
    validation_scores: pd.DataFrame,
    validated_dataset: ValidatedDataset,
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[LearntThreshold]]:
    line = line_of(context)
    with step(context, line):
        plan = plan_of(line).with_operator_arguments("train", config.arguments())
    scores, flags = validation_scores["raw_score"], validation_scores["is_anomalous"]
    method: Any = validated_dataset.threshold_method
    threshold = learn_threshold(scores, flags, method, plan.train.percentile)
    if config.chosen_threshold is not None:
        threshold = choose_threshold(config.chosen_threshold, threshold, config.note)
    calibration = learn_calibration(scores, flags, threshold)
    table = sweep_thresholds(scores, flags, threshold, calibration)
    yield schema_result("threshold_table", "table_schema", ThresholdTable, table)
    yield dg.MaterializeResult(
        value=LearntThreshold(threshold, calibration, table),
        metadata={
            "threshold": threshold.value,
            "method": threshold.method,
            "threshold version": threshold.version,
            "normal rows": threshold.n_normal,
            "anomalous rows": threshold.n_anomalous,
            "note": threshold.note or "nothing unusual",
            "dagster/row_count": len(table),
            "around the threshold": preview_table(asset_metadata.around_chosen(table), 11),
            **plan_metadata(plan),
        },
    )


@dg.asset(
    partitions_def=lines,
    group_name="training",
    kinds={"mlflow", "pytorch"},
    owners=[ML_TEAM],
    code_version=CODE_VERSION,
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
    from vad_lib.artifacts import TrainingRecord, write_train_tree
    from vad_lib.validation import make_validation_maps

    line = line_of(context)
    with step(context, line) as logs, tempfile.TemporaryDirectory(prefix="vad_evaluate_") as work:
        plan = plan_of(line)
        train, progress = trained_model.train, log_progress(context)
        record = TrainingRecord(
            dataset=validated_dataset,
            train=train,
            scores=validation_scores,
            threshold=threshold_table.threshold,
            calibration=threshold_table.calibration,
            model_folder=Path(work) / MODEL_FOLDER,
            weights=trained_model.info.backbone,
            epochs=trained_model.epochs,
            facts={
                "line": line.name,
                "plan_digest": trained_model.plan_digest,
                "seconds": trained_model.info.fit_seconds,
                **trained_model.numbers,
            },
            comparisons=trained_model.comparisons(validation_scores.attrs.get("ms_per_image")),
            notices=trained_model.info.notices,
        )
        maps = make_validation_maps(
            trained_model.with_threshold(threshold_table),
            record.judged(),
            Path(work) / "maps",
            heatmaps=train.save_validation_heatmap,
            progress=progress,
        )
        trained_model.with_threshold(threshold_table, maps.scale).save(record.model_folder)
        record = replace(record, heatmap_scale=maps.scale)
        tree = write_train_tree(
            plan.train_artifacts_folder(line.train_artifacts, line.base_folder),
            record,
            maps=maps,
            log_folder=logs,
            progress=progress,
        )
        registry = LineRegistry(tracking, line.name)
        champion, of_champion, problem = recording.champion_on_same_rows(
            registry, validated_dataset, train.accelerator, progress
        )
        with recording.evaluation_run(context, tracking, registry, trained_model, line.name, plan) as run:
            telling = asset_metadata.most_telling(tree, record, THUMBNAILS)
            speed = validation_scores.attrs.get("ms_per_image")
            recording.record_evaluation(run, tree, threshold_table, of_champion, telling, speed)
            story = recording.version_story(
                record, tree.evaluation, plan, line=line.name, dagster_run=context.run.run_id, run=run
            )
            run.describe(story)
            version = registry.register(
                record.model_folder,
                run_id=run.run_id,
                tags=recording.version_tags(record, tree.evaluation, plan, context.run.run_id),
                description=story,
                example_image=Path(validated_dataset.valid_rows["file"].iloc[0]),
            )
    shutil.rmtree(logs, ignore_errors=True)
    return dg.MaterializeResult(
        value=ModelEvaluation(
            line=line.name,
            version=version.number,
            run_id=run.run_id,
            evaluation=tree.evaluation,
            champion_version=champion.number if champion else "",
            champion=of_champion,
            champion_problem=problem,
            threshold_version=threshold_table.threshold.version,
            plan_digest=trained_model.plan_digest,
            automatic_promotion=plan.operation.automatic_promotion,
            artifacts=str(tree.folder),
        ),
        metadata={
            "result": asset_metadata.in_words(tree.evaluation),
            "model version": version.label,
            "beside the champion": asset_metadata.side_by_side(tree.evaluation, champion, of_champion, problem),
            "links": links_markdown(
                {
                    "training report": run.artifact_page(recording.REPORT),
                    "model version in the registry": tracking.version_url(registry.name, version.number),
                    "MLflow run": run.url,
                }
            ),
            **(
                {
                    "most telling heatmaps": linked_picture(
                        "Heatmaps: misses and false alarms first (seen while MLflow's UI runs)",
                        run.artifact_address(recording.MOST_TELLING),
                        run.artifact_page(recording.REPORT),
                    ),
                    "heatmaps": thumbnails(telling),
                }
                if telling
                else {}
            ),
            **asset_metadata.evaluation_numbers(tree.evaluation),
            "threshold": threshold_table.threshold.value,
            "report": dg.MetadataValue.path(str(tree.report)),
            "artifacts": dg.MetadataValue.path(str(tree.folder)),
            **plan_metadata(plan),
        },
    )
