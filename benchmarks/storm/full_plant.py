"""The real plant: ``vad serve``, Dagster's daemon with its code server, runs forked from a warm server, MLflow."""

from __future__ import annotations

import os
import socket
import sys

from benchmarks.homes import environment_of
from benchmarks.storm.plan import (
    KILL_CODE_SERVER,
    KILL_DAEMON,
    KILL_FORK_SERVER,
    KILL_RUN,
    KILL_SCORER,
)
from benchmarks.storm.processes import Processes
from benchmarks.storm.template import thresholds_of
from vad_dagster.home import daemon_command, prepare_home
from vad_dagster.registry import LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_lib.lines import Home

QUEUE_IMAGES = 64
"""Few, so that bursts go to the bulk lane."""
RUN_NAME = "vad-run"


class FullPlant:
    """See ``Plant`` in ``storm.py``."""

    def __init__(self, home: Home, database_url: str, lines: tuple[str, ...]) -> None:
        self.home = home
        self.lines = lines
        os.environ.update(environment_of(home.root, database_url, OMP_NUM_THREADS="1", VAD_RESULT_FILES="1"))
        os.environ.update(prepare_home(home))
        self.processes = Processes(home.root, dict(os.environ))
        self.kills = self.processes.kills
        tracking = MLflowTracking()
        self._registries = {line: LineRegistry(tracking, line) for line in lines}

    def start(self) -> None:
        self.restart(KILL_SCORER)
        self.restart(KILL_DAEMON)

    def restart(self, kind: str) -> None:
        if kind == KILL_SCORER:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            words = ["serve", "--port", str(port), "--queue", str(QUEUE_IMAGES), "--log-level", "info"]
            self.processes.start("scorer", [sys.executable, "-m", "vad_dagster.cli.app", *words])
        elif kind == KILL_DAEMON:
            self.processes.start("daemon", daemon_command())
        # What the daemon has started, it starts again by itself.

    def kill(self, kind: str) -> bool:
        if kind in (KILL_SCORER, KILL_DAEMON):
            return self.processes.kill_started("scorer" if kind == KILL_SCORER else "daemon")
        living = self.processes.living()
        if kind == KILL_RUN:
            # Started plainly, where no fork server was to be had, it is a child of the code server.
            numbers = [n for n, (name, command) in living.items() if name == RUN_NAME or "spawn_main" in command]
            return self.processes.kill("run", numbers[:1])
        if kind == KILL_FORK_SERVER:
            numbers = [n for n, (name, command) in living.items() if name != RUN_NAME and "warm_runs.server" in command]
            return self.processes.kill("fork server", numbers)
        assert kind == KILL_CODE_SERVER
        return self.processes.kill("code server", [n for n, (_, command) in living.items() if "api grpc" in command])

    def promote(self, line: str) -> str:
        registry = self._registries[line]
        other = "2" if registry.champion().number == "1" else "1"
        return registry.promote(registry.version(other), by="the storm").label

    def champion(self, line: str) -> str:
        return self._registries[line].champion().label

    def thresholds(self) -> dict[str, float]:
        return thresholds_of(self.home.root)

    def ended_by_themselves(self) -> list[str]:
        return self.processes.ended_by_themselves()

    def stop_scorer(self) -> None:
        self.processes.stop("scorer")

    def stop(self) -> None:
        self.processes.stop("daemon")
        self.processes.end_all()
