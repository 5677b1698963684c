"""A line with an inbox and a database, and the steps of a sensor and a run as one call each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brightness_model import BrightnessModel

from vad_lib.inspection import InspectionResult, inspect_batch
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.landing import LandingTick, RunState, plan_landing_tick
from vad_lib.lines import Line


@dataclass
class Plant:
    """One line, its database and its folder."""

    db: InspectionDatabase
    line: Line
    ticks: int = 0

    @property
    def inbox(self) -> Path:
        return self.line.inbox

    def tick(
        self,
        run: RunState | None = None,
        *,
        state_of: Callable[[str], RunState | None] | None = None,
        **more: Any,
    ) -> LandingTick:
        """``run`` is what became of every run; ``state_of`` tells it for each run key."""
        # Long after everything was written, so that all of it is complete, and a minute after the tick before.
        self.ticks += 1
        return plan_landing_tick(
            self.db,
            self.line.name,
            self.inbox,
            run_state=state_of or (lambda _: run),
            now=time.time() + 60 * self.ticks,
            **more,
        )

    def land_batch(self) -> str:
        (request,) = self.tick().requests
        return request.batch_id

    def inspect(self, batch_id: str, model: BrightnessModel | None = None, **more: Any) -> InspectionResult:
        return inspect_batch(
            self.db,
            model or BrightnessModel(),
            **{"model_version": "1", "line": self.line, "batch_id": batch_id, **more},
        )
