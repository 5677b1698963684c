"""The launcher's side: find the fork server, start it where there is none, hand a run over."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vad_dagster.warm_runs.identity import ProcessIdentity, ServerPlace, private_folder, server_key
from vad_dagster.warm_runs.messages import BrokenConversation, WrongUser, connect, receive, send
from vad_dagster.warm_runs.preload import QUIET

POLL_SECONDS = 0.02
ANSWER_SECONDS = 20.0
CONNECT_SECONDS = 2.0
MOST_STARTS = 2
LARGEST_LOG = 1_000_000
FORGET_FAILURE_SECONDS = 60.0

# kept, because only their parent can clear away processes that have ended
_started: list[subprocess.Popen[bytes]] = []
_starting = threading.Lock()


class ServerUnavailable(Exception):
    """No fork server took the run; it has not begun and may be started in another way."""


class RunRefused(Exception):
    """The forked process cannot execute the run, and another way would not either."""


@dataclass(frozen=True)
class ServerSettings:
    """How a fork server is started; see ``WarmRunLauncher`` for the meaning of each."""

    folder: Path
    preload: tuple[str, ...]
    idle_seconds: float
    grace_seconds: float
    kill_seconds: float


@dataclass(frozen=True)
class HandedRun:
    """A process that waits for the word to begin."""

    process: ProcessIdentity
    place: ServerPlace
    connection: socket.socket

    def go(self) -> None:
        """Let it begin.

        Raises:
            BrokenConversation: it is gone.
        """
        send(self.connection, {"go": True})


class ForkServer:
    """The fork server that fits this process."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._failure: tuple[float, str] | None = None

    def place(self) -> ServerPlace:
        return ServerPlace(self._settings.folder, server_key(self._settings.preload))

    @contextmanager
    def hand_over(
        self, run_id: str, instance_ref: str, *, may_start: bool, seconds: float, output: Sequence[int] = ()
    ) -> Iterator[HandedRun]:
        """Have a process forked for a run. It begins with ``go()``, and ends without it when the block is left.

        Args:
            run_id: of the run.
            instance_ref: serialized reference to the instance that knows it.
            may_start: start a server where there is none, and wait for it.
            seconds: to wait for a server.
            output: file descriptors for the run's stdout and stderr.

        Raises:
            ServerUnavailable: there is none, or it could not be started in time.
            RunRefused: the forked process says that it cannot execute the run.
        """
        me = ProcessIdentity.of(os.getpid())
        if me is None:
            raise ServerUnavailable("this system has no /proc")
        request = {
            "operation": "run",
            "run_id": run_id,
            "instance_ref": instance_ref,
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "launcher": vars(me),
        }
        connection, place, answer = self._ask(request, output, may_start and not self._failed_lately(), seconds)
        with connection:
            if answer.get("answer") == "error":
                raise RunRefused(str(answer.get("error")))
            yield HandedRun(ProcessIdentity(**answer["process"]), place, connection)

    def _ask(
        self, request: Mapping[str, Any], output: Sequence[int], may_start: bool, seconds: float
    ) -> tuple[socket.socket, ServerPlace, dict[str, Any]]:
        deadline = time.monotonic() + seconds
        starts, reason = 0, self._failed_lately() or "there is no fork server"
        child: subprocess.Popen[bytes] | None = None
        place = self.place()
        try:
            private_folder(place.folder)
        except OSError as error:
            raise ServerUnavailable(str(error)) from error
        while True:
            try:
                connection = connect(place.socket, CONNECT_SECONDS)
            except (OSError, WrongUser) as error:
                raise ServerUnavailable(str(error)) from error
            if connection is not None:
                try:
                    connection.settimeout(ANSWER_SECONDS)
                    send(connection, request, output)
                    answer, _files = receive(connection)
                    if answer.get("answer") in ("ready", "error"):
                        return connection, place, answer
                    reason = str(answer.get("reason", answer))
                except BrokenConversation as error:
                    reason = f"the fork server did not answer: {error}"
                connection.close()
            if not may_start:
                raise ServerUnavailable(reason)
            if child is not None and child.poll() not in (None, 0) and (child.returncode > 0 or starts == MOST_STARTS):
                self._fail(f"the fork server ended with {child.returncode}: {_tail(place.log)}")
            # one that was started a moment ago may not have taken its place yet
            if connection is None and (child is None or child.poll() is not None) and _is_free(place):
                if starts == MOST_STARTS:
                    self._fail(f"the fork server did not stay: {_tail(place.log)}")
                child = self.start(place)
                starts += 1
            if time.monotonic() > deadline:
                self._fail(f"{reason}, and none came up within {seconds:.0f} s (see {place.log})")
            time.sleep(POLL_SECONDS)

    def _fail(self, reason: str) -> None:
        self._failure = (time.monotonic(), reason)
        raise ServerUnavailable(reason)

    def _failed_lately(self) -> str:
        """Return why no server came up a short time ago, so that not every run of a queue waits for one."""
        if self._failure and time.monotonic() - self._failure[0] < FORGET_FAILURE_SECONDS:
            return self._failure[1]
        return ""

    def start(self, place: ServerPlace | None = None) -> subprocess.Popen[bytes]:
        """Start a fork server without waiting for it; it ends at once where there is one already."""
        place = place or self.place()
        private_folder(place.folder)
        _clear_log(place.log)
        command = [
            *(sys.executable, "-P", "-m", "vad_dagster.warm_runs.server"),
            *("--folder", str(place.folder), "--key", place.key, "--preload", json.dumps(self._settings.preload)),
            *("--idle-seconds", str(self._settings.idle_seconds)),
            *("--grace-seconds", str(self._settings.grace_seconds)),
            *("--kill-seconds", str(self._settings.kill_seconds)),
            *("--users", json.dumps([vars(me)] if (me := ProcessIdentity.of(os.getpid())) else [])),
        ]
        # the checkout that this module comes from, installed or not
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        with _starting, place.log.open("ab") as log:
            _started[:] = [process for process in _started if process.poll() is None]
            # In this process' group, so that what is sent to all processes of Dagster reaches it; it passes it on.
            process = subprocess.Popen(
                command,
                cwd="/",
                env={**os.environ, **QUIET, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            _started.append(process)
        return process


def ask_server(socket_file: Path, message: Mapping[str, Any], seconds: float = 5.0) -> dict[str, Any] | None:
    """Send one message to a server and return its answer; None where there is no server or no answer."""
    try:
        connection = connect(socket_file, CONNECT_SECONDS)
        if connection is None:
            return None
        with connection:
            connection.settimeout(seconds)
            send(connection, message)
            return receive(connection)[0]
    except (OSError, BrokenConversation):
        return None


def _is_free(place: ServerPlace) -> bool:
    """True where no living server has the place, starting or serving."""
    with place.lock.open("a+") as handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _clear_log(file: Path) -> None:
    with suppress(FileNotFoundError):
        if file.stat().st_size > LARGEST_LOG:
            file.unlink()


def _tail(file: Path) -> str:
    with suppress(OSError):
        lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " | ".join(lines[-3:])
    return f"it wrote nothing to {file}"
