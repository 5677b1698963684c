"""Everything that Dagster shows, put together in one place.

Importing this module imports neither torch nor mlflow nor anomalib: every process that Dagster starts imports it, and
they take ten seconds and more. A test holds this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from vad_dagster.assets import ALL_ASSETS
from vad_dagster.io_manager import LineStore
from vad_dagster.jobs import (
    compare_line,
    describe_line,
    extend_line,
    gate_line,
    inspect_line,
    promote_line,
    roll_back_line,
    train_line,
    watch_line,
)
from vad_dagster.resources import MLflowTracking
from vad_dagster.sensors import ALL_SENSORS, latency_objective
from vad_lib.settings import keep_private


def build_defs(*, resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Return the definitions of the code location.

    Args:
        resource_overrides: resources by name that take the place of the real ones (``io_manager``, ``tracking``), for
            tests and tools.
    """
    return dg.Definitions(
        assets=ALL_ASSETS,
        asset_checks=[latency_objective],
        jobs=[
            train_line,
            extend_line,
            gate_line,
            compare_line,
            inspect_line,
            watch_line,
            describe_line,
            promote_line,
            roll_back_line,
        ],
        sensors=ALL_SENSORS,
        resources={"io_manager": LineStore(), "tracking": MLflowTracking(), **(resource_overrides or {})},
        # one process a run: starting one for each step costs seconds, and a line's steps follow each other anyway
        executor=dg.in_process_executor,
    )


# every code server and every run imports this first, whoever starts it
keep_private()
defs = build_defs()
