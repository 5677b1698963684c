"""The real test rig: ``vad serve``, Dagster's daemon with its code server and its runs, MLflow."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from benchmarks.chaos.home_template import thresholds_of
from benchmarks.chaos.plan import KILL_CODE_SERVER, KILL_DAEMON, KILL_RUN, KILL_SERVICE
from benchmarks.chaos.processes import Processes
from benchmarks.homes import environment_of
from vad_dagster.home import daemon_command, prepare_home
from vad_dagster.registry import LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_lib.lines import Home

SERVICE, DAEMON = "service", "daemon"
RUN_WORDS, CODE_SERVER_WORDS = "spawn_main", "api grpc"
"""In the command lines of Dagster's processes: a run is a child of the code server."""


class FullRig:
    """See ``Rig`` in ``chaos_test.py``."""

    machines: tuple[str, ...] = ()
    runs = True

    def __init__(self, home: Home, database_url: str, lines: tuple[str, ...]) -> None:
        self.home = home
        self.lines = lines
        os.environ.update(environment_of(home.root, database_url, OMP_NUM_THREADS="1", VAD_RESULT_FILES="1"))
        os.environ.update(prepare_home(home))
        self.processes = Processes(home.root, dict(os.environ))
        self.kills = self.processes.kills
        tracking = MLflowTracking()
        self._registries = {line: LineRegistry(tracking, line) for line in lines}

    def watch_folder(self, line: str) -> Path:
        return self.home.line(line).inbox

    def start_services(self) -> None:
        self.restart(KILL_SERVICE)

    def start_runs(self) -> None:
        self.restart(KILL_DAEMON)

    def restart(self, kind: str) -> None:
        if kind == KILL_SERVICE:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            words = ["serve", "--port", str(port), "--log-level", "info"]
            self.processes.start(SERVICE, [sys.executable, "-m", "vad_dagster.cli.app", *words])
        elif kind == KILL_DAEMON:
            self.processes.start(DAEMON, daemon_command())
        # What the daemon has started, it starts again by itself.

    def kill(self, kind: str) -> bool:
        if kind in (KILL_SERVICE, KILL_DAEMON):
            return self.processes.kill_started(SERVICE if kind == KILL_SERVICE else DAEMON)
        words = {KILL_RUN: RUN_WORDS, KILL_CODE_SERVER: CODE_SERVER_WORDS}[kind]
        found = [number for number, (_, command) in self.processes.living().items() if words in command]
        return self.processes.kill(kind.removeprefix("kill "), found[:1] if kind == KILL_RUN else found)

    def promote(self, line: str) -> str:
        registry = self._registries[line]
        other = "2" if registry.champion().number == "1" else "1"
        return registry.promote(registry.version(other), by="the chaos test").label

    def champion(self, line: str) -> str:
        return self._registries[line].champion().label

    def thresholds(self) -> dict[str, float]:
        return thresholds_of(self.home.root)

    def ended_by_themselves(self) -> list[str]:
        return self.processes.ended_by_themselves()

    def stop_services(self) -> None:
        self.processes.stop(SERVICE)

    def stop(self) -> None:
        self.processes.stop(DAEMON)
        self.processes.end_all()
