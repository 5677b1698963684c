"""Drift reports by the clock, off until somebody switches them on. Trainings: ``sensors.trainings``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg

from vad_dagster.jobs import watch_line
from vad_dagster.partitions import LINES_PARTITION


@dg.schedule(
    name="watch_lines",
    job=watch_line,
    cron_schedule="30 5 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Writes a drift report for each line every morning.",
)
def watch_lines(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    now = context.scheduled_execution_time or datetime.now(UTC)
    for name in context.instance.get_dynamic_partitions(LINES_PARTITION):
        yield dg.RunRequest(
            run_key=f"{name}:{now.isoformat()}", partition_key=name, tags={"vad/started_by": "schedule watch_lines"}
        )
