"""The stock local launcher, and it notices when a run's process has died.

Dagster's ``DefaultRunLauncher`` cannot tell whether the process of a run still lives, so a run whose machine was
switched off stays "started" until the time limit, and the queue waits for it. Each run logs the id of its process when
it starts; this launcher looks whether a process of that id is still that run.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import dagster as dg
from dagster._core.events import EngineEventData
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus

CLOCK_TOLERANCE_SECONDS = 5.0


class LocalRunLauncher(DefaultRunLauncher):
    """Starts runs as the stock launcher does; configured in ``dagster.yaml``."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Say whether the process that the run logged at its start is still there."""
        found = self._logged_process(run.run_id)
        if found is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "The run has not logged its process yet.")
        pid, logged_at = found
        if _process_lives(pid, logged_at):
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"Process {pid} is alive.")
        return CheckRunHealthResult(WorkerStatus.FAILED, f"The process of the run (pid {pid}) is gone.")

    def _logged_process(self, run_id: str) -> tuple[int, float] | None:
        records = self._instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
        for entry in reversed(records):
            data = entry.get_dagster_event().event_specific_data if entry.is_dagster_event else None
            if isinstance(data, EngineEventData) and (found := data.metadata.get("pid")) is not None:
                match = re.fullmatch(r"\d+", str(found.value))
                if match:
                    return int(match.group()), entry.timestamp
        return None


def _process_lives(pid: int, logged_at: float) -> bool:
    """True where process ``pid`` exists, is no zombie, and was there already at ``logged_at`` (ids are used again)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():  # no /proc on this system: the signal has to do
        return True
    try:
        fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except OSError:
        return False
    started_at = time.time() - uptime + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return fields[0] != "Z" and started_at <= logged_at + CLOCK_TOLERANCE_SECONDS
