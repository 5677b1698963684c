"""A real Dagster daemon for the time of a block."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vad_dagster.cli.guard import start, stop
from vad_dagster.cli.running import daemon_is_alive
from vad_dagster.home import daemon_command, prepare_home
from vad_lib.errors import VadError
from vad_lib.lines import Home

if TYPE_CHECKING:
    from dagster import DagsterInstance

STARTUP_SECONDS = 120.0


@contextmanager
def running_daemon(instance: DagsterInstance, home: Home, log: Path) -> Iterator[None]:
    """Work with the daemon that runs already, or start one and stop it afterwards.

    Args:
        instance: of the home.
        home: where everything lies.
        log: gets what the started daemon writes.

    Raises:
        VadError: the daemon ended at once, or does not come up; the message holds the end of its log.
    """
    if daemon_is_alive(instance):
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = start(daemon_command(), environment=prepare_home(), folder=home.dagster_folder, output=output)
    try:
        deadline = time.monotonic() + STARTUP_SECONDS
        while not daemon_is_alive(instance):
            if process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                raise VadError(f"The daemon did not start. The end of {log}:\n{tail}")
            time.sleep(0.2)
        yield
    finally:
        stop([process])
        # else the next command would believe for a minute that a daemon still works the queue
        instance.wipe_daemon_heartbeats()
