"""Runs behave in a forked process as they do in one of their own."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus
from warm_bench import Bench, gone, wait_for

from vad_dagster.warm_runs.launcher import PROCESS_TAG, _forked_process


def test_a_run_has_its_launchers_surroundings_and_its_output_is_captured(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench.finished(bench.launch("say_job"))
    server = bench.status()["pid"]
    monkeypatch.setenv("TOY_VARIABLE", "set after the server was started")
    monkeypatch.chdir(tmp_path)
    run_id = bench.launch("say_job")
    pid = bench.pid(run_id)
    run = bench.finished(run_id)
    assert run.status == dg.DagsterRunStatus.SUCCESS
    expected = f"TOY_VARIABLE=set after the server was started cwd={tmp_path} session={pid}"
    assert expected in bench.messages(run_id)
    process, _host, _socket = _forked_process(run) or pytest.fail("the run was not forked")
    assert process.pid == pid
    assert bench.status()["pid"] == server
    captured = {file.suffix: file.read_text() for file in Path(bench.instance.root_directory).rglob(f"{run_id}/**/*.*")}
    assert captured[".out"] == "printed to stdout\n"
    assert "printed to stderr" in captured[".err"]


def test_runs_do_not_share_random_numbers(bench: Bench) -> None:
    drawn = []
    for _ in range(2):
        run_id = bench.launch("draw_job")
        assert bench.finished(run_id).status == dg.DagsterRunStatus.SUCCESS
        drawn.append(bench.wait_for_message(run_id, "drawn").split()[1:])
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


def test_runs_launched_at_once_all_end_well_and_one_server_forks_them(bench: Bench) -> None:
    with ThreadPoolExecutor(4) as pool:
        run_ids = list(pool.map(lambda _: bench.launch("say_job"), range(4)))
    assert {bench.finished(run_id).status for run_id in run_ids} == {dg.DagsterRunStatus.SUCCESS}
    assert len(list(bench.launcher.server.place().folder.glob("*.sock"))) == 1
    assert bench.status()["threads"] == 1


@pytest.mark.parametrize(("job", "how"), [("die_job", "signal 9 (SIGKILL)"), ("leave_silently_job", "code 0")])
def test_a_process_that_ends_too_early_fails_its_run_and_says_how(bench: Bench, job: str, how: str) -> None:
    run_id = bench.launch(job)
    assert bench.finished(run_id).status == dg.DagsterRunStatus.FAILURE
    assert any(how in message for message in bench.messages(run_id))


def test_a_failed_step_fails_the_run_and_is_no_crash(bench: Bench) -> None:
    run_id = bench.launch("fail_job")
    assert bench.finished(run_id).status == dg.DagsterRunStatus.FAILURE
    wait_for(lambda: bench.status()["runs"] == [], 20, "end of the process")
    assert not any("Run execution process" in message for message in bench.messages(run_id))


def test_a_run_that_is_terminated_is_cancelled_and_its_process_ends(bench: Bench) -> None:
    run_id = bench.launch("sleep_job")
    pid = bench.pid(run_id)
    bench.wait_for_message(run_id, "Started execution of step")
    assert bench.launcher.check_run_worker_health(bench.run(run_id)).status == WorkerStatus.RUNNING
    assert bench.launcher.terminate(run_id)
    assert bench.finished(run_id).status == dg.DagsterRunStatus.CANCELED
    wait_for(lambda: gone(pid), 20, "end of the process")
    assert bench.launcher.check_run_worker_health(bench.run(run_id)).status == WorkerStatus.FAILED
    assert not bench.launcher.terminate(run_id)


def test_a_run_that_refuses_to_stop_is_killed_with_all_that_it_started(bench: Bench) -> None:
    run_id = bench.launch("refuse_to_stop_job")
    child = int(bench.wait_for_message(run_id, "child").split()[1])
    assert not gone(child)
    assert bench.launcher.terminate(run_id)
    assert bench.finished(run_id).status == dg.DagsterRunStatus.CANCELED
    wait_for(lambda: gone(child), 10, "end of what the run had started")


def test_a_run_outlives_its_server_can_still_be_stopped_and_the_next_one_gets_a_new_server(bench: Bench) -> None:
    run_id = bench.launch("sleep_job")
    bench.wait_for_message(run_id, "Started execution of step")
    server = bench.status()["pid"]
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: gone(server), 10, "end of the server")
    other = bench.launch("say_job")
    assert bench.finished(other).status == dg.DagsterRunStatus.SUCCESS
    assert bench.status()["pid"] != server
    assert bench.launcher.check_run_worker_health(bench.run(run_id)).status == WorkerStatus.RUNNING
    assert bench.launcher.terminate(run_id)
    assert bench.finished(run_id).status == dg.DagsterRunStatus.CANCELED


def test_nothing_of_a_run_happens_before_its_launcher_says_so(bench: Bench) -> None:
    run = bench.create("say_job")
    from dagster._serdes import serialize_value

    with bench.launcher.server.hand_over(
        run.run_id, serialize_value(bench.instance.get_ref()), may_start=True, seconds=30
    ) as handed:
        assert handed.process.lives()
    wait_for(lambda: not handed.process.lives(), 10, "end of the process")
    assert bench.run(run.run_id).status == dg.DagsterRunStatus.NOT_STARTED
    assert bench.messages(run.run_id) == []


def test_a_run_that_the_instance_does_not_know_is_refused(bench: Bench) -> None:
    from dagster._core.errors import DagsterLaunchFailedError
    from dagster._core.launcher import LaunchRunContext

    run = bench.create("say_job")
    bench.instance.delete_run(run.run_id)
    with pytest.raises(DagsterLaunchFailedError, match="There is no run"):
        bench.launcher.launch_run(LaunchRunContext(run, None))


def test_the_tag_of_another_run_is_not_believed(bench: Bench) -> None:
    run_id = bench.launch("say_job")
    tags = bench.finished(run_id).tags
    repeated = bench.create("say_job").with_tags({PROCESS_TAG: tags[PROCESS_TAG]})
    assert _forked_process(bench.run(run_id)) is not None
    assert _forked_process(repeated) is None


def test_a_server_that_is_asked_to_end_stops_its_runs_first(bench: Bench) -> None:
    run_id = bench.launch("sleep_job")
    bench.wait_for_message(run_id, "Started execution of step")
    server = bench.status()["pid"]
    os.kill(server, signal.SIGTERM)
    # as with the stock launcher: without a request to terminate, an interrupted run has failed
    assert bench.finished(run_id).status == dg.DagsterRunStatus.FAILURE
    assert any("interrupted unexpectedly" in message for message in bench.messages(run_id))
    wait_for(lambda: gone(server), 20, "end of the server")
