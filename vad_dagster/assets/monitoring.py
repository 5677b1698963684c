"""Group monitoring: are images and scores still those that the model was trained on?"""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pandas as pd

from vad_dagster.asset_metadata import agreement_metadata, bullets, preview_table
from vad_dagster.asset_parts import QUALITY_TEAM
from vad_dagster.checks import check_spec, plain_result
from vad_dagster.partitions import lines
from vad_dagster.plans import line_of, plan_of
from vad_dagster.registry import LineRegistry, registered_model
from vad_dagster.resources import MLflowTracking
from vad_lib.errors import VadError
from vad_lib.inspection.performance_plot import performance_plot
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.field_performance import FieldPerformance, Limits
from vad_lib.inspection_db.field_performance import field_performance as read_performance
from vad_lib.inspection_db.labels import agreement
from vad_lib.inspection_db.monitoring import DriftReport, read_drift

NO_DRIFT, WITHIN_LIMITS = "no_drift", "within_limits"


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


@dg.asset(
    partitions_def=lines,
    group_name="monitoring",
    deps=["inference_outputs"],
    kinds={"sqlite", "mlflow"},
    owners=[QUALITY_TEAM],
    code_version="1",
    check_specs=[
        check_spec(
            "field_performance",
            WITHIN_LIMITS,
            "Recall, precision and false alarms in use are within the plan's limits, as far as labels of people say.",
        )
    ],
    description="How well the line does in use: precision, recall from the random sample, and false alarms, by week, "
    "version and kind of defect, each with its interval. What people have judged decides.",
)
def field_performance(
    context: dg.AssetExecutionContext, tracking: MLflowTracking
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[FieldPerformance]]:
    line = line_of(context)
    asked = plan_of(line).operation
    found = read_performance(InspectionDatabase.from_environment(), line.name, datetime.now(UTC))
    broken, open_ = found.against(Limits(asked.least_recall, asked.least_precision, asked.most_false_alarms))
    yield plain_result(
        "field_performance",
        WITHIN_LIMITS,
        "\n\n".join(broken) or None,
        fine="\n\n".join(open_) or found.whole.in_words(),
    )
    url = _record_performance(tracking, line.name, found)
    yield dg.MaterializeResult(
        value=found,
        metadata={
            "in words": found.whole.in_words(),
            "figures": preview_table(found.table()),
            "by week": dg.MetadataValue.md(f"![precision and recall by week]({performance_plot(found)})"),
            "kinds of defect": preview_table(pd.DataFrame([kind.model_dump() for kind in found.kinds])),
            "to judge": found.whole.sampled - found.whole.judged_sample,
            **({"MLflow version": dg.MetadataValue.url(url)} if url else {}),
        },
    )


def _record_performance(tracking: MLflowTracking, line: str, found: FieldPerformance) -> str:
    """Write the figures of the newest version into its run in MLflow, as of this day; return the version's page."""
    import mlflow

    label = next(iter(found.versions), "")
    name, _, number = label.rpartition("/")
    if name != registered_model(line):  # scored by a model from elsewhere
        return ""
    try:
        version = LineRegistry(tracking, line).version(number)
    except VadError:
        return ""
    of_version = found.versions[label]
    figures = {
        "field_precision": of_version.precision,
        "field_recall": of_version.recall,
        "field_false_alarms_per_thousand": of_version.false_alarms_per_thousand,
    }
    told = {key: one.value for key, one in figures.items() if one is not None}
    if told and version.run_id:
        mlflow.log_metrics(told, step=datetime.now(UTC).toordinal(), run_id=version.run_id)
    return tracking.version_url(name, number)
