"""The run launcher that ``dagster.yaml`` names."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import dagster as dg
from dagster._config.config_schema import UserConfigSchema
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.storage.tags import HIDDEN_TAG_PREFIX
from dagster._serdes import ConfigurableClassData, serialize_value

from vad_dagster.run_launcher import LocalRunLauncher
from vad_dagster.warm_runs.client import ForkServer, RunRefused, ServerSettings, ServerUnavailable, ask_server
from vad_dagster.warm_runs.identity import ProcessIdentity
from vad_dagster.warm_runs.messages import BrokenConversation
from vad_dagster.warm_runs.preload import DEFAULT_PRELOAD

PROCESS_TAG = f"{HIDDEN_TAG_PREFIX}vad_process"
SERVICES = ("dagster-daemon", "dagster-webserver", "dagster._daemon", "dagster_webserver", "dagster/_daemon")

START_FROM = dg.Enum("WarmServerStartFrom", [dg.EnumValue("services"), dg.EnumValue("anything")])

log = logging.getLogger("dagster.vad.warm_runs")


class WarmRunLauncher(LocalRunLauncher):
    """Forks runs from a process that has imported everything already; starts them plainly where that cannot be done.

    Config:
        preload: modules to import, ``package.*`` for a package with all its modules. Default: everything that a run
            of this project needs.
        start_seconds: how long the first run waits for a new fork server before it is started plainly.
        start_from: ``services`` (default) lets only the daemon and the web server start fork servers, and other
            programs use one that is there; ``anything`` lets every launching process.
        idle_minutes: an unused fork server ends after this time.
        grace_seconds: it ends this long after all that used it have ended.
        kill_seconds: a run that was asked to stop is killed after this time.
    """

    def __init__(
        self,
        inst_data: ConfigurableClassData | None = None,
        *,
        preload: tuple[str, ...] = DEFAULT_PRELOAD,
        start_seconds: float = 60.0,
        start_from: str = "services",
        idle_minutes: float = 30.0,
        grace_seconds: float = 20.0,
        kill_seconds: float = 45.0,
    ) -> None:
        super().__init__(inst_data=inst_data)
        self._preload = preload
        self._start_seconds = start_seconds
        self._start_from = start_from
        self._idle_seconds = idle_minutes * 60
        self._grace_seconds = grace_seconds
        self._kill_seconds = kill_seconds
        self._server: ForkServer | None = None

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {
            "preload": dg.Field([str], is_required=False),
            "start_seconds": dg.Field(dg.Noneable(float), is_required=False),
            "start_from": dg.Field(START_FROM, is_required=False),
            "idle_minutes": dg.Field(float, is_required=False),
            "grace_seconds": dg.Field(float, is_required=False),
            "kill_seconds": dg.Field(float, is_required=False),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        given = {name: value for name, value in config_value.items() if value is not None}
        if "preload" in given:
            given["preload"] = tuple(given["preload"])
        return cls(inst_data, **given)

    @property
    def server(self) -> ForkServer:
        """The fork server of the instance's home."""
        if self._server is None:
            folder = Path(self._instance.root_directory) / "warm_runs"
            self._server = ForkServer(
                ServerSettings(folder, self._preload, self._idle_seconds, self._grace_seconds, self._kill_seconds)
            )
        return self._server

    def start_server(self) -> None:
        """Start the fork server now, without waiting for it, so that the first run finds it ready."""
        if sys.platform == "linux":
            self.server.start()

    def _may_start(self) -> bool:
        return self._start_from == "anything" or _is_service()

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        try:
            self._launch_warm(run)
        except ServerUnavailable as error:
            # no news from a command that would not keep a server anyway
            level = logging.WARNING if self._may_start() else logging.DEBUG
            log.log(level, "Run %s starts in a new process instead of a warm one: %s", run.run_id, error)
            super().launch_run(context)

    def _launch_warm(self, run: dg.DagsterRun) -> None:
        if sys.platform != "linux":
            raise ServerUnavailable("forking is safe on Linux only")
        if (origin := run.job_code_origin) is None:
            raise ServerUnavailable("it does not say where its code is")
        if not _is_this_python(origin.repository_origin.executable_path):
            raise ServerUnavailable(f"its code location has another Python, {origin.repository_origin.executable_path}")
        try:
            with self.server.hand_over(
                run.run_id,
                serialize_value(self._instance.get_ref()),
                may_start=self._may_start(),
                seconds=self._start_seconds,
                output=_output(),
            ) as handed:
                where = {"run": run.run_id, "host": socket.gethostname(), "socket": str(handed.place.socket)}
                tag = json.dumps({**where, "process": vars(handed.process)})
                self._instance.add_run_tags(run.run_id, {PROCESS_TAG: tag})
                handed.go()
        except (RunRefused, BrokenConversation) as error:
            raise DagsterLaunchFailedError(f"The process forked for run {run.run_id} is of no use: {error}") from error
        self._run_ids.add(run.run_id)

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id) if self.has_instance else None
        found = _forked_process(run)
        if run is None or run.is_finished or found is None:
            return super().terminate(run_id)
        process, host, socket_file = found
        self._instance.report_run_canceling(run)
        if host != socket.gethostname():
            self._instance.report_engine_event(f"The run's process is on {host}, not here.", run, cls=self.__class__)
            return False
        answer = ask_server(socket_file, {"operation": "cancel", "run_id": run_id})
        if answer is not None and answer.get("answer") == "canceling":
            return True
        # Its server is gone, or has left the socket to a successor: the process is asked directly.
        if not process.signal(signal.SIGINT):
            self._instance.report_engine_event("The run's process is gone already.", run, cls=self.__class__)
            return False
        threading.Thread(target=_kill_later, args=(process, self._kill_seconds), daemon=True).start()
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        found = _forked_process(run)
        if found is None or found[1] != socket.gethostname():
            return super().check_run_worker_health(run)
        process = found[0]
        if process.lives():
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"Process {process.pid} is alive.")
        return CheckRunHealthResult(WorkerStatus.FAILED, f"The process of the run (pid {process.pid}) is gone.")


def _forked_process(run: dg.DagsterRun | None) -> tuple[ProcessIdentity, str, Path] | None:
    """Return process, host and socket that the run's tag names; None where it was not forked.

    A repeated run has its parent's tags, and may have been started plainly: the tag says which run it is about.
    """
    if run is None or PROCESS_TAG not in run.tags:
        return None
    tag = json.loads(run.tags[PROCESS_TAG])
    if tag["run"] != run.run_id:
        return None
    return ProcessIdentity(**tag["process"]), tag["host"], Path(tag["socket"])


def _is_this_python(executable: str) -> bool:
    """True for this process' Python, also by its other names in the same environment."""
    here, there = Path(sys.executable), Path(executable)
    return here == there or (here.parent == there.parent and there.exists() and here.samefile(there))


def _is_service() -> bool:
    """True in Dagster's daemon and web server, which stay; a command that soon ends should leave nothing behind."""
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = f"{main.name if main else ''} {sys.argv[0] if sys.argv else ''}"
    return any(service in name for service in SERVICES)


def _output() -> tuple[int, ...]:
    """Return this process' stdout and stderr where both are open: what a run prints belongs there."""
    try:
        os.fstat(1)
        os.fstat(2)
    except OSError:
        return ()
    return (1, 2)


def _kill_later(process: ProcessIdentity, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not process.lives():
            return
        time.sleep(0.2)
    process.signal(signal.SIGKILL, group=True)
