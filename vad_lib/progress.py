"""Progress of long work, with an estimate, independent of who shows it.

A long function takes a ``Progress`` callable and calls it as it advances. The command line draws a bar with it, Dagster
writes log lines, tests collect the calls. Raising inside the callable (``TrainingStopped``, ``KeyboardInterrupt``)
stops the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgressUpdate:
    """``done`` of ``total`` ``unit``s of ``task``; ``seconds_left`` is None until it can be estimated."""

    task: str
    done: int
    total: int
    unit: str
    seconds_spent: float
    seconds_left: float | None
    note: str = ""

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", about {format_seconds(self.seconds_left)} left"
        note = f" ({self.note})" if self.note else ""
        return f"{self.task}: {self.done} of {self.total} {self.unit}{left}{note}"


Progress = Callable[[ProgressUpdate], None]


def silent(_: ProgressUpdate) -> None:
    """Show nothing."""


def format_seconds(seconds: float) -> str:
    """Write a duration as people say it: '8 s', '3 min 20 s', '2 h 5 min'.

    >>> format_seconds(200)
    '3 min 20 s'
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class ProgressMeter:
    """Counts the steps of one task and reports at most once every ``interval`` seconds, and always the first and last.

    The estimate is the mean speed so far. ``interval=0`` reports each step.
    """

    def __init__(self, progress: Progress, task: str, total: int, unit: str = "images", interval: float = 1.0) -> None:
        self._progress = progress
        self._task = task
        self._total = total
        self._unit = unit
        self._interval = interval
        self._start = time.monotonic()
        self._last = float("-inf")
        self.done = 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count ``steps`` more, and report if it is time."""
        self.done += steps
        now = time.monotonic()
        if self.done < self._total and now - self._last < self._interval:
            return
        self._last = now
        spent = now - self._start
        left = spent / self.done * (self._total - self.done) if self.done else None
        self._progress(ProgressUpdate(self._task, self.done, self._total, self._unit, spent, left, note))
