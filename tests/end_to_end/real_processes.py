"""Real processes on a home of their own: the command line, the daemon, the servers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vad_dagster.cli.guard import stop

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL_PLAN = """
external_path:
    - load_train_data_path: ./train/
    - load_inference_data_path: ./drop/
user_parameters:
    - train_pipeline:
        - step: readiness
          args:
            - ok_class: good
              train_validate_column: train_val_split
        - step: train
          args:
            - model_name: patchcore
              img_size: [64, 64]
              model_parameters: {patchcore_backbone: resnet18, patchcore_coreset_sampling_ratio: 0.05}
"""
"""Of a line that `make_demo_line` makes: trained in seconds."""


class Place:
    """A home, and the environment of processes that work on it."""

    def __init__(self, home: Path, weights: Path | None) -> None:
        self.home = home
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"},
            "VAD_HOME": str(home),
            "PYTHONPATH": str(REPOSITORY),
            "COLUMNS": "160",
        }
        if weights is not None:
            self.environment["VAD_WEIGHTS"] = str(weights)
        else:
            self.environment["VAD_ALLOW_RANDOM_WEIGHTS"] = "1"

    def vad(self, *words: object, seconds: float = 600) -> str:
        """Run ``vad`` to its end, which must be a good one, and return what it wrote."""
        answer = subprocess.run(
            [sys.executable, "-m", "vad_dagster.cli.app", *map(str, words)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
        assert answer.returncode == 0, f"vad {words}: {answer.stdout[-2000:]}\n{answer.stderr[-6000:]}"
        return answer.stdout + answer.stderr

    def start(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                env=self.environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @contextmanager
    def development(self, *options: object, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """``vad dev`` with these options, ended by Ctrl-C."""
        words = [sys.executable, "-m", "vad_dagster.cli.app", "dev", *map(str, options)]
        with self._ended(self.start(words, log), 60) as process:
            yield process

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        """A Dagster daemon with its code server, in a process group of its own."""
        from vad_dagster.home import daemon_command, prepare_home
        from vad_lib.lines import Home

        self.environment |= {"DAGSTER_HOME": prepare_home(Home(self.home))["DAGSTER_HOME"]}
        with self._ended(self.start(daemon_command(), self.home / "daemon.log"), 30) as process:
            yield process

    @contextmanager
    def _ended(self, process: subprocess.Popen[bytes], seconds: float) -> Iterator[subprocess.Popen[bytes]]:
        try:
            yield process
        finally:
            stop([process], seconds=seconds)

    def processes(self) -> list[str]:
        """Return the command lines of processes that work on this home."""
        return list(self._processes().values())

    def numbers_of(self, words: str) -> list[int]:
        """Return the process ids of those whose command line holds these words."""
        return [number for number, line in self._processes().items() if words in line]

    def clean_up(self) -> None:
        """End what a test that failed has left behind."""
        for number in self._processes():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def _processes(self) -> dict[int, str]:
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes()
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if f"VAD_HOME={self.home}\0".encode() in environment and int(folder.name) != os.getpid():
                found[int(folder.name)] = line.replace(b"\0", b" ").decode(errors="replace")
        return found


def free_ports(count: int) -> list[int]:
    """Return so many ports that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:.0f} s there is still no {what}"
        time.sleep(0.2)
