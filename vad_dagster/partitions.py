"""Lines are one dynamic partition: a new folder under ``$VAD_HOME/lines`` appears in the UI without a reload."""

from __future__ import annotations

import dagster as dg

LINES_PARTITION = "line"
lines = dg.DynamicPartitionsDefinition(name=LINES_PARTITION)


def register_lines(instance: dg.DagsterInstance, names: list[str]) -> list[str]:
    """Add the names that the instance does not know yet, and return those added."""
    known = set(instance.get_dynamic_partitions(LINES_PARTITION))
    new = [name for name in names if name not in known]
    if new:
        instance.add_dynamic_partitions(LINES_PARTITION, new)
    return new
