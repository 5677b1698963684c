"""The fork server: one single-threaded process that waits on a unix socket and forks a process for each run.

Started by ``client.ForkServer`` with ``python -m vad_dagster.warm_runs.server``. It forks only while it has one thread,
opens no database, does no tensor operation, and never talks to a GPU. It ends by itself when it is idle for long, when
those that used it are gone, when its socket is removed, and after the last run when the files it has loaded changed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vad_dagster.warm_runs.child import FINISHED, NEVER_STARTED, RunRequest, become_run, leave, report_crash, text_of
from vad_dagster.warm_runs.forked import ReportProcess, RunProcess
from vad_dagster.warm_runs.holding import acquire, code_of_ended, library_limits, listen, release
from vad_dagster.warm_runs.identity import ProcessIdentity, ServerPlace
from vad_dagster.warm_runs.messages import BrokenConversation, WrongUser, receive, refuse_other_users, send
from vad_dagster.warm_runs.preload import NotForkable, Preloaded, preload, refuse_threads

ALREADY_THERE = 0
CANNOT_FORK = 3
TICK_SECONDS = 1.0
REQUEST_SECONDS = 2.0
REPORT_TRIES = 3
FILES_SECONDS = 3.0
SETTLED_SECONDS = 5.0

log = logging.getLogger("vad.warm_runs")


class Server:
    """Accepts requests, forks, reaps."""

    def __init__(
        self,
        place: ServerPlace,
        loaded: Preloaded,
        users: set[ProcessIdentity],
        *,
        idle_seconds: float,
        grace_seconds: float,
        kill_seconds: float,
    ) -> None:
        self._place = place
        self._loaded = loaded
        self._idle_seconds = idle_seconds
        self._grace_seconds = grace_seconds
        self._kill_seconds = kill_seconds
        self._runs: dict[int, RunProcess] = {}
        self._reports: dict[int, ReportProcess] = {}
        self.users = users
        # set where a new server should take the place of this one in advance
        self.renew = False
        self._looked_at_files = time.monotonic()
        self._last_use = self._users_seen = time.monotonic()
        self._retired = ""
        self._limits = library_limits()
        self._listener = listen(place.socket)
        self._inode = place.socket.stat().st_ino
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)

    def serve(self) -> Callable[[], int] | None:
        """Work until there is no reason to; in a forked child, return what the child has to do."""
        asked_to_end: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _frame: asked_to_end.append(number))
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # wakes the selector
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        while not (self._retired and not self._runs and not self._reports):
            events = self._selector.select(TICK_SECONDS)
            with suppress(BlockingIOError):
                os.read(self._wake, 4096)
            if any(key.fileobj is self._listener for key, _mask in events) and (task := self._accept()):
                return task
            if task := self._reap():
                return task
            if asked_to_end:
                # what a terminal or a service manager sends to all processes of Dagster is meant for the runs too
                self._retire(f"signal {asked_to_end.pop()}")
                for pid in list(self._runs):
                    self._cancel(pid)
            self._escalate()
            self._look_around()
        log.info("ends: %s", self._retired)
        return None

    # requests

    def _accept(self) -> Callable[[], int] | None:
        try:
            connection, _address = self._listener.accept()
        except OSError:
            return None
        files: list[int] = []
        try:
            connection.settimeout(REQUEST_SECONDS)
            refuse_other_users(connection)
            message, files = receive(connection, files=2)
            return self._answer(message, connection, files)
        except (BrokenConversation, WrongUser) as error:
            log.warning("a request was dropped: %s", error)
            return None
        finally:
            # in the child, the task holds copies
            connection.close()
            for file in files:
                os.close(file)

    def _answer(
        self, message: Mapping[str, Any], connection: socket.socket, files: list[int]
    ) -> Callable[[], int] | None:
        self._last_use = time.monotonic()
        operation = message.get("operation")
        if operation == "run":
            return self._run(RunRequest.read(message), connection, files)
        if operation == "cancel":
            pid = next((pid for pid, run in self._runs.items() if run.request.run_id == message.get("run_id")), None)
            send(connection, {"answer": "none" if pid is None else "canceling"})
            if pid is not None:
                self._cancel(pid)
        elif operation == "status":
            send(connection, self._status())
        elif operation == "stop":
            self._retire("asked to stop")
            send(connection, {"answer": "stopping"})
        else:
            send(connection, {"answer": "error", "error": f"unknown operation {operation!r}"})
        return None

    def _status(self) -> dict[str, Any]:
        return {
            "answer": "status",
            "pid": os.getpid(),
            "preload_seconds": round(self._loaded.seconds, 2),
            "missing": self._loaded.missing,
            "modules": len(sys.modules),
            "threads": len(os.listdir("/proc/self/task")),
            "runs": [run.request.run_id for run in self._runs.values()],
        }

    def _run(self, request: RunRequest, connection: socket.socket, files: list[int]) -> Callable[[], int] | None:
        if (changed := self._loaded.changed_file()) is not None:
            self._retire(f"{changed} changed")
            send(connection, {"answer": "stale", "reason": f"{changed} changed"})
            return None
        try:
            refuse_threads()
        except NotForkable as error:
            self._retire(str(error))
            send(connection, {"answer": "stale", "reason": str(error)})
            return None
        self.users.add(request.launcher)
        connection_copy = connection.dup()
        output = [os.dup(file) for file in files]
        pid = self._fork()
        if pid == 0:
            return lambda: become_run(request, connection_copy, output, self._loaded.variables, self._limits)
        connection_copy.close()
        for file in output:
            os.close(file)
        self._runs[pid] = RunProcess(request)
        log.info("process %d is forked for %s", pid, text_of(request))
        return None

    # processes

    def _fork(self) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._selector.close()
            self._listener.close()
            os.close(self._wake)
            os.close(self._woken)
        return pid

    def _reap(self) -> Callable[[], int] | None:
        for pid in [*self._runs, *self._reports]:
            # looked at first, and taken away later: until then nobody else gets this pid
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            report = self._reports.pop(pid, None)
            run = self._runs.pop(pid, None)
            if run is not None:
                with suppress(ProcessLookupError, PermissionError):
                    if code_of_ended(pid, peek=True) not in (FINISHED, NEVER_STARTED):
                        os.killpg(pid, signal.SIGKILL)  # what the run had started
            exit_code = code_of_ended(pid)
            self._last_use = time.monotonic()
            if run is not None and exit_code not in (FINISHED, NEVER_STARTED):
                log.warning("process %d ended with %d: %s", pid, exit_code, text_of(run.request))
                if task := self._report(run.request, exit_code, 1):
                    return task
            if report is not None and exit_code != 0 and report.tries < REPORT_TRIES:
                time.sleep(0.5)
                if task := self._report(report.request, report.exit_code, report.tries + 1):
                    return task
        return None

    def _report(self, request: RunRequest, exit_code: int, tries: int) -> Callable[[], int] | None:
        pid = self._fork()
        if pid == 0:
            return lambda: report_crash(request, exit_code)
        self._reports[pid] = ReportProcess(request, exit_code, tries)
        return None

    def _cancel(self, pid: int) -> None:
        run = self._runs[pid]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        if run.kill_at is None:
            run.kill_at = time.monotonic() + self._kill_seconds

    def _escalate(self) -> None:
        for pid, run in self._runs.items():
            if run.kill_at is not None and time.monotonic() > run.kill_at:
                log.warning("process %d did not end when it was asked to, and is killed", pid)
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                run.kill_at = time.monotonic() + self._kill_seconds

    # the end

    def _retire(self, reason: str) -> None:
        """Take no more requests, make room for a successor, and end with the last run."""
        if self._retired:
            return
        self._retired = reason
        log.info("takes no more runs: %s", reason)
        if self._owns_socket():
            self._place.socket.unlink(missing_ok=True)
        self._selector.unregister(self._listener)
        self._listener.close()
        release(self._place)

    def _owns_socket(self) -> bool:
        try:
            return self._place.socket.stat().st_ino == self._inode
        except OSError:
            return False

    def _look_around(self) -> None:
        if self._retired:
            return
        now = time.monotonic()
        if any(user.lives() for user in self.users):
            self._users_seen = now
        if not self._owns_socket():
            self._retire("its socket is gone")
        elif self._runs or self._reports:
            return
        elif now - self._last_use > self._idle_seconds:
            self._retire(f"idle for {self._idle_seconds:.0f} s")
        elif now - max(self._users_seen, self._last_use) > self._grace_seconds:
            self._retire("those that used it are gone")
        elif now - self._looked_at_files > FILES_SECONDS:
            self._looked_at_files = now
            if (changed := self._loaded.changed_file()) and self._loaded.settled(SETTLED_SECONDS):
                self.renew = True
                self._retire(f"{changed} changed")


def _start_again(users: set[ProcessIdentity]) -> None:
    """Become a server that loads the changed files, so that the next run need not wait for one."""
    command = list(sys.orig_argv)
    command[command.index("--users") + 1] = json.dumps([vars(user) for user in users if user.lives()])
    os.execv(sys.executable, command)


def main() -> int:
    """Preload and serve; the return value is the exit code of the server or, in a child, of the run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--preload", type=json.loads, required=True)
    parser.add_argument("--idle-seconds", type=float, required=True)
    parser.add_argument("--grace-seconds", type=float, required=True)
    parser.add_argument("--kill-seconds", type=float, required=True)
    parser.add_argument("--users", type=json.loads, default=[])
    given = parser.parse_args()
    # on a logger of its own: handlers of the root logger would be those of the runs too
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    place = ServerPlace(given.folder, given.key)
    if not acquire(place):
        log.info("another server has this place")
        return ALREADY_THERE
    try:
        loaded = preload(given.preload)
    except NotForkable as error:
        log.error("cannot fork: %s", error)
        os._exit(CANNOT_FORK)  # does not wait for the threads
    seconds = {name: getattr(given, name) for name in ("idle_seconds", "grace_seconds", "kill_seconds")}
    server = Server(place, loaded, {ProcessIdentity(**user) for user in given.users}, **seconds)
    log.info("listens, %d modules in %.1f s", len(sys.modules), loaded.seconds)
    task = server.serve()
    if task is None:
        if server.renew:
            _start_again(server.users)
        return 0
    code = 1
    try:
        code = task()
    except BaseException:
        log.exception("a forked process failed")
    finally:
        leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
