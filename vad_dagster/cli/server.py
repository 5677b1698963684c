"""One Dagster code server for the time of one command, and the instance beside it.

``dagster dev`` starts its code servers in the terminal's process group, where Ctrl-C reaches server, run and command at
once and the run dies before it can be told to stop. Here the server gets its own session: only the command hears
Ctrl-C, and stops the run the way that Dagster means it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vad_dagster.home import CODE_LOCATION, MODULE, PACKAGE, prepare_home
from vad_lib.errors import VadError

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from dagster._core.workspace.context import WorkspaceProcessContext

STARTUP_SECONDS = 120
HEARTBEAT_TIMEOUT_SECONDS = 60


@contextmanager
def open_instance() -> Iterator[DagsterInstance]:
    """Open the one Dagster instance of this home; child processes find the same one through the environment."""
    os.environ.update(prepare_home())
    # that a command starts its run in a new process is no news: only services keep a fork server
    logging.getLogger("dagster.vad.warm_runs").setLevel(logging.ERROR)
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        yield instance


@contextmanager
def code_server(
    instance: DagsterInstance, module: str = MODULE, folder: Path = PACKAGE.parent
) -> Iterator[WorkspaceProcessContext]:
    """Start a code server with the definitions of ``module`` in ``folder``, and return the workspace that sees it.

    The location has the name that the daemon and the web server know it by, so runs made here are linked to their job
    there. The server ends with this block, and by itself if this process dies.

    Raises:
        VadError: the server does not come up.
    """
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import GrpcServerTarget
    from dagster._grpc.client import DagsterGrpcClient

    with tempfile.TemporaryDirectory(prefix="vad-") as scratch:
        # a short path: a socket's name has at most some hundred characters
        socket, log = Path(scratch) / "code.sock", Path(scratch) / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "dagster", "api", "grpc", "--socket", str(socket)),
                    *("--module-name", module, "--working-directory", str(folder)),
                    *("--location-name", CODE_LOCATION, "--log-level", "warning"),
                    *("--heartbeat", "--heartbeat-timeout", str(HEARTBEAT_TIMEOUT_SECONDS)),
                    # runs that it starts use this very Python
                    "--use-python-environment-entry-point",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        client = DagsterGrpcClient(socket=str(socket))
        stop = threading.Event()
        beating = threading.Thread(target=_beat, args=(client, stop), daemon=True)
        try:
            _wait_until_up(client, process, log)
            beating.start()
            target = GrpcServerTarget(host="localhost", port=None, socket=str(socket), location_name=CODE_LOCATION)
            with WorkspaceProcessContext(instance, target) as workspace:
                _refuse_broken(workspace)
                yield workspace
        finally:
            stop.set()
            _end(process)


def _beat(client: object, stop: threading.Event) -> None:
    while not stop.wait(10):
        with suppress(Exception):  # the server may have just gone; the command sees that elsewhere
            client.heartbeat("vad")  # type: ignore[attr-defined]


def _wait_until_up(client: object, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            client.ping("")  # type: ignore[attr-defined]
            return
        except Exception:  # not listening yet
            time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
    raise VadError(f"The project's definitions could not be loaded. What the code server said:\n{tail}")


def _refuse_broken(workspace: WorkspaceProcessContext) -> None:
    entry = workspace.create_request_context().get_location_entry(CODE_LOCATION)
    if entry is not None and entry.load_error is not None:
        raise VadError(f"The project's definitions could not be loaded:\n{entry.load_error.message}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
