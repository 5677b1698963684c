"""What Dagster looks at by itself: folders of lines, landing folders, and who serves."""

from vad_dagster.sensors.landing import landing_folders, landing_folders_relief
from vad_dagster.sensors.lines import line_folders
from vad_dagster.sensors.runs import dead_runs
from vad_dagster.sensors.scored import promise_of_three_seconds, scored_images
from vad_dagster.sensors.serving import serving_versions

ALL_SENSORS = [line_folders, landing_folders, landing_folders_relief, serving_versions, scored_images, dead_runs]

__all__ = [
    "ALL_SENSORS",
    "dead_runs",
    "landing_folders",
    "landing_folders_relief",
    "line_folders",
    "promise_of_three_seconds",
    "scored_images",
    "serving_versions",
]
