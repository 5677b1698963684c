"""What Dagster looks at by itself: folders of lines, watch folders, who serves, what is to be trained, dead runs."""

from vad_dagster.sensors.drift import drift_alarms
from vad_dagster.sensors.gate import fallen_agreement, waiting_challengers
from vad_dagster.sensors.lines import line_folders
from vad_dagster.sensors.notices import trainings_done, trainings_failed
from vad_dagster.sensors.online_results import latency_objective, online_results
from vad_dagster.sensors.performance import new_judgements
from vad_dagster.sensors.runs import dead_runs
from vad_dagster.sensors.serving import serving_versions
from vad_dagster.sensors.trainings import due_trainings
from vad_dagster.sensors.watch_folders import watch_folders

ALL_SENSORS = [
    line_folders,
    watch_folders,
    serving_versions,
    waiting_challengers,
    fallen_agreement,
    online_results,
    drift_alarms,
    new_judgements,
    due_trainings,
    trainings_done,
    trainings_failed,
    dead_runs,
]

__all__ = [
    "ALL_SENSORS",
    "dead_runs",
    "drift_alarms",
    "due_trainings",
    "fallen_agreement",
    "latency_objective",
    "line_folders",
    "new_judgements",
    "online_results",
    "serving_versions",
    "trainings_done",
    "trainings_failed",
    "waiting_challengers",
    "watch_folders",
]
