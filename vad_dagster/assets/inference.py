"""Group inference: what the champion says about images, and the summary of it."""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from vad_dagster.asset_metadata import (
    agreement_metadata,
    evaluation_numbers,
    links_markdown,
    plan_metadata,
    preview_table,
    thumbnails,
)
from vad_dagster.asset_parts import QUALITY_TEAM, log_progress, step, step_tags
from vad_dagster.checks import backend_result, check_spec, plain_result, result_of_rule, schema_result
from vad_dagster.configuration import InspectionConfig
from vad_dagster.partitions import lines
from vad_dagster.plans import landing_folder, line_of, plan_of
from vad_dagster.provenance import ASSET, results_page
from vad_dagster.registry import LineRegistry, Version
from vad_dagster.resources import MLflowTracking
from vad_dagster.table_schemas import schema_metadata
from vad_dagster.values import InspectionOutcome
from vad_lib.findings import Finding
from vad_lib.inspection.results import InspectionResult
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.verdicts import agreement
from vad_lib.lines import Line
from vad_lib.plan import ExperimentalPlan
from vad_lib.readiness import ValidatedDataset
from vad_lib.summary import InferenceSummary
from vad_lib.tables import Predictions

ALL_DECIDED, ENVIRONMENT, SCHEMA = "all_images_decided", "environment_changed", "predictions_schema"
BACKEND = "scoring_backend"
THUMBNAILS = 4
ENVIRONMENT_SAMPLE = 50


@dg.asset(
    partitions_def=lines,
    group_name="inference",
    deps=["champion_model"],
    kinds={"pytorch", "pandas"},
    owners=[QUALITY_TEAM],
    code_version="1",
    tags=step_tags("inference", "input.readiness.inference"),
    metadata=schema_metadata(Predictions),
    check_specs=[
        check_spec(
            ASSET, ALL_DECIDED, "Every image has a prediction. Those that have none are named here, with the reason."
        ),
        check_spec(ASSET, ENVIRONMENT, "Images have brightness, contrast and sharpness of the training images."),
        check_spec(ASSET, BACKEND, "The backend that scores decides as torch does, on the same validation images."),
        check_spec(ASSET, SCHEMA, "Every prediction is as tables.Predictions wants.", blocking=True),
    ],
    description="Predictions of the champion for a batch of landed images, or for a folder: raw score, calibrated "
    "score p, certainty and OK or NG for each; refused images with their reasons; the inference artifacts.",
)
def inference_outputs(
    context: dg.AssetExecutionContext, config: InspectionConfig, tracking: MLflowTracking
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[InspectionOutcome]]:
    from vad_lib.artifacts import InspectionRecord, write_inference_tree
    from vad_lib.compiled import load_for_scoring

    line = line_of(context)
    with step(context, line) as logs:
        plan = plan_of(line).with_operator_arguments("inference", config.arguments())
        registry = LineRegistry(tracking, line.name)
        version = registry.champion()
        # follows what was measured (`vad backend`, or the resident scorer), and never measures while images wait
        model, backend = load_for_scoring(registry.folder(version), accelerator=plan.train.accelerator, measure=False)
        maps_folder = line.folder / "maps" / (config.batch_id or context.run.run_id)
        inspect = _inspect_landed if config.batch_id else _inspect_folder
        dataset, result, findings = inspect(
            context, line, plan, config, version, model, maps_folder if plan.inference.save_anomaly_maps else None
        )
        facts = {
            "line": line.name,
            "run_id": context.run.run_id,
            "batch_id": config.batch_id,
            "seconds": result.seconds,
        }
        tree = write_inference_tree(
            plan.inference_artifacts_folder(line.inference_artifacts, line.base_folder),
            InspectionRecord(
                dataset=dataset,
                predictions=result.predictions,
                failed=result.refused,
                model_name=model.info.model_name,
                version=version.label,
                inference_threshold=plan.inference.inference_threshold,
                review_certainty=plan.operation.review_certainty,
                heatmap_scale=model.heatmap_scale,
                facts=facts,
            ),
            maps=((row, result.load_map(row)) for row in result.map_files) if result.map_files else None,
            log_folder=logs,
            progress=log_progress(context),
        )
    for folder in (maps_folder, logs):
        shutil.rmtree(folder, ignore_errors=True)
    refused = len(result.refused) + len(dataset.dropped)
    problem = f"{refused} of {len(result.predictions) + refused} images have no prediction." if refused else None
    if result.left:
        problem = f"{problem or ''} {result.left} could not be decided now and are offered again.".strip()
    yield plain_result(
        ASSET,
        ALL_DECIDED,
        problem,
        fine=f"All {len(result.predictions)} images have a prediction.",
        severity="warn",
        **(
            {"examples": preview_table(result.refused if len(result.refused) else dataset.dropped, 20)}
            if refused
            else {}
        ),
    )
    yield result_of_rule(ASSET, ENVIRONMENT, findings)
    yield backend_result(ASSET, BACKEND, backend)
    yield schema_result(ASSET, SCHEMA, Predictions, result.predictions)
    outcome = InspectionOutcome(
        result.predictions,
        result.refused,
        {**facts, "version": version.label, "tree": str(tree.folder), "summary": tree.summary.model_dump(mode="json")},
    )
    yield dg.MaterializeResult(
        value=outcome,
        metadata={
            **_counts(result, refused),
            **(evaluation_numbers(tree.evaluation) if tree.evaluation else {}),
            "model version": version.label,
            "scoring backend": backend.in_words(),
            "inference threshold": plan.inference.inference_threshold,
            "seconds": round(result.seconds, 3),
            "most anomalous": preview_table(_most_anomalous(result.predictions)),
            "refused files": preview_table(result.refused),
            **({"heatmaps": thumbnails(list(tree.heatmaps.values())[:THUMBNAILS])} if tree.heatmaps else {}),
            "links": links_markdown(
                {
                    "model version": tracking.version_url(registry.name, version.number),
                    "predictions": results_page(line.name, run=context.run.run_id),
                }
            ),
            **agreement_metadata(agreement(InspectionDatabase.from_environment(), line.name, version.label)),
            "output": dg.MetadataValue.path(str(tree.output)),
            "artifacts": dg.MetadataValue.path(str(tree.folder)),
            **plan_metadata(plan),
        },
    )


