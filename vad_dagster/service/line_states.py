"""How each line is served, and what the pages show of it at a glance."""

# No `from __future__ import annotations`: FastAPI reads the annotations of what it answers.

import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, Field

from vad_lib.inspection_db.database import utc_now
from vad_lib.inspection_db.monitoring import standing_alarms
from vad_lib.inspection_db.recent_results import Decided, decided_since
from vad_lib.queue import QueueFacts, pauses, queue_facts
from vad_lib.queue.latency import Latency, latencies
from vad_lib.serving import InferenceService

SHOWN_FOR_SECONDS = 1.5
"""How old the shown states may be; all browsers see the same ones."""
LATENCY_SECONDS = 15.0
"""How old the shown latency may be: it is read from all files of an hour."""
GLANCE = timedelta(hours=24)
"""What the share of NG is of."""

State = Literal["running", "paused", "no_model", "trouble"]


class PauseOut(BaseModel):
    """Who paused a line, why, and since when."""

    person: str
    reason: str
    since: datetime


class LineOut(BaseModel):
    """How a line is served."""

    line: str
    folder: str = Field(description="Its watch folder.")
    champion: str = Field(description="Label of the version that serves; empty: none.")
    warm: str = Field(description="Label of the version in memory; empty: none.")
    waiting: int = Field(description="Images in the queue that are not decided.")
    leased: int = Field(description="Images that a worker has in hand.")
    trouble: str
    drift: list[str] = Field(description="Alarms that stand: what changed, since when, and what to do.")
    paused: PauseOut | None = Field(description="Where somebody has paused it: its images wait.")

    @property
    def state(self) -> State:
        """What a person has to know first."""
        if self.paused:
            return "paused"
        if self.trouble:
            return "trouble"
        return "running" if self.champion else "no_model"


def served_lines(service: InferenceService) -> list[LineOut]:
    """Return how each line is served, by name."""
    warm, reasons, facts = service.models.versions(), service.not_ready(), queue_facts(service.db)
    nothing, drift, paused = QueueFacts(), standing_alarms(service.db), pauses(service.db)
    return [
        LineOut(
            line=name,
            folder=str(line.folder),
            champion=line.model_version,
            warm=warm.get(name, ""),
            waiting=facts.get(name, nothing).pending,
            leased=facts.get(name, nothing).leased,
            trouble=reasons.get(name, ""),
            drift=list(drift.get(name, {}).values()),
            paused=PauseOut(**vars(paused[name])) if name in paused else None,
        )
        for name, line in sorted(service.watched.items())
    ]


@dataclass(frozen=True)
class Glance:
    """A line at a glance.

    Attributes:
        served: how it is served.
        decided: images within ``GLANCE``.
        latency: within the last hour; None where no service worked on it.
    """

    served: LineOut
    decided: Decided
    latency: Latency | None

    @property
    def share(self) -> float | None:
        """Of NG, 0..1; None where nothing was decided."""
        together = self.decided.ok + self.decided.ng
        return self.decided.ng / together if together else None


class LineStates:
    """Reads the states of all lines, once for all who look at about the same time. May be used by several threads."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._shown: dict[str, Glance] = {}
        self._decided: dict[str, Decided] = {}
        self._latencies: dict[str, Latency] = {}
        self._read_at = self._latencies_at = float("-inf")

    def glances(self) -> dict[str, Glance]:
        """Return each line at a glance, by name."""
        with self._lock:
            if time.monotonic() - self._read_at >= SHOWN_FOR_SECONDS:
                self._read()
            return self._shown

    def forget(self) -> None:
        """Read anew when somebody looks: something was changed here."""
        with self._lock:
            self._read_at = float("-inf")

    def _read(self) -> None:
        db = self._service.db
        served = served_lines(self._service)
        if time.monotonic() - self._latencies_at >= LATENCY_SECONDS:
            self._latencies = latencies(db, [one.line for one in served])
            self._latencies_at = time.monotonic()
        since = utc_now() - GLANCE
        self._decided = {one.line: decided_since(db, one.line, since, self._decided.get(one.line)) for one in served}
        self._shown = {one.line: Glance(one, self._decided[one.line], self._latencies.get(one.line)) for one in served}
        self._read_at = time.monotonic()
