"""Processes of a chaos test: started with a log, found by the home that they work on, and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path


class Processes:
    """Those that work on one home."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        self.environment = dict(environment)
        self.started: dict[str, subprocess.Popen[bytes]] = {}
        self.kills: dict[str, int] = {}

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a process in a session of its own; what it writes goes to ``<home>/<name>.log``."""
        with (self.home / f"{name}.log").open("ab") as log:
            self.started[name] = subprocess.Popen(
                list(command),
                env=self.environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str, numbers: Sequence[int]) -> bool:
        """Send SIGKILL to processes and count it; False where there is none."""
        killed = False
        for number in numbers:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
                killed = True
        if killed:
            self.kills[name] = self.kills.get(name, 0) + 1
        return killed

    def lives(self, name: str) -> bool:
        """Whether a process that was started by name has not ended."""
        process = self.started.get(name)
        return process is not None and process.poll() is None

    def kill_started(self, name: str) -> bool:
        """Kill a process that was started by name, and no other of its group."""
        process = self.started.get(name)
        if process is None or process.poll() is not None:
            return False
        killed = self.kill(name, [process.pid])
        process.wait()
        return killed

    def ended_by_themselves(self) -> list[str]:
        """Return names of started processes that ended though nobody killed them, with their exit codes."""
        return [
            f"{name} ended by itself with {process.returncode}"
            for name, process in self.started.items()
            if process.poll() not in (None, -signal.SIGKILL)
        ]

    def living(self) -> dict[int, tuple[str, str]]:
        """Return process id -> name in the kernel and command line, of all that were started for this home."""
        mark = f"VAD_HOME={self.home}\0".encode()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark not in (folder / "environ").read_bytes() or int(folder.name) == os.getpid():
                    continue
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if command:  # what has died and waits for its parent has none
                    found[int(folder.name)] = ((folder / "comm").read_text().strip(), command)
        return found

    def stop(self, name: str, seconds: float = 40.0) -> None:
        """Ask a process to end as Ctrl-C does, and wait."""
        process = self.started.get(name)
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)

    def end_all(self) -> None:
        """Kill whatever works on this home."""
        deadline = time.monotonic() + 20
        while (left := self.living()) and time.monotonic() < deadline:
            for number in left:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            for process in self.started.values():
                process.poll()
            time.sleep(0.1)
