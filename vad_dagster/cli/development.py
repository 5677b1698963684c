"""Both UIs and the inference service at once, for ``vad dev`` and ``make dev``."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from vad_dagster.cli.console import console, stderr
from vad_dagster.cli.supervisor import POLL_SECONDS, Server, Supervisor
from vad_dagster.home import (
    daemon_command,
    executable,
    mlflow_command,
    prepare_home,
    prepare_tracking,
    tracking_uri,
    webserver_command,
)
from vad_lib.errors import InputError
from vad_lib.lines import Home

DAGSTER, MLFLOW, SERVICE = "dagster", "mlflow", "service"
NAMES = {DAGSTER: "Dagster", MLFLOW: "MLflow", SERVICE: "Inference service"}
PAGES = {MLFLOW: "/#/models"}
"""The page of each that a person looks for first, where that is not its root."""
OPTIONS = {DAGSTER: "--port", MLFLOW: "--mlflow-port", SERVICE: "--service-port"}


def serve(ports: Mapping[str, int], *, verbose: bool = False) -> None:
    """Run Dagster's web server with its daemon, MLflow's, and the inference service, until Ctrl-C.

    A server that dies is started again, after a pause that grows where it dies again and again. Where
    ``MLFLOW_TRACKING_URI`` names a server, that one is used and none is started.

    Args:
        ports: of ``dagster``, ``mlflow`` and ``service``, those that are wanted.
        verbose: show everything that they write, and not only problems.

    Raises:
        InputError: a port is taken.
    """
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    own = dict(ports)
    if MLFLOW in ports and is_server(given := tracking_uri()):
        addresses[MLFLOW] = given.rstrip("/")
        del own[MLFLOW]
    for name, port in own.items():
        _refuse_taken(port, OPTIONS[name])
    # links from one page to the other, unless a proxy stands before them
    for name, address in addresses.items():
        os.environ.setdefault(f"{name.upper()}_UI_URL", address)
    environment = prepare_home()
    os.environ.update(environment)
    prepare_tracking()
    commands = {
        DAGSTER: webserver_command(ports.get(DAGSTER, 0)),
        MLFLOW: mlflow_command(ports.get(MLFLOW, 0)),
        SERVICE: [executable("vad"), "serve", "--port", str(ports.get(SERVICE, 0)), "--log-level", "warning"],
    }
    servers = [Server(NAMES[name], commands[name], addresses[name]) for name in own]
    if DAGSTER in own:
        servers.insert(1, Server("Dagster's daemon", daemon_command()))
    logs = Home.from_environment().root / "logs"
    # not in the current folder, which may hold a dagster.yaml that is not the one of this home
    folder = Path(environment["DAGSTER_HOME"])
    supervisor = Supervisor(servers, environment, folder, logs, _tell, verbose=verbose)
    console.print(f"starting {', '.join(server.name for server in servers)}; their logs are in {logs}")
    try:
        told = False
        while True:
            up = supervisor.poll()
            if up and not told:
                _print_addresses(addresses)
                told = True
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        supervisor.close()
        if DAGSTER in own:
            _forget_daemon()


def is_server(address: str) -> bool:
    """Return whether MLflow's tracking address is that of a server, and not of a database or a folder.

    >>> is_server("http://mlflow.local:5000"), is_server("sqlite:////var/vad/mlflow.db")
    (True, False)
    """
    return address.startswith(("http://", "https://", "databricks"))


def _print_addresses(addresses: Mapping[str, str]) -> None:
    width = max(len(NAMES[name]) for name in addresses)
    for name, address in addresses.items():
        console.print(f"{NAMES[name]:<{width}}  {address}{PAGES.get(name, '')}", style="bold green", markup=False)
    console.print("Ctrl-C stops everything.")


def _tell(line: str) -> None:
    stderr.print(line, style="yellow", markup=False)


def _forget_daemon() -> None:
    """Else the next command would believe for a minute that a daemon still works the queue."""
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        instance.wipe_daemon_heartbeats()


def _refuse_taken(port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            without = ", or leave the service out with --no-service" if option == OPTIONS[SERVICE] else ""
            raise InputError(
                f"Port {port} is taken by another program: give another one with {option}{without}."
            ) from error
