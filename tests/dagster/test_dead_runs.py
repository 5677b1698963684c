"""A run whose process has died does not hold its line's place until the time limit."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster._core.events import EngineEventData
from dagster._core.test_utils import create_run_for_test

from vad_dagster.cli.guard import stop
from vad_dagster.home import executable
from vad_dagster.jobs import MACHINE_TAG
from vad_dagster.sensors import dead_runs
from vad_dagster.sensors.runs import process_lives
from vad_lib.processes import me

STARTED, FAILURE, SUCCESS = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def started_run(instance: dg.DagsterInstance, pid: int | None, **tags: str) -> str:
    run = create_run_for_test(instance, job_name="x", status=STARTED, tags=tags)
    if pid is not None:
        instance.report_engine_event("started", run, EngineEventData.in_process(pid))
    return run.run_id


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


def look(instance: dg.DagsterInstance) -> None:
    dead_runs(dg.build_sensor_context(instance))


def status_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


@pytest.mark.spec("R1.03")
def test_a_started_run_whose_process_is_gone_is_marked_as_failed(instance: dg.DagsterInstance) -> None:
    gone, alive, silent = (started_run(instance, pid) for pid in (dead_pid(), os.getpid(), None))
    look(instance)
    assert status_of(instance, gone) == FAILURE
    assert status_of(instance, alive) == STARTED
    assert status_of(instance, silent) == STARTED
    failed = instance.all_logs(gone, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert "is gone" in (failed[0].get_dagster_event().message or "")


def test_the_process_that_a_run_logged_last_is_its_process(instance: dg.DagsterInstance) -> None:
    run_id = started_run(instance, dead_pid())
    run = instance.get_run_by_id(run_id)
    instance.report_engine_event("started", run, EngineEventData.in_process(os.getpid()))
    look(instance)
    assert status_of(instance, run_id) == STARTED


def test_a_run_of_another_machine_is_left_alone(instance: dg.DagsterInstance) -> None:
    elsewhere = started_run(instance, dead_pid(), **{MACHINE_TAG: "f" * 16})
    here = started_run(instance, dead_pid(), **{MACHINE_TAG: me().machine})
    look(instance)
    assert status_of(instance, elsewhere) == STARTED
    assert status_of(instance, here) == FAILURE


def test_a_process_that_is_gone_or_younger_than_the_run_is_not_the_run() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert process_lives(process.pid, time.time() + 1)
        assert not process_lives(process.pid, time.time() - 3600)
    finally:
        process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    # not waited for yet: a zombie is no living process either
    assert not process_lives(process.pid, time.time() + 1)
    process.wait()
    assert not process_lives(process.pid, time.time() + 1)


JOBS = Path(__file__).with_name("toy_jobs.py")
LAUNCH = """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
SETTINGS = {
    "telemetry": {"enabled": False},
    "run_queue": {"dequeue_interval_seconds": 1},
    "run_monitoring": {"enabled": True, "poll_interval_seconds": 2, "cancel_timeout_seconds": 30},
    "run_retries": {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False},
}


@dataclasses.dataclass
class WithDaemon:
    """A real daemon with its code server, and an instance beside it."""

    instance: dg.DagsterInstance
    home: Path

    def submit(self, job: str, **tags: str) -> str:
        answer = self.home / "answer.json"
        metadata = {"tags": [{"key": key, "value": value} for key, value in tags.items()]}
        selector = {"repositoryLocationName": JOBS.name, "repositoryName": "__repository__", "jobName": job}
        variables = {"params": {"selector": selector, "mode": "default", "executionMetadata": metadata}}
        subprocess.run(
            [
                *(executable("dagster-graphql"), "--python-file", str(JOBS), "--text", LAUNCH),
                *("--variables", json.dumps(variables), "--output", str(answer)),
            ],
            env={**os.environ, "DAGSTER_HOME": str(self.home)},
            check=True,
            timeout=120,
        )
        return str(json.loads(answer.read_text())["data"]["launchRun"]["run"]["runId"])

    def wait_for(self, found: Callable[[], Any], what: str, seconds: float = 150.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := found()):
            runs = {run.run_id: run.status.value for run in self.instance.get_runs()}
            log = (self.home / "daemon.log").read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, f"no {what} within {seconds:.0f} s; runs: {runs}; the daemon:\n{log}"
            time.sleep(0.2)
        return value

    def messages(self, run_id: str) -> str:
        return "\n".join(entry.user_message or entry.message or "" for entry in self.instance.all_logs(run_id))


@pytest.fixture(scope="module")
def with_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithDaemon]:
    home = tmp_path_factory.mktemp("daemon")
    (home / "dagster.yaml").write_text(json.dumps(SETTINGS))
    with (home / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(
            [executable("dagster-daemon"), "run", "--python-file", str(JOBS)],
            env={**os.environ, "DAGSTER_HOME": str(home), "TOY_FOLDER": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with dg.DagsterInstance.from_config(str(home)) as opened:
            yield WithDaemon(opened, home)
    finally:
        stop([daemon], seconds=20)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.spec("R1.03")
def test_a_run_that_was_killed_is_found_and_repeated_by_the_daemon(with_daemon: WithDaemon) -> None:
    first = with_daemon.submit("waits_once")
    pid = int(with_daemon.wait_for(lambda: _text(with_daemon.home / "waits_once"), "step that has begun"))
    psutil.Process(pid).kill()
    with_daemon.wait_for(lambda: status_of(with_daemon.instance, first) == FAILURE, "failure of the killed run")
    repeated = dg.RunsFilter(tags={"dagster/parent_run_id": first}, statuses=[SUCCESS])
    with_daemon.wait_for(lambda: with_daemon.instance.get_runs(repeated), "second try that succeeds")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_that_takes_longer_than_its_tag_says_is_stopped(with_daemon: WithDaemon) -> None:
    run_id = with_daemon.submit("sleeps", **{"dagster/max_runtime": "2", "dagster/max_retries": "0"})
    with_daemon.wait_for(lambda: status_of(with_daemon.instance, run_id) == FAILURE, "failure of the long run")
    assert "maximum runtime of 2 seconds" in with_daemon.messages(run_id)
    pid = int(_text(with_daemon.home / "sleeps"))
    with_daemon.wait_for(lambda: not psutil.pid_exists(pid), "end of its process", 60)


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""