@dg.asset(
    partitions_def=lines,
    group_name="inference",
    kinds={"yaml"},
    owners=[QUALITY_TEAM],
    code_version="1",
    tags=step_tags("inference", "output"),
    description="The summary for the fleet manager: result, score, date, note, probability, version "
    "(score/inference_summary.yaml of the inference artifacts).",
)
def inference_summary(inference_outputs: InspectionOutcome) -> dg.MaterializeResult:  # type: ignore[type-arg]
    summary = InferenceSummary.model_validate(inference_outputs.facts["summary"])
    file = Path(inference_outputs.facts["tree"]) / "score" / "inference_summary.yaml"
    return dg.MaterializeResult(
        metadata={
            "result": summary.result,
            "score": summary.score,
            "date": summary.date,
            "note": summary.note,
            "probability": dg.MetadataValue.json(summary.probability),
            "version": summary.version,
            "file": dg.MetadataValue.path(str(file)),
        },
    )


def _inspect_landed(
    context: dg.AssetExecutionContext,
    line: Line,
    plan: ExperimentalPlan,
    config: InspectionConfig,
    version: Version,
    model: Any,
    maps_folder: Path | None,
) -> tuple[ValidatedDataset, InspectionResult, tuple[Finding, ...]]:
    from vad_lib.inspection import inspect_batch
    from vad_lib.inspection.landed import landed_dataset

    db = InspectionDatabase.from_environment()
    result = inspect_batch(
        db,
        model,
        model_version=version.label,
        line=line,
        batch_id=config.batch_id,
        inference_threshold=plan.inference.inference_threshold,
        run_id=context.run.run_id,
        batch_size=plan.train.batch_size,
        maps_folder=maps_folder,
        progress=log_progress(context),
    )
    folder = landing_folder(line, plan)
    landings = db.landings(line.name, batch_id=config.batch_id).sort_values(["path", "seq"], ignore_index=True)
    dataset, result = landed_dataset(landings, result, folder=folder, ok_class=model.info.ok_class)
    return dataset, result, _compare_with_training(line, result)


def _compare_with_training(line: Line, result: InspectionResult) -> tuple[Finding, ...]:
    """Compare the first images of a batch with the training images; a sample will do for light and focus."""
    from vad_lib.images.checking import check_images
    from vad_lib.readiness import compare_environment

    train_facts = _training_facts(line)
    sample = result.predictions.head(ENVIRONMENT_SAMPLE)
    if train_facts is None or sample.empty:
        return ()
    facts = check_images([Path(file) for file in sample["file"]])
    return compare_environment(
        train_facts, facts.assign(row=sample["row"].to_numpy(), image_path=sample["image_path"].to_numpy())
    )


def _inspect_folder(
    context: dg.AssetExecutionContext,
    line: Line,
    plan: ExperimentalPlan,
    config: InspectionConfig,
    version: Version,
    model: Any,
    maps_folder: Path | None,
) -> tuple[ValidatedDataset, InspectionResult, tuple[Finding, ...]]:
    from vad_lib.ground_truth import read_input
    from vad_lib.inspection import inspect_rows
    from vad_lib.readiness import prepare_inference_data

    folder = Path(config.folder).expanduser() if config.folder else plan.inference_data_folder(line.base_folder)
    dataset = prepare_inference_data(
        read_input(folder, plan.inference_input, pipeline="inference"),
        model.info.ok_class,
        arguments=plan.inference_readiness,
        train_facts=_training_facts(line),
        progress=log_progress(context),
    )
    result = inspect_rows(
        InspectionDatabase.from_environment(),
        model,
        model_version=version.label,
        line=line,
        rows=dataset.rows,
        inference_threshold=plan.inference.inference_threshold,
        run_id=context.run.run_id,
        batch_size=plan.train.batch_size,
        maps_folder=maps_folder,
        progress=log_progress(context),
    )
    return dataset, result, dataset.findings


def _training_facts(line: Line) -> Any:
    """Return the facts of the normal training images; None where the line was trained elsewhere."""
    folder = line.store / "validated_dataset"
    return ValidatedDataset.load(folder).normal_facts if folder.is_dir() else None


def _most_anomalous(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that a person reads, the highest score first; labels only where there are some."""
    columns = ["image_path", "label", "predicted", "p", "certainty", "raw_score"]
    if predictions["label"].isna().all():
        columns.remove("label")
    return predictions.sort_values("p", ascending=False)[columns]


def _counts(result: InspectionResult, refused: int) -> dict[str, int]:
    predicted = result.predictions["predicted"]
    return {
        "images": len(predicted) + refused,
        "OK": int((predicted == "OK").sum()),
        "NG": int((predicted == "NG").sum()),
        "without a prediction": refused,
        "scored now": result.scored,
        "known before": result.reused,
        "dagster/row_count": len(predicted),
    }
