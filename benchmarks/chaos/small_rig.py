"""A test rig without Dagster, MLflow and torch: real inference services, and a daemon that forks a process a run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from benchmarks.chaos.plan import KILL_BOTH_SERVICES, KILL_DAEMON, KILL_OTHER_SERVICE, KILL_RUN, KILL_SERVICE
from benchmarks.chaos.processes import Processes
from vad_lib.lines import Home

REPOSITORY = Path(__file__).resolve().parents[2]
VERSIONS = ("1", "2")
SETTLE_SECONDS = 1.0
RUN_NAME = "chaos-run"
SERVICE, OTHER_SERVICE, DAEMON = "service", "service of machine 2", "daemon"
PROCESSES = {
    KILL_SERVICE: (SERVICE,),
    KILL_OTHER_SERVICE: (OTHER_SERVICE,),
    KILL_BOTH_SERVICES: (SERVICE, OTHER_SERVICE),
    KILL_DAEMON: (DAEMON,),
}


class SmallRig:
    """See ``Rig`` in ``chaos_test.py``. One machine, with an inference service and runs that share its queue."""

    machines: tuple[str, ...] = ()
    """Names that stand for machines; none: everything runs on this one, where a death is seen at once."""
    runs = True

    def __init__(self, home: Home, database_url: str, lines: tuple[str, ...]) -> None:
        self.home = home
        self.lines = lines
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("VAD_")},
            "VAD_HOME": str(home.root),
            "VAD_INSPECTION_DB": database_url,
            "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests" / "inspection"))),
            "OMP_NUM_THREADS": "1",
        }
        self.processes = Processes(home.root, environment)
        self.kills = self.processes.kills
        for name in lines:
            self.watch_folder(name).mkdir(parents=True, exist_ok=True)
            self._champion(name).write_text(VERSIONS[0])

    def watch_folder(self, line: str) -> Path:
        return self.home.line(line).inbox

    def _champion(self, line: str) -> Path:
        return self.home.line(line).folder / "champion"

    def thresholds(self) -> dict[str, float]:
        return {f"{line}/{version}": 100.0 + int(version) for line in self.lines for version in VERSIONS}

    def start_services(self) -> None:
        self.restart(KILL_SERVICE)

    def start_runs(self) -> None:
        self.restart(KILL_DAEMON)

    def restart(self, kind: str) -> None:
        for name in PROCESSES.get(kind, ()):
            if not self.processes.lives(name):
                self.processes.start(name, self._command(name))

    def _command(self, name: str) -> list[str]:
        what = DAEMON if name == DAEMON else SERVICE
        return [sys.executable, "-m", "benchmarks.chaos.small_processes", what, str(self.home.root), *self.lines]

    def kill(self, kind: str) -> bool:
        if kind == KILL_RUN:
            runs = [number for number, (name, _) in self.processes.living().items() if name == RUN_NAME]
            return self.processes.kill("run", runs[:1])
        names = PROCESSES[kind]
        # Both, or none: one of them may be down just now.
        together = names if all(map(self.processes.lives, names)) else ()
        return any([self.processes.kill_started(name) for name in together])  # noqa: C419

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

    def stop_services(self) -> None:
        for name, process in self.processes.started.items():
            if name != DAEMON and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(30)

    def stop(self) -> None:
        self.processes.end_all()


class TwoMachines(SmallRig):
    """Two inference services with homes of their own, as on two machines: one database and one watch folder a line.

    Neither can ask whether a process of the other lives, so only the end of a lease shows a death. The home of the
    test rig stands for the share that both see.
    """

    machines = ("machine-1", "machine-2")
    runs = False

    def start_services(self) -> None:
        self.restart(KILL_BOTH_SERVICES)

    def start_runs(self) -> None:
        """There are none."""

    def _command(self, name: str) -> list[str]:
        machine = self.machines[name == OTHER_SERVICE]
        own = self.home.root / machine
        return [*super()._command(name), "--machine", machine, "--own-home", str(own)]
