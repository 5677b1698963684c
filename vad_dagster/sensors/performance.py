"""What people said since the last look gets a new report of how well a line does in use."""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

import dagster as dg

from vad_dagster.jobs import watch_line
from vad_dagster.partitions import LINES_PARTITION
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.labels import newest_label


@dg.sensor(
    name="new_judgements",
    job=watch_line,
    description="Writes the performance in use of each line that people have judged images of, once an hour.",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=3600,
)
def new_judgements(context: dg.SensorEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
    db = InspectionDatabase.from_environment()
    newest = {line: newest_label(db, line) for line in sorted(context.instance.get_dynamic_partitions(LINES_PARTITION))}
    requests = [
        # Dagster starts no second run of the same key
        dg.RunRequest(
            run_key=f"judged:{line}:{label}", partition_key=line, tags={"vad/started_by": "sensor new_judgements"}
        )
        for line, label in newest.items()
        if label
    ]
    return requests or dg.SkipReason("Nobody has judged an image yet.")
