"""One Dagster code server for the time of one command, and the instance beside it.

``dagster dev`` starts its code servers in the terminal's process group, where Ctrl-C reaches server, run and command at
once and the run dies before it can be told to stop. Here the server gets its own session: only the command hears
Ctrl-C, and stops the run the way that Dagster means it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vad_dagster.cli.guard import start, stop
from vad_dagster.home import CODE_LOCATION, MODULE, PACKAGE, executable, prepare_home
from vad_lib.errors import VadError
from vad_lib.lines import Home
from vad_lib.settings import settings

if TYPE_CHECKING:
    from dagster import DagsterInstance

STARTUP_SECONDS = 120
QUERY_SECONDS = 180
STOP_SECONDS = 15.0


@contextmanager
def open_instance() -> Iterator[DagsterInstance]:
    """Open the one Dagster instance of this home; child processes find the same one through the environment."""
    os.environ.update(prepare_home())
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        yield instance


@dataclass(frozen=True)
class CodeServer:
    """A running code server, which Dagster's own command line talks to.

    Attributes:
        folder: a scratch folder, with a ``workspace.yaml`` that names the server.
    """

    folder: Path

    def query(self, text: str, variables: Mapping[str, Any], *, queue: bool) -> dict[str, Any]:
        """Ask Dagster's GraphQL interface, and return its answer.

        Args:
            text: the GraphQL document.
            variables: what it names.
            queue: whether a run that is submitted waits in the queue for a daemon. Otherwise it starts at once.

        Raises:
            VadError: no answer came, with what was said instead.
        """
        answer = self.folder / "answer.json"
        answer.unlink(missing_ok=True)
        home = str(_dagster_home()) if queue else str(self._home_without_queue())
        try:
            ended = subprocess.run(
                [
                    *(executable("dagster-graphql"), "--workspace", str(self.folder / "workspace.yaml")),
                    *("--text", text, "--variables", json.dumps(variables), "--output", str(answer)),
                ],
                env={**os.environ, "DAGSTER_HOME": home},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=QUERY_SECONDS,
                # Ctrl-C is for this process, which waits for the answer and stops the run
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise VadError(f"Dagster did not answer within {QUERY_SECONDS} s.") from error
        if ended.returncode or not answer.exists():
            told = "\n".join(ended.stderr.decode(errors="replace").splitlines()[-30:])
            raise VadError(f"Dagster could not be asked. What it said:\n{told}")
        return dict(json.loads(answer.read_text(encoding="utf-8")))

    def _home_without_queue(self) -> Path:
        """Return a folder of settings that has the same storage, and starts at once what is submitted."""
        home = _dagster_home()
        content = yaml.safe_load((home / "dagster.yaml").read_text(encoding="utf-8")) or {}
        content.pop("run_queue", None)
        content["run_coordinator"] = {"module": "vad_dagster.run_coordinator", "class": "ImmediateRunCoordinator"}
        folder = self.folder / "home"
        folder.mkdir(exist_ok=True)
        (folder / "dagster.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        # where the settings name no place, Dagster keeps everything in folders of this name beside them
        for name in ("history", "schedules", "storage"):
            (home / name).mkdir(exist_ok=True)
            if not (folder / name).exists():
                (folder / name).symlink_to(home / name)
        return folder


@contextmanager
def code_server(module: str = MODULE, folder: Path = PACKAGE.parent) -> Iterator[CodeServer]:
    """Start a code server with the definitions of ``module`` in ``folder``.

    The location has the name that the daemon and the web server know it by, so runs made here are linked to their job
    there. The server ends with this block, and by itself if this process dies.

    Raises:
        VadError: the server does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="vad-") as name:
        # a short path: a socket's name has at most some hundred characters
        scratch = Path(name)
        socket, log = scratch / "code.sock", scratch / "server.log"
        workspace = {"load_from": [{"grpc_server": {"socket": str(socket), "location_name": CODE_LOCATION}}]}
        (scratch / "workspace.yaml").write_text(yaml.safe_dump(workspace), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "dagster", "api", "grpc", "--socket", str(socket)),
            *("--module-name", module, "--working-directory", str(folder)),
            *("--location-name", CODE_LOCATION, "--log-level", "warning"),
            # runs that it starts use this very Python
            "--use-python-environment-entry-point",
        ]
        with log.open("wb") as output:
            process = start(command, output=output)
        try:
            _wait_until_up(socket, process, log)
            yield CodeServer(scratch)
        finally:
            stop([process], seconds=STOP_SECONDS)


def _dagster_home() -> Path:
    return settings().dagster_home or Home.from_environment().dagster_folder


def _wait_until_up(socket: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    import grpc

    with grpc.insecure_channel(f"unix:{socket}") as channel:
        ready = grpc.channel_ready_future(channel)
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                ready.result(timeout=0.2)
                return
            except grpc.FutureTimeoutError:
                continue
        ready.cancel()
    # Dagster wraps the error of the definitions in one of its own, which says less and is long.
    told = log.read_text(errors="replace").partition("\nThe above exception was the direct cause")[0]
    tail = "\n".join(told.splitlines()[-30:])
    raise VadError(f"The project's definitions could not be loaded. What the code server said:\n{tail}")
