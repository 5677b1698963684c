"""What the fork server remembers about the processes that it forked."""

from __future__ import annotations

from dataclasses import dataclass

from vad_dagster.warm_runs.child import RunRequest


@dataclass
class RunProcess:
    """A run that was forked."""

    request: RunRequest
    kill_at: float | None = None


@dataclass
class ReportProcess:
    """A process that records how a run crashed."""

    request: RunRequest
    exit_code: int
    tries: int
