"""The daemon's queue, monitoring and retries treat forked runs as they treat others. Real processes throughout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from warm_bench import LIGHT, TOY_JOBS, Bench, gone, settings, wait_for

from vad_dagster.home import executable
from vad_dagster.warm_runs.launcher import PROCESS_TAG

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

LAUNCH = """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""


class Plant(Bench):
    """A home with a daemon, and a workspace to submit runs from."""

    def __init__(self, instance: dg.DagsterInstance, workspace: WorkspaceProcessContext, home: Path) -> None:
        super().__init__(instance)
        self.workspace = workspace
        self.home = home
        self.start_daemon()

    def start_daemon(self) -> None:
        with (self.home / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [executable("dagster-daemon"), "run", "--python-file", str(TOY_JOBS)],
                env={**os.environ, "DAGSTER_HOME": str(self.home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def submit(self, job: str, tags: dict[str, str] | None = None) -> str:
        from dagster_graphql.cli import execute_query

        location = self.workspace.create_request_context().code_location_names[0]
        selector = {"repositoryLocationName": location, "repositoryName": "__repository__", "jobName": job}
        metadata = {"tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]}
        variables: dict[str, Any] = {"params": {"selector": selector, "mode": "default", "executionMetadata": metadata}}
        answer = execute_query(self.workspace, LAUNCH, variables)
        return str(answer["data"]["launchRun"]["run"]["runId"])


@pytest.fixture(scope="module")
def open_plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Plant]]:
    plants: list[Plant] = []

    def open_one(**config: Any) -> Plant:
        home = tmp_path_factory.mktemp("plant")
        more = {
            "run_queue": {"dequeue_interval_seconds": 1},
            "run_monitoring": {"enabled": True, "poll_interval_seconds": 2, "cancel_timeout_seconds": 30},
            "run_retries": {"enabled": True, "max_retries": 0},
        }
        (home / "dagster.yaml").write_text(json.dumps({**json.loads(settings(**config)), **more}))
        instance = dg.DagsterInstance.from_config(str(home))
        workspace = WorkspaceProcessContext(instance, PythonFileTarget(str(TOY_JOBS), None, None, None))
        workspace.__enter__()
        plants.append(Plant(instance, workspace, home))
        return plants[-1]

    yield open_one
    for plant in plants:
        plant.workspace.__exit__(None, None, None)
        plant.instance.dispose()
        plant.daemon.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            plant.daemon.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(plant.daemon.pid, signal.SIGKILL)
        plant.daemon.wait()


@pytest.fixture(scope="module")
def plant(open_plant: Callable[..., Plant]) -> Plant:
    return open_plant(start_from="services")


def test_the_daemon_starts_the_server_and_runs_are_forked(plant: Plant) -> None:
    run = plant.finished(plant.submit("say_job"), 90)
    assert run.status == dg.DagsterRunStatus.SUCCESS
    assert PROCESS_TAG in run.tags


def test_a_run_that_was_cut_off_is_repeated(plant: Plant) -> None:
    first = plant.submit("die_once_job")
    assert plant.finished(first, 90).status == dg.DagsterRunStatus.FAILURE

    def repeated() -> dg.DagsterRun | None:
        return next(iter(plant.instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": first}))), None)

    wait_for(lambda: repeated() is not None, 90, "second try")
    second = repeated()
    assert second is not None
    assert plant.finished(second.run_id, 90).status == dg.DagsterRunStatus.SUCCESS
    tag = json.loads(plant.run(second.run_id).tags[PROCESS_TAG])
    assert tag["run"] == second.run_id


def test_a_run_that_takes_too_long_is_stopped(plant: Plant) -> None:
    run_id = plant.submit("sleep_job", {"dagster/max_runtime": "2"})
    pid = plant.pid(run_id)
    assert plant.finished(run_id, 90).status == dg.DagsterRunStatus.FAILURE
    assert any("maximum runtime of 2 seconds" in message for message in plant.messages(run_id))
    wait_for(lambda: gone(pid), 20, "end of the process")


def test_another_process_can_terminate_a_run(plant: Plant) -> None:
    run_id = plant.submit("sleep_job")
    plant.wait_for_message(run_id, "Started execution of step")
    assert plant.launcher.terminate(run_id)
    assert plant.finished(run_id).status == dg.DagsterRunStatus.CANCELED


def test_monitoring_finds_a_run_that_died_together_with_its_server(plant: Plant) -> None:
    run_id = plant.submit("sleep_job")
    plant.wait_for_message(run_id, "Started execution of step")
    pid = plant.pid(run_id)
    socket_file = Path(json.loads(plant.run(run_id).tags[PROCESS_TAG])["socket"])
    server = _server_pid(socket_file)
    os.kill(server, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    assert plant.finished(run_id, 60).status == dg.DagsterRunStatus.FAILURE
    assert any("is gone" in message for message in plant.messages(run_id))


def test_a_run_outlives_the_daemon_and_ends_with_its_whole_group(plant: Plant) -> None:
    run_id = plant.submit("sleep_job")
    plant.wait_for_message(run_id, "Started execution of step")
    pid, group = plant.pid(run_id), plant.daemon.pid
    plant.daemon.kill()
    plant.daemon.wait()
    plant.start_daemon()
    assert plant.finished(plant.submit("say_job"), 90).status == dg.DagsterRunStatus.SUCCESS
    assert not gone(pid)
    os.killpg(group, signal.SIGKILL)  # the group that the first daemon and the server were in
    wait_for(lambda: gone(pid), 20, "end of the run's process")
    assert plant.finished(run_id, 60).status == dg.DagsterRunStatus.FAILURE


def test_a_run_is_not_lost_where_the_server_cannot_fork(
    open_plant: Callable[..., Plant], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "toy_thread.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()"
    )
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(folder)
    try:
        plant = open_plant(start_from="services", preload=[*LIGHT, "toy_thread"])
        run = plant.finished(plant.submit("say_job"), 120)
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    assert run.status == dg.DagsterRunStatus.SUCCESS
    assert PROCESS_TAG not in run.tags
    assert "importing started threads" in (plant.home / "daemon.log").read_text()


def _server_pid(socket_file: Path) -> int:
    from vad_dagster.warm_runs.client import ask_server

    answer = ask_server(socket_file, {"operation": "status"})
    assert answer is not None
    return int(answer["pid"])
