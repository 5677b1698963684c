"""A chart of a line that goes into alarm, or out of it, gets a report of drift: a check and a plot in Dagster."""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

import hashlib

import dagster as dg

from vad_dagster.jobs import watch_line
from vad_dagster.partitions import LINES_PARTITION
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.monitoring import alarm_changes


@dg.sensor(
    name="drift_alarms",
    job=watch_line,
    description="Writes a drift report for a line when an alarm of its charts begins or ends.",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
)
def drift_alarms(context: dg.SensorEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
    known = set(context.instance.get_dynamic_partitions(LINES_PARTITION))
    changes = {
        line: told for line, told in alarm_changes(InspectionDatabase.from_environment()).items() if line in known
    }
    requests = [
        # Dagster starts no second run of the same key, so each change is told once
        dg.RunRequest(
            run_key=f"{line}:{hashlib.sha256(told.encode()).hexdigest()[:16]}",
            partition_key=line,
            tags={"vad/started_by": "sensor drift_alarms"},
        )
        for line, told in changes.items()
    ]
    return requests or dg.SkipReason("No chart of any line was ever in alarm.")
