"""Lines appear and vanish with their folders: a folder with a plan under ``$VAD_HOME/lines`` is a partition."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import dagster as dg

from vad_dagster.partitions import LINES_PARTITION, lines
from vad_lib.lines import Home


@dataclass(frozen=True)
class LineChanges:
    """What has to change so that partitions are the folders again."""

    add: list[str]
    remove: list[str]
    reason: str


def compare_lines(folders: Collection[str] | None, known: Collection[str]) -> LineChanges:
    """Decide which lines to add and remove.

    ``folders`` is None where the folder of lines could not be read: a failed read is not an empty folder, so nothing
    is removed then.

    >>> compare_lines(["a", "b"], ["b", "c"])
    LineChanges(add=['a'], remove=['c'], reason='')
    """
    if folders is None:
        stay = f"; the {len(known)} known lines stay" if known else ", so there is no line yet"
        return LineChanges([], [], f"The folder of lines cannot be read{stay}.")
    add, remove = sorted(set(folders) - set(known)), sorted(set(known) - set(folders))
    reason = "" if add or remove else f"{len(known)} lines, as before."
    return LineChanges(add, remove, reason)


def read_line_folders(home: Home) -> list[str] | None:
    """Return the names of the lines, or None where the folder cannot be read."""
    try:
        next(home.lines_folder.iterdir(), None)
        return [line.name for line in home.lines()]
    except OSError:
        return None


@dg.sensor(
    name="line_folders",
    description="Adds a line when its folder with a plan appears, and removes it when the folder is gone.",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=5,
)
def line_folders(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    known = context.instance.get_dynamic_partitions(LINES_PARTITION)
    changes = compare_lines(read_line_folders(Home.from_environment()), known)
    requests: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
    if changes.add:
        requests.append(lines.build_add_request(changes.add))
    if changes.remove:
        requests.append(lines.build_delete_request(changes.remove))
    return dg.SensorResult(dynamic_partitions_requests=requests, skip_reason=changes.reason or None)
