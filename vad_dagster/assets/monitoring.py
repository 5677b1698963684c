"""Group monitoring: are images and scores still those that the model was trained on?"""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

from collections.abc import Iterator

import dagster as dg

from vad_dagster.asset_metadata import agreement_metadata, bullets, preview_table
from vad_dagster.asset_parts import QUALITY_TEAM
from vad_dagster.checks import check_spec, plain_result
from vad_dagster.partitions import lines
from vad_dagster.plans import line_of
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.labels import agreement
from vad_lib.inspection_db.monitoring import DriftReport, read_drift

NO_DRIFT = "no_drift"


@dg.asset(
    partitions_def=lines,
    group_name="monitoring",
    deps=["inference_outputs"],
    kinds={"sqlite"},
    owners=[QUALITY_TEAM],
    code_version="2",
    check_specs=[check_spec("drift_report", NO_DRIFT, "No chart of the line's images and scores is in alarm.")],
    description="Where the charts of the line stand that each inspected image advances: place and rotation of the "
    "part, focus, light, colour, noise, a place that stands out in all anomaly maps, scores and the rate of NG; and "
    "what people say. An alarm says what changed, since when, and what to do.",
)
def drift_report(
    context: dg.AssetExecutionContext,
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[DriftReport]]:
    line, db = line_of(context), InspectionDatabase.from_environment()
    report = read_drift(db, line.name)
    yield plain_result(
        "drift_report",
        NO_DRIFT,
        "\n\n".join(report.alarms) or None,
        fine=f"{report.images} images were watched; no chart is in alarm.",
        severity="warn",
    )
    yield dg.MaterializeResult(
        value=report,
        metadata={
            "images watched": report.images,
            "model version": report.model_version or "none has inspected an image yet",
            **({"alarms": bullets(report.alarms)} if report.alarms else {}),
            "charts": preview_table(report.table()),
            **{f"level of {chart.chart}": chart.level for chart in report.charts},
            "missed, by the random sample": report.misses,
            **agreement_metadata(agreement(db, line.name, report.model_version)),
        },
    )
