"""Both UIs and the resident scorer at once, for ``vad dev`` and ``make dev``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from vad_dagster.cli.console import console, stderr
from vad_dagster.home import dagster_command, executable, mlflow_command, prepare_home, prepare_tracking
from vad_lib.errors import InputError, VadError

STOP_SECONDS = 30.0


def serve(ports: Mapping[str, int]) -> None:
    """Start Dagster's web server with its daemon, MLflow's, and the resident scorer, and wait until Ctrl-C.

    A scorer that ends takes nothing with it: runs inspect what lands.

    Args:
        ports: of ``dagster``, ``mlflow`` and ``scorer``, those that are wanted.

    Raises:
        InputError: a port is taken.
        VadError: Dagster's or MLflow's server ended by itself.
    """
    for name, port in ports.items():
        _refuse_taken(port, "--port" if name == "dagster" else f"--{name}-port")
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    # links from one page to the other
    for name, address in addresses.items():
        os.environ[f"{name.upper()}_UI_URL"] = address
    environment = prepare_home()
    os.environ.update(environment)
    prepare_tracking()
    dagster, folder = dagster_command(ports.get("dagster", 0))
    commands = {
        "dagster": dagster,
        "mlflow": mlflow_command(ports.get("mlflow", 0)),
        "scorer": [executable("vad"), "serve", "--port", str(ports.get("scorer", 0)), "--log-level", "warning"],
    }
    # Each in a session of its own: Ctrl-C reaches only this process, which then stops them in order.
    servers: dict[str, subprocess.Popen[bytes]] = {}
    waiting, ended = dict(addresses), set[str]()
    try:
        for name in ports:
            servers[name] = start(commands[name], environment, folder)
        while True:
            for name, process in servers.items():
                if process.poll() is not None and name not in ended:
                    if name != "scorer":
                        raise VadError(f"The server of {name} ended by itself (exit code {process.returncode}).")
                    ended.add(name)
                    waiting.pop(name, None)
                    stderr.print(
                        f"The resident scorer ended by itself (exit code {process.returncode}); runs inspect what "
                        "lands. `vad serve` starts it again.",
                        style="yellow",
                        markup=False,
                    )
            for name, address in list(waiting.items()):
                if answers(address):
                    console.print(f"{name}: {address}   (Ctrl-C stops everything)", style="bold green")
                    del waiting[name]
            time.sleep(0.5)
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        stop(servers.values())
        if "dagster" in servers:
            _forget_daemon()


def _forget_daemon() -> None:
    """Else the next command would believe for a minute that a daemon still works the queue."""
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        instance.wipe_daemon_heartbeats()


def start(
    command: Sequence[str], environment: dict[str, str], folder: Path | None = None, output: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own; what it writes goes to ``output``, or is shown."""
    return subprocess.Popen(
        list(command),
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
    )


def stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Stop servers and everything that they started: first by asking, at last by force."""
    running = list(processes)
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + STOP_SECONDS
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))
        # what it left behind is in its group still
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(address: str) -> bool:
    """True where a web server answers."""
    try:
        with urllib.request.urlopen(address, timeout=1):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _refuse_taken(port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            without = ", or leave the scorer out with --no-scorer" if option == "--scorer-port" else ""
            raise InputError(
                f"Port {port} is taken by another program: give another one with {option}{without}."
            ) from error
