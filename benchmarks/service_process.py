"""The inference service as a process that a benchmark starts: all lines of a home served by one model folder.

python -m benchmarks.service_process MODEL --lines 20
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from vad_lib.lines import Home
from vad_lib.models import InspectionModel
from vad_lib.serving import InferenceService, WatchedLine


class OneModel:
    """Every line is served by the same model folder."""

    def __init__(self, home: Home, model: Path, lines: int) -> None:
        self.model = model
        self.lines = {}
        for number in range(lines):
            line = home.line(f"line{number}")
            line.inbox.mkdir(parents=True, exist_ok=True)
            self.lines[line.name] = WatchedLine(line, line.inbox, "1")
        self.loaded: InspectionModel | None = None

    def watched(self) -> dict[str, WatchedLine]:
        return self.lines

    def load(self, line: str, model_version: str) -> InspectionModel:
        if self.loaded is None:
            self.loaded = InspectionModel.load(self.model)
        return self.loaded


def serve(home: Home, model: Path, lines: int) -> None:
    """Be the inference service until standard input ends."""
    from vad_lib.inspection_db import InspectionDatabase

    logging.basicConfig(level=logging.WARNING)
    service = InferenceService(InspectionDatabase.of(home), OneModel(home, model, lines))
    service.start()
    while service.not_ready():
        time.sleep(0.05)
    print("ready", flush=True)
    sys.stdin.read()
    service.stop()


class ServiceProcess:
    """That process, seen from outside."""

    def __init__(self, home: Home, model: Path, lines: int = 1) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "VAD_INSPECTION_DB"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.service_process", str(model), "--lines", str(lines)],
            env={**environment, "VAD_HOME": str(home.root)},
            cwd=Path(__file__).resolve().parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            raise SystemExit("the inference service did not start")
        self._seen = psutil.Process(self.process.pid)

    def cpu_seconds(self) -> float:
        """Return the processor time so far."""
        times = self._seen.cpu_times()
        return times.user + times.system

    def memory_mb(self) -> float:
        """Return what it has in memory."""
        return self._seen.memory_info().rss / 2**20

    def end(self) -> None:
        """Let it finish what it has in hand."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--lines", type=int, default=1)
    given = parser.parse_args()
    serve(Home.from_environment(), given.model, given.lines)
