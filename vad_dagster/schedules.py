"""Retraining by the clock. It is off until somebody switches it on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from vad_dagster.jobs import INPUTS_TAG, TRAIN_TAG, VERSION_TAG, train_line, training_tags
from vad_dagster.partitions import LINES_PARTITION
from vad_dagster.plans import enough_inspected, plan_of, training_table
from vad_lib.errors import VadError
from vad_lib.lines import Home, Line

if TYPE_CHECKING:
    from vad_lib.plan import ExperimentalPlan


def retraining_is_due(
    now: float, *, interval_hours: float, last_training: float | None, in_progress: bool
) -> tuple[bool, str]:
    """Say whether a line is to be trained now, and why not.

    Args:
        now: seconds since the epoch.
        interval_hours: least time from the start of one training to the start of the next.
        last_training: when the last training began, successful or not; None where there was none.
        in_progress: a training is queued or running.

    >>> retraining_is_due(7200, interval_hours=6, last_training=3600, in_progress=False)
    (False, 'the last training began 1.0 h ago, and 6 h have to pass')
    """
    if in_progress:
        return False, "a training is queued or running"
    if last_training is not None and now - last_training < interval_hours * 3600:
        hours = (now - last_training) / 3600
        return False, f"the last training began {hours:.1f} h ago, and {interval_hours:g} h have to pass"
    return True, ""


def last_training(instance: dg.DagsterInstance, line: str) -> tuple[float | None, bool]:
    """Return when the line's last training run began, and whether one is still queued or running."""
    records = instance.get_run_records(dg.RunsFilter(tags={TRAIN_TAG: line}), limit=1)
    began = records[0].create_timestamp.replace(tzinfo=UTC).timestamp() if records else None
    in_progress = bool(records) and not records[0].dagster_run.is_finished
    newest = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("trained_model"), asset_partitions=[line]), limit=1
    ).records
    if newest:
        began = max(began or 0.0, newest[0].timestamp)
    return began, in_progress


def version_of_same(instance: dg.DagsterInstance, inputs: str) -> str:
    """Return the label of the model version that was trained from the same inputs; empty where none was.

    A run in which an operator changed an argument did not train what the plan says, and does not count.
    """
    runs = instance.get_runs(dg.RunsFilter(tags={INPUTS_TAG: inputs}, statuses=[dg.DagsterRunStatus.SUCCESS]))
    return next(
        (run.tags[VERSION_TAG] for run in runs if VERSION_TAG in run.tags and not run.run_config.get("ops")), ""
    )


def _inputs_of(line: Line, plan: ExperimentalPlan) -> str:
    from vad_lib.training_inputs import digest_of_inputs

    table, _ = training_table(plan, line.base_folder)
    weights = Home.from_environment().weights_folder
    return digest_of_inputs(plan, table, weights, enough_inspected=enough_inspected(line, plan))


@dg.schedule(
    name="retrain_lines",
    job=train_line,
    cron_schedule="0 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Looks every hour at each line, and trains those whose last training began at least "
    "retrain_interval_hours ago (argument of the plan's section operation, 6 by default), where the table, its images, "
    "the plan, the weights or the code have changed since.",
)
def retrain_lines(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
    now = context.scheduled_execution_time or datetime.now(UTC)
    requests, reasons = [], []
    for line in Home.from_environment().lines():
        if not context.instance.has_dynamic_partition(LINES_PARTITION, line.name):
            reasons.append(f"{line.name}: not registered yet")
            continue
        try:
            plan = plan_of(line)
            began, in_progress = last_training(context.instance, line.name)
            due, reason = retraining_is_due(
                now.timestamp(),
                interval_hours=plan.operation.retrain_interval_hours,
                last_training=began,
                in_progress=in_progress,
            )
            if due and (same := version_of_same(context.instance, _inputs_of(line, plan))):
                due, reason = False, f"nothing new since version {same}"
        except VadError as error:
            due, reason = False, str(error)
        if due:
            requests.append(
                dg.RunRequest(
                    run_key=f"{line.name}:{now.isoformat()}",
                    partition_key=line.name,
                    tags={**training_tags(line.name), "vad/started_by": "schedule retrain_lines"},
                )
            )
        else:
            reasons.append(f"{line.name}: {reason}")
    return requests or dg.SkipReason("; ".join(reasons) or "There is no line yet.")
