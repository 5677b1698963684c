"""Group monitoring: are images and scores still those that the model was trained on?"""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pandas as pd

from vad_dagster.asset_metadata import preview_table
from vad_dagster.asset_parts import QUALITY_TEAM, log_progress
from vad_dagster.checks import check_spec, plain_result, readable_failure
from vad_dagster.configuration import DriftConfig
from vad_dagster.partitions import lines
from vad_dagster.plans import line_of
from vad_dagster.registry import LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_lib.drift import DriftReport, report_drift
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.readiness import ValidatedDataset

NO_DRIFT = "no_drift"


@dg.asset(
    partitions_def=lines,
    group_name="monitoring",
    deps=["inference_outputs"],
    kinds={"pandas", "scipy"},
    owners=[QUALITY_TEAM],
    code_version="1",
    check_specs=[check_spec("drift_report", NO_DRIFT, "No measure of images or scores has drifted.")],
    description="Brightness, contrast and sharpness of the newest inspected images against the training images, and "
    "their scores against the normal validation images: Kolmogorov-Smirnov test and population stability index.",
)
def drift_report(
    context: dg.AssetExecutionContext,
    config: DriftConfig,
    validated_dataset: ValidatedDataset,
    validation_scores: pd.DataFrame,
    tracking: MLflowTracking,
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[DriftReport]]:
    from vad_lib.images.checking import check_images

    line = line_of(context)
    with readable_failure():
        version = LineRegistry(tracking, line.name).champion().label
    recent = InspectionDatabase.from_environment().predictions(line.name, model_version=version, newest=config.images)
    files = [Path(path) for path in recent["path"] if Path(path).is_file()]
    facts = check_images(files, log_progress(context)) if files else validated_dataset.image_facts.head(0)
    report = report_drift(
        model_version=version,
        reference_facts=validated_dataset.normal_facts,
        recent_facts=facts,
        reference_scores=validation_scores.loc[~validation_scores["is_anomalous"], "raw_score"],
        recent_scores=recent["raw_score"],
    )
    problem = f"Drifted: {', '.join(report.drifted)}. Check light, focus and parts, or train again."
    yield plain_result(
        "drift_report",
        NO_DRIFT,
        problem if report.drifted else None,
        fine=f"{len(recent)} inspected images are like those of training, as far as their number tells.",
        severity="warn",
    )
    yield dg.MaterializeResult(
        value=report,
        metadata={
            "images compared": len(facts),
            "model version": version,
            "measures": preview_table(report.table()),
            **{f"PSI {entry.measure}": entry.psi for entry in report.measures if entry.psi is not None},
        },
    )
