"""Keeps several servers running: starts again what has died, tells problems as they come, and ends all of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vad_dagster.cli.guard import start, stop

POLL_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
STEADY_SECONDS = 60.0
"""A server that has run for so long is started again at once when it dies."""
PROBLEM = re.compile(r"\b(WARNING|WARN|ERROR|CRITICAL|FATAL)\b|\"level\": *\"(warning|error|critical)\"|^\w*Error: ")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
MOST_BYTES_AT_ONCE = 65536


@dataclass(frozen=True)
class Server:
    """A server to keep running.

    Attributes:
        name: as the user is told it.
        command: that starts it.
        address: where it answers when it is up; '' where it answers nowhere.
    """

    name: str
    command: Sequence[str]
    address: str = ""


@dataclass
class _Child:
    server: Server
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    next_start: float = 0.0
    deaths_in_a_row: int = 0
    shown_bytes: int = 0
    has_answered: bool = False


class Supervisor:
    """Runs servers until it is closed. Each writes to a log file of its own, from which problems are shown.

    Args:
        servers: what to run.
        environment: all variables of each.
        folder: the current folder of each.
        logs: the folder of the log files; they begin anew.
        tell: shows a line to the user.
        verbose: whether every line of the logs is shown, and not only problems.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        environment: Mapping[str, str],
        folder: Path,
        logs: Path,
        tell: Callable[[str], None],
        *,
        verbose: bool = False,
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._children = [
            _Child(server, logs / f"{re.sub('[^a-z]+', '_', server.name.lower())}.log") for server in servers
        ]
        self._environment, self._folder, self._tell, self._verbose = dict(environment), folder, tell, verbose
        for child in self._children:
            child.log.write_bytes(b"")

    def poll(self) -> bool:
        """Start what is to be started, tell what has happened, and return whether every server has answered once."""
        now = time.monotonic()
        for child in self._children:
            self._show_log(child)
            if child.process is None:
                if now >= child.next_start:
                    self._start(child)
            elif child.process.poll() is not None:
                self._plan_restart(child, child.process)
            elif not child.has_answered:
                child.has_answered = not child.server.address or answers(child.server.address)
        return all(child.has_answered for child in self._children)

    def close(self) -> None:
        """End all servers and everything that they have started, by force where asking does not help."""
        stop([child.process for child in self._children if child.process is not None])

    def _start(self, child: _Child) -> None:
        with child.log.open("ab") as output:
            child.process = start(
                child.server.command, environment=self._environment, folder=self._folder, output=output
            )
        child.started_at = time.monotonic()

    def _plan_restart(self, child: _Child, ended: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):  # what it has left behind would keep its port
            os.killpg(ended.pid, signal.SIGKILL)
        if time.monotonic() - child.started_at > STEADY_SECONDS:
            child.deaths_in_a_row = 0
        pause = min(2.0**child.deaths_in_a_row, LONGEST_PAUSE_SECONDS)
        child.deaths_in_a_row += 1
        child.process, child.next_start = None, time.monotonic() + pause
        code = ended.returncode
        how = f"signal {code - 128}" if code > 128 else f"exit code {code}"
        self._tell(
            f"{child.server.name} has ended by itself ({how}). It starts again in {pause:.0f} s; see {child.log}."
        )

    def _show_log(self, child: _Child) -> None:
        with child.log.open("rb") as file:
            file.seek(child.shown_bytes)
            new = file.read(MOST_BYTES_AT_ONCE)
        whole = new.rpartition(b"\n")[0] if len(new) < MOST_BYTES_AT_ONCE else new
        if not whole:
            return
        child.shown_bytes += len(whole) + (len(new) < MOST_BYTES_AT_ONCE)
        for line in COLOURS.sub("", whole.decode(errors="replace")).splitlines():
            if self._verbose or PROBLEM.search(line):
                self._tell(f"{child.server.name}: {line.rstrip()}")


def answers(address: str) -> bool:
    """Return whether a web server answers at an address, whatever it says."""
    try:
        with urllib.request.urlopen(address, timeout=1):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
