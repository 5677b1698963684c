"""Processes of the small test rig: ``python -m benchmarks.chaos.small_processes service|daemon HOME LINE...``."""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from brightness_model import BrightnessModel

from benchmarks.chaos.small_rig import RUN_NAME, SETTLE_SECONDS
from vad_lib import processes
from vad_lib.ingest import Arrival, FolderWatch
from vad_lib.inspection import Served, inspect_queue
from vad_lib.inspection.quarantine import keep_files_refused_by_name
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.engine import create_inspection_engine
from vad_lib.lines import Home
from vad_lib.queue import expire, known_versions, leases, queue_facts, register
from vad_lib.serving import InferenceService, ServiceLimits, Sinks, WatchedLine, service
from vad_lib.thresholds import Calibration, Threshold

SECONDS_PER_IMAGE = 0.004
POLL_SECONDS = 0.3
LEASE_SECONDS = 6.0
"""Of services that stand for machines, where a lease has to run out before others go on."""
logger = logging.getLogger("chaos")


def model_of(version: str) -> BrightnessModel:
    """Each version has a threshold of its own, so that a mixture is found out."""
    model = BrightnessModel(seconds=SECONDS_PER_IMAGE)
    value = 100.0 + int(version)
    model.threshold = Threshold(value=value, method="chosen", n_normal=1, n_anomalous=1, rows_digest=version * 64)
    model.calibration = Calibration(threshold=value, scale=20.0)
    return model


@dataclass
class Champions:
    """Where the service learns of lines and models: which version serves stands in a file.

    Attributes:
        shared: the home with the watch folders.
        own: the home of this machine.
        names: of the lines.
    """

    shared: Home
    own: Home
    names: tuple[str, ...]

    def label(self, name: str) -> str:
        """Return the label of the version that serves."""
        return f"{name}/{(self.shared.line(name).folder / 'champion').read_text()}"

    def watched(self) -> dict[str, WatchedLine]:
        """Return all lines."""
        return {
            name: WatchedLine(
                self.own.line(name),
                self.shared.line(name).inbox,
                self.label(name),
                settle_seconds=SETTLE_SECONDS,
                sinks=Sinks(result_files=True),
            )
            for name in self.names
        }

    def load(self, line: str, model_version: str) -> BrightnessModel:
        """Return the model of a version."""
        return model_of(model_version.rpartition("/")[2])


def stand_for_machine(name: str) -> None:
    """Let the identity of this process be that of a process on a machine of that name."""
    identity = hashlib.sha256(name.encode()).hexdigest()[:16]
    processes._machine = lambda: identity  # type: ignore[assignment]
    leases.LEASE_SECONDS = service.LEASE_SECONDS = LEASE_SECONDS


def serve(champions: Champions) -> None:
    """Be the inference service until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    resident = InferenceService(
        InspectionDatabase.when_it_opens(champions.own, pause=0.2),
        champions,
        ServiceLimits(micro_batch=8, follow_seconds=0.3),
    )
    resident.start()
    ended.wait()
    resident.stop()


def daemon(champions: Champions) -> None:
    """Look at the watch folders again and again, and fork a process for each run that is needed.

    Unlike the product, it does not leave a line to the service that works on it: both work on one queue, which is
    harder.
    """
    runs: dict[str, int] = {}
    watches: dict[str, FolderWatch] = {}
    while True:
        for name, number in list(runs.items()):
            if os.waitpid(number, os.WNOHANG)[0]:
                del runs[name]
        try:
            db = InspectionDatabase.of(champions.own)
            expire(db)
            for name in champions.names:
                _look_at_folder(champions, db, watches, name)
            for name, facts in queue_facts(db).items():
                if facts.unleased_seconds is not None and name not in runs:
                    child = os.fork()
                    if child == 0:
                        _run(champions, name)
                    runs[name] = child
        except Exception:
            logger.exception("an evaluation failed")
        time.sleep(POLL_SECONDS)


def _look_at_folder(champions: Champions, db: InspectionDatabase, watches: dict[str, FolderWatch], name: str) -> None:
    line = champions.own.line(name)
    if name not in watches:
        folder = champions.shared.line(name).inbox
        watches[name] = FolderWatch(
            name, folder, SETTLE_SECONDS, partial(known_versions, db, name), skip_folders=line.own_folders
        )
    watch = watches[name]
    watch.scan()
    arrivals = [Arrival(version, moment) for version, moment in watch.waiting.items()]
    refused = list(watch.refused)
    register(db, name, watch.folder, arrivals, refused)
    watch.mark_registered({arrival.version for arrival in arrivals} | {seen.version for seen in refused})
    keep_files_refused_by_name(db, line)


def _run(champions: Champions, name: str) -> None:
    with suppress(OSError):
        Path("/proc/self/comm").write_text(RUN_NAME)
    code = 1
    try:
        # Connections of the process that was forked are not this one's.
        create_inspection_engine(champions.own.inspection_db_url).dispose(close=False)
        label = champions.label(name)
        inspect_queue(
            InspectionDatabase.of(champions.own),
            champions.own.line(name),
            Served(model_of(label.rpartition("/")[2]), label),
            run_id=f"run-{os.getpid()}",
            most=40,
        )
        code = 0
    except Exception:
        logger.exception("a run failed")
    finally:
        os._exit(code)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["service", "daemon"])
    parser.add_argument("home", type=Path)
    parser.add_argument("lines", nargs="+")
    parser.add_argument("--machine", default="")
    parser.add_argument("--own-home", type=Path)
    given = parser.parse_args()
    if given.machine:
        stand_for_machine(given.machine)
    what = {"service": serve, "daemon": daemon}[given.what]
    what(Champions(Home(given.home), Home(given.own_home or given.home), tuple(given.lines)))
