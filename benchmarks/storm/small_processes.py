"""Processes of the small plant: ``python -m benchmarks.storm.small_processes scorer|daemon HOME LINE...``."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from brightness_model import BrightnessModel

from benchmarks.storm.small_plant import RUN_NAME, SETTLE_SECONDS
from vad_lib.inspection import inspect_batch
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.landing import RunState, plan_landing_tick
from vad_lib.lines import Home
from vad_lib.scorer import Channels, FastLane, LaneLimits, WatchedLine, hand_over_abandoned
from vad_lib.thresholds import Calibration, Threshold

SECONDS_PER_IMAGE = 0.004
TICK_SECONDS = 0.3
logger = logging.getLogger("storm")


def model_of(version: str) -> BrightnessModel:
    """Each version has a threshold of its own, so that a mixture is found out."""
    model = BrightnessModel(seconds=SECONDS_PER_IMAGE)
    value = 100.0 + int(version)
    model.threshold = Threshold(value=value, method="chosen", n_normal=1, n_anomalous=1, rows_digest=version * 64)
    model.calibration = Calibration(threshold=value, scale=20.0)
    return model


@dataclass
class Champions:
    """The source of the scorer: which version serves stands in a file."""

    home: Home
    names: tuple[str, ...]

    def label(self, name: str) -> str:
        return f"{name}/{(self.home.line(name).folder / 'champion').read_text()}"

    def watched(self) -> dict[str, WatchedLine]:
        lines = {name: self.home.line(name) for name in self.names}
        return {
            name: WatchedLine(
                line, line.inbox, self.label(name), settle_seconds=SETTLE_SECONDS, channels=Channels(result_files=True)
            )
            for name, line in lines.items()
        }

    def load(self, line: str, model_version: str) -> BrightnessModel:
        return model_of(model_version.rpartition("/")[2])


def scorer(champions: Champions) -> None:
    """Serve until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    lane = FastLane(
        InspectionDatabase.when_it_opens(champions.home, pause=0.2),
        champions,
        LaneLimits(micro_batch=8, queue_images=48, follow_seconds=0.3),
    )
    lane.start()
    ended.wait()
    lane.stop()


def daemon(champions: Champions) -> None:
    """Look at the landing folders again and again, and fork a process for each run that is asked for."""
    runs: dict[str, int] = {}
    ends: dict[str, RunState] = {}

    def state(key: str) -> RunState | None:
        if key in runs:
            number, code = os.waitpid(runs[key], os.WNOHANG)
            if number:
                del runs[key]
                ends[key] = RunState("succeeded" if code == 0 else "failed")
        return RunState("active") if key in runs else ends.get(key)

    while True:
        try:
            db = InspectionDatabase.of(champions.home)
            hand_over_abandoned(db)
            for name in champions.names:
                line = champions.home.line(name)
                tick = plan_landing_tick(
                    db, name, line.inbox, run_state=state, settle_seconds=SETTLE_SECONDS, max_batch=40
                )
                for request in tick.requests:
                    if request.run_key in runs:
                        continue
                    child = os.fork()
                    if child == 0:
                        _run(champions, name, request.batch_id)
                    runs[request.run_key] = child
        except Exception:
            logger.exception("a tick failed")
        time.sleep(TICK_SECONDS)


def _run(champions: Champions, name: str, batch_id: str) -> None:
    with suppress(OSError):
        Path("/proc/self/comm").write_text(RUN_NAME)
    code = 1
    try:
        label = champions.label(name)
        inspect_batch(
            InspectionDatabase.of(champions.home),
            model_of(label.rpartition("/")[2]),
            model_version=label,
            line=champions.home.line(name),
            batch_id=batch_id,
        )
        code = 0
    except Exception:
        logger.exception("a run failed")
    finally:
        os._exit(code)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    what, where, *given = sys.argv[1:]
    {"scorer": scorer, "daemon": daemon}[what](Champions(Home(Path(where)), tuple(given)))
