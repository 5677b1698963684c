"""Run a job of the project for one line, and follow it to its end.

Where a daemon works the queue, the run waits its turn there like any other. Where none does, the run starts at once.
Either way it is submitted through Dagster's GraphQL API, exactly as the web page's launchpad does.
"""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from vad_dagster.cli.following import Follower, RunOutcome
from vad_dagster.cli.server import CodeServer, code_server
from vad_dagster.home import CODE_LOCATION, MODULE, PACKAGE
from vad_lib.errors import VadError
from vad_lib.processes import me

if TYPE_CHECKING:
    from dagster import DagsterInstance

REPOSITORY = "__repository__"
# A daemon writes a heartbeat every 30 s; two missed ones mean that it is gone.
HEARTBEAT_SECONDS = 75.0
POLL_SECONDS = 0.5
STOP_SECONDS = 60.0

_LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on PythonError { message }
    ... on PipelineNotFoundError { message }
    ... on InvalidSubsetError { message }
    ... on ConflictingExecutionParamsError { message }
    ... on UnauthorizedError { message }
  }
}
"""


@dataclass(frozen=True)
class JobRequest:
    """A job for one line. ``run_config`` is what the launchpad would hold."""

    job: str
    line: str
    run_config: Mapping[str, Any]
    tags: Mapping[str, str]


def run_job(
    instance: DagsterInstance,
    request: JobRequest,
    follower: Follower,
    *,
    definitions: tuple[str, Path] = (MODULE, PACKAGE.parent),
) -> RunOutcome:
    """Submit, follow, and return how it ended. Ctrl-C stops the run and waits until it has stopped.

    Args:
        instance: keeps the run.
        request: what to run.
        follower: shows it.
        definitions: module that holds the job, and the folder to import it from.

    Raises:
        VadError: the run cannot be submitted (wrong run config, definitions that do not load).
        KeyboardInterrupt: after the run was stopped.
    """
    follower.say("starting")
    # A run may have begun before its id is known here; by this tag Ctrl-C finds it.
    ours = {"vad/command": uuid.uuid4().hex}
    request = replace(request, tags={**request.tags, **ours})
    with code_server(*definitions) as server, _noted_interrupts() as interrupted:
        try:
            while True:
                run_id = _submit(server, request, queue=daemon_is_alive(instance))
                follower.started(run_id)
                if _wait(instance, run_id, follower, interrupted):
                    return follower.outcome(instance)
                # Its place in the queue is given up before it is submitted anew, so that it cannot run twice.
                instance.run_coordinator.cancel_run(run_id)
        except KeyboardInterrupt:
            _stop(instance, ours, follower)
            raise


def daemon_is_alive(instance: DagsterInstance) -> bool:
    """True where a daemon has worked the queue of runs within the last heartbeats."""
    heartbeat = instance.get_daemon_heartbeats().get("QUEUED_RUN_COORDINATOR")
    return heartbeat is not None and time.time() - heartbeat.timestamp < HEARTBEAT_SECONDS


def refuse_second_run(instance: DagsterInstance, job: str, line: str) -> None:
    """A run started from here does not pass the queue, which else keeps runs of one line apart.

    Raises:
        VadError: no daemon works the queue, and a run of this job works on the line already.
    """
    from dagster import DagsterRunStatus, RunsFilter

    if daemon_is_alive(instance):
        return
    active = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    found = instance.get_runs(RunsFilter(job_name=job, tags={"dagster/partition": line}, statuses=active), limit=1)
    if found:
        raise VadError(
            f"Run {found[0].run_id} of {job} works on {line} already. Wait for it, or stop it in Dagster's UI "
            "(`vad dev`); if its process has died, starting the UI marks it as failed within a minute."
        )


def _submit(server: CodeServer, request: JobRequest, *, queue: bool) -> str:
    from vad_dagster.jobs import MACHINE_TAG

    # A run that waits in the queue is started by the daemon, wherever that is.
    here = {} if queue else {MACHINE_TAG: me().machine}
    tags = {"dagster/partition": request.line, **here, **request.tags}
    answer = server.query(
        _LAUNCH,
        {
            "params": {
                "selector": {
                    "repositoryLocationName": CODE_LOCATION,
                    "repositoryName": REPOSITORY,
                    "jobName": request.job,
                },
                "runConfigData": request.run_config,
                "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
            }
        },
        queue=queue,
    )
    if "errors" in answer:
        raise VadError(f"The job {request.job!r} could not be submitted: {answer['errors'][0]['message']}")
    result = answer["data"]["launchRun"]
    if result["__typename"] == "LaunchRunSuccess":
        return str(result["run"]["runId"])
    told = result.get("message") or "\n".join(fault["message"] for fault in result.get("errors", []))
    raise VadError(f"The job {request.job!r} was refused: {told or result['__typename']}")


@contextmanager
def _noted_interrupts() -> Iterator[threading.Event]:
    """Note each Ctrl-C: its exception is lost where it is raised in a destructor, and the run would go on."""
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.set()
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _wait(instance: DagsterInstance, run_id: str, follower: Follower, interrupted: threading.Event) -> bool:
    """Show a run until it has ended; return False where it waits in a queue that nobody works any more."""
    from dagster import DagsterRunStatus

    while True:
        run = instance.get_run_by_id(run_id)
        if run is None:
            raise VadError(f"Run {run_id} was deleted while it was being followed.")
        follower.read(instance)
        if run.is_finished:
            return True
        if run.status == DagsterRunStatus.QUEUED:
            if not daemon_is_alive(instance):
                return False
            follower.say("waiting in the queue of the daemon")
        if interrupted.is_set():
            raise KeyboardInterrupt
        time.sleep(POLL_SECONDS)


def _stop(instance: DagsterInstance, tags: Mapping[str, str], follower: Follower) -> None:
    """Ask Dagster to stop the runs with these tags, and wait. A second Ctrl-C gives up waiting."""
    from dagster import RunsFilter

    for run in instance.get_runs(RunsFilter(tags=dict(tags))):
        if run.is_finished:
            continue
        follower.started(run.run_id)
        follower.say("stopping")
        with suppress(KeyboardInterrupt):
            if instance.run_coordinator.cancel_run(run.run_id):
                _wait_until_stopped(instance, run.run_id)
        now = instance.get_run_by_id(run.run_id)
        if now is not None and not now.is_finished:
            # its process, where it has one, ends with the code server at the latest
            instance.report_run_canceled(now, message="Stopped from the command line without waiting for its process.")


def _wait_until_stopped(instance: DagsterInstance, run_id: str) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return
        time.sleep(POLL_SECONDS)
