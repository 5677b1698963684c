"""Runs that are started from the command line, with real code servers and run processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from vad_dagster.cli.following import Follower, RunOutcome
from vad_dagster.cli.running import JobRequest, run_job
from vad_dagster.cli.server import open_instance
from vad_dagster.partitions import register_lines
from vad_lib.errors import VadError

HERE = Path(__file__).parent
TOY = ("toy_definitions", HERE)


@pytest.fixture
def instance(vad_home: Path) -> Iterator[dg.DagsterInstance]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DAGSTER_HOME", raising=False)
        before = dict(os.environ)
        with open_instance() as opened:
            register_lines(opened, ["bricks"])
            yield opened
        os.environ.clear()
        os.environ.update(before)


def _run(instance: dg.DagsterInstance, **config: object) -> RunOutcome:
    request = JobRequest("train_line", "bricks", {"ops": {"toy": {"config": config}}}, {"vad/started_by": "test"})
    with Follower("train bricks", quiet=True) as follower:
        return run_job(instance, request, follower, definitions=TOY)


def test_without_a_daemon_a_run_is_made_here_and_now_and_belongs_to_its_job(instance: dg.DagsterInstance) -> None:
    outcome = _run(instance)
    assert outcome.succeeded
    assert outcome.metadata["toy"]["images"] == 3
    run = instance.get_run_by_id(outcome.run_id)
    assert run is not None
    assert run.job_name == "train_line"
    assert run.tags["dagster/partition"] == "bricks"
    # what the web page links by
    assert run.remote_job_origin is not None
    assert run.remote_job_origin.repository_origin.repository_name == "__repository__"
    assert run.remote_job_origin.location_name == "vad"
    made = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("toy"), asset_partitions=["bricks"]), limit=5
    )
    assert [record.run_id for record in made.records] == [outcome.run_id]


def test_a_failed_run_says_why_in_the_words_of_the_error(instance: dg.DagsterInstance) -> None:
    outcome = _run(instance, fails=True)
    assert outcome.status == "FAILURE"
    assert outcome.failures == ["The table has no column 'label'."]


def test_a_wrong_run_config_is_refused_before_anything_runs(instance: dg.DagsterInstance) -> None:
    with pytest.raises(VadError, match="secondz"):
        _run(instance, secondz=1)
    assert instance.get_runs_count() == 0


_SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from test_cli_running import JobRequest, Follower, TOY, open_instance, register_lines, run_job
config = {{"ops": {{"toy": {{"config": {{"seconds": 120, "mark": sys.argv[1]}}}}}}}}
with open_instance() as instance, Follower("train bricks") as follower:
    register_lines(instance, ["bricks"])
    run_job(instance, JobRequest("train_line", "bricks", config, {{}}), follower, definitions=TOY)
"""


BOUND_SECONDS = 240.0
"""Ten times what it takes on a quiet machine."""


def _wait_for_event(happened: Callable[[], bool], process: subprocess.Popen[str], what: str) -> None:
    """Wait for what is to happen, and say what was seen where it does not."""
    deadline = time.monotonic() + BOUND_SECONDS
    while not happened():
        ended = process.poll()
        if ended is not None or time.monotonic() > deadline:
            if ended is None:
                os.killpg(process.pid, signal.SIGKILL)
            seen = process.communicate()[1]
            runs = [line for line in _command_lines() if "dagster" in line]
            pytest.fail(
                f"no {what} within {BOUND_SECONDS:.0f} s; exit code {ended}; it wrote:\n{seen}\nrunning: {runs}"
            )
        time.sleep(0.1)


def _started(mark: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    return subprocess.Popen(
        [sys.executable, "-c", _SCRIPT.format(here=str(HERE)), str(mark)],
        env=environment | {"PYTHONPATH": str(HERE.parent.parent)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.timeout(2 * BOUND_SECONDS + 60)
def test_ctrl_c_cancels_the_run_and_leaves_no_process(vad_home: Path, tmp_path: Path) -> None:
    mark = tmp_path / "begun"
    process = _started(mark)
    try:
        _wait_for_event(mark.exists, process, "begin of the run")
        # as a terminal does: to the whole foreground group
        os.killpg(process.pid, signal.SIGINT)
        _wait_for_event(lambda: process.poll() is not None, process, "end of the command")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert mark.with_suffix(".left").exists(), "the step was interrupted, not killed"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DAGSTER_HOME", raising=False)
        before = dict(os.environ)
        with open_instance() as instance:
            (run,) = instance.get_runs()
            assert run.status == dg.DagsterRunStatus.CANCELED
        os.environ.clear()
        os.environ.update(before)
    assert str(mark) not in _command_lines()
    assert not [line for line in _command_lines() if "toy_definitions" in line]


def test_a_killed_command_leaves_no_process(vad_home: Path, tmp_path: Path) -> None:
    mark = tmp_path / "begun"
    process = _started(mark)
    _wait_for_event(mark.exists, process, "begin of the run")
    process.kill()
    process.wait(10)
    deadline = time.monotonic() + 60
    while left := [line for line in _command_lines() if str(tmp_path) in line or "toy_definitions" in line]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_definitions_that_do_not_load_are_told_with_the_servers_words(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    (tmp_path / "broken_definitions.py").write_text("raise RuntimeError('no such camera')")
    request = JobRequest("train_line", "bricks", {}, {})
    with Follower("train bricks", quiet=True) as follower, pytest.raises(VadError, match="no such camera"):
        run_job(instance, request, follower, definitions=("broken_definitions", tmp_path))


def _command_lines() -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def test_a_ctrl_c_whose_exception_is_lost_stops_the_run_all_the_same(instance: dg.DagsterInstance) -> None:
    class Losing(Follower):
        def read(self, instance: dg.DagsterInstance) -> None:
            with contextlib.suppress(KeyboardInterrupt):  # as in a destructor
                signal.raise_signal(signal.SIGINT)
            super().read(instance)

    register_lines(instance, ["bricks"])
    request = JobRequest("train_line", "bricks", {"ops": {"toy": {"config": {"seconds": 120}}}}, {})
    with Losing("train bricks", quiet=True) as follower, pytest.raises(KeyboardInterrupt):
        run_job(instance, request, follower, definitions=TOY)
    (run,) = instance.get_runs()
    assert run.status == dg.DagsterRunStatus.CANCELED
