"""Runs whose process has died are marked as failed, so that they do not hold their line's place in the queue.

Dagster's local launcher cannot tell whether the process of a run still lives: without this, a run whose machine was
switched off stays "started" until its time limit. Each run logs the id of its process when it starts. Dagster then
repeats the run, as ``run_retries`` in ``dagster.yaml`` says.
"""

from __future__ import annotations

import dagster as dg
import psutil

from vad_dagster.jobs import MACHINE_TAG
from vad_lib.processes import me

CLOCK_TOLERANCE_SECONDS = 5.0


@dg.sensor(
    name="dead_runs",
    description="Marks a run as failed where its process has died, so that it is repeated and its line can go on.",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
)
def dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    found = [dead for dead in _started_here(context.instance) if fail_where_dead(context.instance, dead)]
    return dg.SkipReason(f"{len(found)} runs had no process any more.")


def fail_where_dead(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Mark a started run as failed where its process is gone, and return whether it was."""
    process = logged_process(instance, run.run_id)
    if process is None or process_lives(*process):
        return False
    now = instance.get_run_by_id(run.run_id)
    if now is None or now.is_finished:  # it ended between the two looks
        return False
    instance.report_run_failed(now, f"The process of the run (pid {process[0]}) is gone.")
    return True


def logged_process(instance: dg.DagsterInstance, run_id: str) -> tuple[int, float] | None:
    """Return the process id that a run has logged last and when; None where it has logged none yet."""
    for entry in reversed(instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)):
        metadata = getattr(entry.get_dagster_event().event_specific_data, "metadata", None) or {}
        pid = str(getattr(metadata.get("pid"), "value", ""))
        if pid.isdigit():
            return int(pid), entry.timestamp
    return None


def process_lives(pid: int, logged_at: float) -> bool:
    """Return whether process ``pid`` runs and did so at ``logged_at``, because process ids are used again."""
    try:
        process = psutil.Process(pid)
        started = process.create_time()
        return process.status() != psutil.STATUS_ZOMBIE and started <= logged_at + CLOCK_TOLERANCE_SECONDS
    except psutil.NoSuchProcess:
        return False


def _started_here(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Return the started runs whose processes are on this machine: Dagster starts a run beside its code server."""
    runs = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    here = me().machine
    return [run for run in runs if run.tags.get(MACHINE_TAG, here) == here]
