"""Group inference: what the champion says about images, and the summary of it."""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

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
from vad_dagster.asset_parts import QUALITY_TEAM, step, step_tags
from vad_dagster.checks import backend_result, check_spec, plain_result, result_of_rule, schema_result
from vad_dagster.configuration import InspectionConfig
from vad_dagster.inspection_run import InspectionRun, inspect
from vad_dagster.partitions import lines
from vad_dagster.plans import line_of
from vad_dagster.provenance import ASSET, results_page
from vad_dagster.registry import registered_model
from vad_dagster.resources import MLflowTracking
from vad_dagster.table_schemas import schema_metadata
from vad_dagster.values import InspectionOutcome
from vad_lib.inspection.result import InspectionResult
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.labels import agreement
from vad_lib.summary import InferenceSummary
from vad_lib.tables import Predictions

ALL_DECIDED, ENVIRONMENT, SCHEMA = "all_images_decided", "environment_changed", "predictions_schema"
BACKEND = "scoring_backend"
THUMBNAILS = 4


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
    description="Predictions of the champion for images that wait in the queue, or for a folder: raw score, calibrated "
    "score p, certainty and OK or NG for each; refused images with their reasons; the inference artifacts.",
)
def inference_outputs(
    context: dg.AssetExecutionContext, config: InspectionConfig, tracking: MLflowTracking
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[InspectionOutcome]]:
    line = line_of(context)
    with step(context, line) as logs:
        run = inspect(context, line, config, tracking, logs)
    yield from inspection_checks(run)
    yield dg.MaterializeResult(
        value=InspectionOutcome(
            run.result.predictions,
            run.result.refused,
            {
                **run.facts,
                "version": run.version.label,
                "tree": str(run.tree.folder),
                "summary": run.tree.summary.model_dump(mode="json"),
            },
        ),
        metadata=inspection_metadata(run, tracking),
    )


def inspection_checks(run: InspectionRun) -> Iterator[dg.AssetCheckResult]:
    """Say what is to be said about the images of a run."""
    result, problem = run.result, None
    if run.refused:
        problem = f"{run.refused} of {len(result.predictions) + run.refused} images have no prediction."
    if result.left:
        problem = f"{problem or ''} {result.left} could not be decided now and are offered again.".strip()
    examples = preview_table(result.refused if len(result.refused) else run.dataset.dropped, 20)
    yield plain_result(
        ASSET,
        ALL_DECIDED,
        problem,
        fine=f"All {len(result.predictions)} images have a prediction.",
        severity="warn",
        **({"examples": examples} if run.refused else {}),
    )
    yield result_of_rule(ASSET, ENVIRONMENT, run.findings)
    if run.backend is None:
        yield plain_result(ASSET, BACKEND, None, fine="An inference service scored these images.")
    else:
        yield backend_result(ASSET, BACKEND, run.backend)
    yield schema_result(ASSET, SCHEMA, Predictions, result.predictions)


def inspection_metadata(run: InspectionRun, tracking: MLflowTracking) -> dict[str, Any]:
    """Return what the page of the materialization shows."""
    result, tree, version = run.result, run.tree, run.version
    line = run.facts["line"]
    links = {
        "model version": tracking.version_url(registered_model(line), version.number),
        "predictions": results_page(line, run=run.facts["run_id"]),
    }
    agreed = agreement(InspectionDatabase.from_environment(), line, version.label)
    return {
        **_counts(result, run.refused),
        **(evaluation_numbers(tree.evaluation) if tree.evaluation else {}),
        "model version": version.label,
        "scoring backend": run.backend.in_words() if run.backend else "the inference service",
        "inference threshold": run.plan.inference.inference_threshold,
        "seconds": round(result.seconds, 3),
        "most anomalous": preview_table(_most_anomalous(result.predictions)),
        "refused files": preview_table(result.refused),
        **({"heatmaps": thumbnails(list(tree.heatmaps.values())[:THUMBNAILS])} if tree.heatmaps else {}),
        "links": links_markdown(links),
        **agreement_metadata(agreed),
        "output": dg.MetadataValue.path(str(tree.output)),
        "artifacts": dg.MetadataValue.path(str(tree.folder)),
        **plan_metadata(run.plan),
    }


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
