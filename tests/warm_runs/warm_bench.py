"""Instances whose runs are forked, and small jobs to launch in them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository

from vad_dagster.warm_runs.client import ask_server
from vad_dagster.warm_runs.launcher import WarmRunLauncher
from vad_dagster.warm_runs.preload import DEFAULT_PRELOAD

TOY_JOBS = Path(__file__).with_name("toy_jobs.py")
# what every run needs; without torch the server is there in a second or two
LIGHT = [name for name in DEFAULT_PRELOAD if name.startswith(("dagster", "sqlalchemy", "fsspec", "upath"))] + ["numpy"]


def settings(**config: Any) -> str:
    """Return the text of a dagster.yaml with the warm launcher."""
    launcher = {"module": "vad_dagster.warm_runs.launcher", "class": "WarmRunLauncher"}
    config = {"start_from": "anything", "preload": LIGHT, "kill_seconds": 3.0, **config}
    return json.dumps({"telemetry": {"enabled": False}, "run_launcher": {**launcher, "config": config}})


class Bench:
    """A Dagster instance whose runs are forked."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.launcher: WarmRunLauncher = instance.run_launcher  # type: ignore[assignment]

    def create(self, job: str, run_config: dict[str, Any] | None = None) -> dg.DagsterRun:
        recon = ReconstructableRepository.for_file(str(TOY_JOBS), "defs").get_reconstructable_job(job)
        return self.instance.create_run_for_job(
            recon.get_definition(), run_config=run_config, job_code_origin=recon.get_python_origin()
        )

    def launch(self, job: str, run_config: dict[str, Any] | None = None) -> str:
        run = self.create(job, run_config)
        self.instance.launch_run(run.run_id, None)  # type: ignore[arg-type]
        return run.run_id

    def run(self, run_id: str) -> dg.DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def finished(self, run_id: str, seconds: float = 40) -> dg.DagsterRun:
        wait_for(lambda: self.run(run_id).is_finished, seconds, "end of the run")
        return self.run(run_id)

    def messages(self, run_id: str) -> list[str]:
        return [entry.user_message or entry.message for entry in self.instance.all_logs(run_id)]

    def wait_for_message(self, run_id: str, beginning: str) -> str:
        wait_for(lambda: any(m.startswith(beginning) for m in self.messages(run_id)), 40, f"message {beginning!r}")
        return next(m for m in self.messages(run_id) if m.startswith(beginning))

    def pid(self, run_id: str) -> int:
        """Return the process that the run's engine event names."""
        return int(self.wait_for_message(run_id, "Started process for run").split("pid: ")[1].rstrip(")."))

    def status(self) -> dict[str, Any]:
        answer = ask_server(self.launcher.server.place().socket, {"operation": "status"})
        assert answer is not None, "the fork server does not answer"
        return answer

    def stop_server(self) -> None:
        ask_server(self.launcher.server.place().socket, {"operation": "stop"})


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:.0f} s there is still no {what}"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """True where a process has ended, cleared away or not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return True
