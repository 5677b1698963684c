"""What a forked process does: become the run that was asked for, as ``dagster api execute_run`` would.

Nothing of the run happens before the launcher has said "go". So a launcher that gave up waiting may start the run in
another way: the forked process finds the connection closed and ends.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vad_dagster.warm_runs.identity import ProcessIdentity
from vad_dagster.warm_runs.messages import BrokenConversation, receive, send

# Exit codes that the server takes for "nothing to report". A run that ends its process by itself has another one,
# also with 0: the server then looks whether the run is finished.
FINISHED = 113
NEVER_STARTED = 114

GO_SECONDS = 60.0
PR_SET_PDEATHSIG = 1

log = logging.getLogger("vad.warm_runs")


@dataclass(frozen=True)
class RunRequest:
    """A run to execute, and the surroundings that its launcher has."""

    run_id: str
    instance_ref: str
    environment: Mapping[str, str]
    folder: str
    launcher: ProcessIdentity

    @classmethod
    def read(cls, message: Mapping[str, Any]) -> RunRequest:
        """Take a request from a message.

        Raises:
            BrokenConversation: something is missing or of another kind.
        """
        try:
            environment = {str(name): str(value) for name, value in message["environment"].items()}
            launcher = ProcessIdentity(**message["launcher"])
            texts = [message[name] for name in ("run_id", "instance_ref", "folder")]
        except (KeyError, TypeError, AttributeError) as error:
            raise BrokenConversation(f"a request that is none: {error!r}") from error
        if not all(isinstance(text, str) for text in texts):
            raise BrokenConversation("a request with something else than text")
        return cls(texts[0], texts[1], environment, texts[2], launcher)


def become_run(
    request: RunRequest,
    connection: socket.socket,
    output: list[int],
    variables: Mapping[str, str],
    lift_limits: Callable[[Mapping[str, str]], None],
) -> int:
    """Execute the run in this freshly forked process, and return the exit code.

    Args:
        request: what to run.
        connection: to the launcher, which waits for an answer.
        output: stdout and stderr of the launcher; empty to keep those of the server.
        variables: set by preloaded modules, for those that the request does not set.
        lift_limits: gives libraries the threads back that they were denied in the server.
    """
    from dagster._utils.interrupts import capture_interrupts

    _take_surroundings(request, output, variables)
    lift_limits(request.environment)
    _end_with_server_and_launcher(request.launcher)
    with capture_interrupts():
        return _execute(request, connection)


def _execute(request: RunRequest, connection: socket.socket) -> int:
    from dagster import DagsterInstance
    from dagster._cli.api import _execute_run_command_body
    from dagster._core.instance.ref import InstanceRef
    from dagster._serdes import deserialize_value

    connection.settimeout(GO_SECONDS)
    try:
        instance = DagsterInstance.from_ref(deserialize_value(request.instance_ref, InstanceRef))
        if instance.get_run_by_id(request.run_id) is None:
            raise LookupError(f"There is no run {request.run_id} in the instance of this home.")
    except Exception as error:
        with suppress(BrokenConversation):
            send(connection, {"answer": "error", "error": f"{type(error).__name__}: {error}"})
        return NEVER_STARTED
    with instance:
        try:
            identity = ProcessIdentity.of(os.getpid())
            send(connection, {"answer": "ready", "process": vars(identity) if identity else {}})
            message, _files = receive(connection)
        except BrokenConversation:
            return NEVER_STARTED
        connection.close()
        if message.get("go") is not True:
            return NEVER_STARTED
        # the body of `dagster api execute_run`, with the instance that is open already
        _execute_run_command_body(request.run_id, instance, lambda _event: None, set_exit_code_on_failure=False)
        run = instance.get_run_by_id(request.run_id)
        return FINISHED if run is None or run.is_finished else 1


def _take_surroundings(request: RunRequest, output: list[int], variables: Mapping[str, str]) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update({**variables, **request.environment})
    with suppress(OSError):  # a folder that is gone meanwhile: the run says so if it matters
        os.chdir(request.folder)
    # as in a process that Python was started in
    sys.path.insert(0, request.folder)
    for file, number in zip(output, (1, 2), strict=False):
        os.dup2(file, number)
        os.close(file)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with suppress(OSError):
        Path("/proc/self/comm").write_text("vad-run", encoding="ascii")  # what `ps` and `top` show
    if "numpy" in sys.modules:
        # else all runs would draw the same random numbers; Python's own generator does this by itself
        sys.modules["numpy"].random.seed()


def _end_with_server_and_launcher(launcher: ProcessIdentity) -> None:
    """End when both the server and the launcher have been killed, as a run of the plain launcher ends.

    Whoever stops Dagster by killing its whole process group means the runs too, but these are in sessions of their own.
    If only the server is gone, the run goes on.
    """
    number = signal.SIGRTMIN + 7

    def server_is_gone(_number: int, _frame: object) -> None:
        if not launcher.lives():
            os.killpg(os.getpid(), signal.SIGKILL)

    signal.signal(number, server_is_gone)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def report_crash(request: RunRequest, exit_code: int) -> int:
    """Mark a run whose process ended too early; executed in a forked process of its own.

    The server must not open the instance itself: database connections do not survive a fork.

    Args:
        request: of the run.
        exit_code: of its process; the negative number of the signal that killed it.

    Returns:
        0 where the run is finished now.
    """
    from dagster import DagsterInstance, DagsterRunStatus
    from dagster._core.instance.ref import InstanceRef
    from dagster._serdes import deserialize_value
    from dagster._utils import get_run_crash_explanation

    os.environ.clear()
    os.environ.update(request.environment)
    with DagsterInstance.from_ref(deserialize_value(request.instance_ref, InstanceRef)) as instance:
        run = instance.get_run_by_id(request.run_id)
        if run is None or run.is_finished:
            return 0
        message = get_run_crash_explanation(f"Run execution process for {run.run_id}", exit_code)
        instance.report_engine_event(message, run)
        if run.status == DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run)
        else:
            instance.report_run_failed(run)
    return 0


def leave(exit_code: int) -> None:
    """End a forked process as Python ends: wait for threads, run what was registered, write out the streams.

    Not by ``sys.exit``, which would run the server's own clean-up, and take down every preloaded module one by one.
    """
    with suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BaseException):
            stream.flush()
    os._exit(exit_code)


def text_of(request: RunRequest) -> str:
    """Return a line for the log, without the environment, which may hold passwords."""
    return json.dumps({"run": request.run_id, "launcher": request.launcher.pid})
