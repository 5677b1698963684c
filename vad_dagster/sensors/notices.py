"""A training that ended is told to those whom the plan names."""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

import dagster as dg

from vad_dagster.jobs import TRAIN_TAG, VERSION_TAG, train_line
from vad_dagster.notices import tell


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    monitored_jobs=[train_line],
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Tells people, by the plan's rules, that a line was trained.",
)
def trainings_done(context: dg.RunStatusSensorContext) -> None:
    run = context.dagster_run
    if line := run.tags.get(TRAIN_TAG):
        version = run.tags.get(VERSION_TAG)
        text = f"A training has ended: {f'version {version}' if version else 'nothing new was made'}."
        tell(line, "training_done", text, subject=run.run_id, page=f"/lines/{line}/versions" if version else "")


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.FAILURE,
    monitored_jobs=[train_line],
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Tells people, by the plan's rules, that a training failed.",
)
def trainings_failed(context: dg.RunStatusSensorContext) -> None:
    run = context.dagster_run
    if line := run.tags.get(TRAIN_TAG):
        reason = context.dagster_event.message if context.dagster_event else ""
        tell(line, "training_failed", f"A training failed (run {run.run_id[:8]}). {reason}", subject=run.run_id)
