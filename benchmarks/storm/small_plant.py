"""A plant without Dagster, MLflow and torch: a real scorer process, a bulk lane that forks a process for each run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from benchmarks.storm.plan import KILL_DAEMON, KILL_RUN, KILL_SCORER
from benchmarks.storm.processes import Processes
from vad_lib.lines import Home

REPOSITORY = Path(__file__).resolve().parents[2]
VERSIONS = ("1", "2")
SETTLE_SECONDS = 1.0
RUN_NAME = "storm-run"


class SmallPlant:
    """See ``Plant`` in ``storm.py``."""

    def __init__(self, home: Home, database_url: str, lines: tuple[str, ...]) -> None:
        self.home = home
        self.lines = lines
        environment = {
            **os.environ,
            "VAD_HOME": str(home.root),
            "VAD_INSPECTION_DB": database_url,
            "PYTHONPATH": os.pathsep.join(
                str(folder) for folder in (REPOSITORY, *(REPOSITORY / "tests" / name for name in ("inspection",)))
            ),
            "OMP_NUM_THREADS": "1",
        }
        self.processes = Processes(home.root, environment)
        self.kills = self.processes.kills
        for name in lines:
            home.line(name).inbox.mkdir(parents=True, exist_ok=True)
            self._champion(name).write_text(VERSIONS[0])

    def _champion(self, line: str) -> Path:
        return self.home.line(line).folder / "champion"

    def thresholds(self) -> dict[str, float]:
        return {f"{line}/{version}": 100.0 + int(version) for line in self.lines for version in VERSIONS}

    def start(self) -> None:
        self.restart(KILL_SCORER)
        self.restart(KILL_DAEMON)

    def restart(self, kind: str) -> None:
        name = {KILL_SCORER: "scorer", KILL_DAEMON: "daemon"}.get(kind)
        if name:
            self.processes.start(
                name, [sys.executable, "-m", "benchmarks.storm.small_processes", name, str(self.home.root), *self.lines]
            )

    def kill(self, kind: str) -> bool:
        if kind == KILL_RUN:
            runs = [number for number, (name, _) in self.processes.living().items() if name == RUN_NAME]
            return self.processes.kill("run", runs[:1])
        return self.processes.kill_started({KILL_SCORER: "scorer", KILL_DAEMON: "daemon"}[kind])

    def promote(self, line: str) -> str:
        file = self._champion(line)
        other = VERSIONS[1 - VERSIONS.index(file.read_text())]
        partial = file.with_suffix(".new")
        partial.write_text(other)
        partial.replace(file)
        return f"{line}/{other}"

    def champion(self, line: str) -> str:
        return f"{line}/{self._champion(line).read_text()}"

    def ended_by_themselves(self) -> list[str]:
        return self.processes.ended_by_themselves()

    def stop_scorer(self) -> None:
        process = self.processes.started["scorer"]
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(20)

    def stop(self) -> None:
        self.processes.end_all()
