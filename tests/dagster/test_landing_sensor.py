"""The sensor on landing folders: a shell, tried with real run records."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from gravel_line import draw_tile, make_line

from vad_dagster.definitions import build_defs
from vad_dagster.io_manager import store_folder
from vad_dagster.sensors import landing
from vad_dagster.sensors.landing import landing_folders, landing_folders_relief, lines_from, run_state
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.landing import RunState
from vad_lib.landing.waiting import whose_turn
from vad_lib.lines import Home, Line
from vad_lib.scorer.presence import presence_file


@pytest.fixture
def line(vad_home: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.delenv("VAD_INSPECTION_DB", raising=False)
    return make_line(Home(vad_home), normal=1, scratched=0)


@pytest.fixture(autouse=True)
def one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations that look once; tests about watching say otherwise."""
    monkeypatch.setattr(landing, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(landing, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(landing, "REPEAT_SECONDS", 0.0)


def champion(line: Line) -> None:
    store_folder(line.name, "champion_model").mkdir(parents=True)


def land(line: Line, name: str, number: int = 40, seconds_ago: float = 60) -> Path:
    file = line.inbox / name
    file.parent.mkdir(parents=True, exist_ok=True)
    draw_tile(number).save(file)
    moment = time.time() - seconds_ago
    os.utime(file, (moment, moment))
    return file


def tick(instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    result = landing_folders(dg.build_sensor_context(instance, cursor=cursor))
    assert isinstance(result, dg.SensorResult)
    return result


def launch(instance: dg.DagsterInstance, request: dg.RunRequest, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    tags = {**request.tags, "dagster/partition": request.partition_key or ""}
    return create_run_for_test(instance, job_name="inspect_line", tags=tags, status=status)


@pytest.fixture
def instance() -> dg.DagsterInstance:
    ephemeral = dg.DagsterInstance.ephemeral()
    ephemeral.add_dynamic_partitions("line", ["gravel"])
    return ephemeral


def test_without_a_champion_images_wait_and_the_tick_says_so(line: Line, instance: dg.DagsterInstance) -> None:
    land(line, "a.png")
    result = tick(instance)
    assert not result.run_requests
    assert "gravel: no champion yet" in str(result.skip_reason)


def test_new_images_of_any_depth_become_one_run(line: Line, instance: dg.DagsterInstance) -> None:
    champion(line)
    for name in ("a.png", "deep/er/b.JPG", "c.jpeg"):
        land(line, name)
    result = tick(instance)
    (request,) = result.run_requests or []
    assert request.partition_key == "gravel"
    assert request.tags["vad/inspect_line"] == "gravel"
    assert request.tags["vad/images"] == "3"
    assert request.run_key == request.tags["vad/batch_key"]
    config = request.run_config["ops"]["inference_outputs"]["config"]
    assert config == {"batch_id": request.tags["vad/batch"]}
    assert len(InspectionDatabase.from_environment().landings("gravel", batch_id=config["batch_id"])) == 3


def test_what_the_line_writes_itself_never_lands(line: Line, instance: dg.DagsterInstance) -> None:
    champion(line)
    plan = line.plan_file.read_text(encoding="utf-8")
    assert "operation:" not in plan
    line.plan_file.write_text(f"{plan}\noperation:\n  landing_folder: {line.folder}\n", encoding="utf-8")
    land(line, "a.png")
    for folder in (line.kept_aside, line.inference_artifacts / "output", line.train_artifacts, line.store):
        folder.mkdir(parents=True, exist_ok=True)
        draw_tile(41).save(folder / "b.png")
    assert len(tick(instance).run_requests or []) == 1
    landed = set(InspectionDatabase.from_environment().landings("gravel")["path"])
    assert "inbox/a.png" in landed
    assert not [path for path in landed if path.endswith("b.png")]


def test_a_file_that_is_being_written_is_left_alone_until_it_stands_still(
    line: Line, instance: dg.DagsterInstance
) -> None:
    champion(line)
    file = land(line, "a.png", seconds_ago=0)
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    first = tick(instance)
    assert "1 still being written" in str(first.skip_reason)
    past = time.time() - 10
    os.utime(file, (past, past))
    assert len(tick(instance, first.cursor).run_requests or []) == 1


def test_a_request_that_was_never_launched_is_made_again_under_the_same_key(
    line: Line, instance: dg.DagsterInstance
) -> None:
    champion(line)
    land(line, "a.png")
    first = (tick(instance).run_requests or [])[0]
    second = (tick(instance).run_requests or [])[0]
    assert first.run_key == second.run_key


def test_while_a_run_works_nothing_is_asked_for_twice(line: Line, instance: dg.DagsterInstance) -> None:
    champion(line)
    land(line, "a.png")
    request = (tick(instance).run_requests or [])[0]
    launch(instance, request, dg.DagsterRunStatus.STARTED)
    result = tick(instance)
    assert not result.run_requests
    assert "its run is at work" in str(result.skip_reason)


def test_a_batch_whose_run_failed_is_asked_for_again_under_another_key(
    line: Line, instance: dg.DagsterInstance
) -> None:
    champion(line)
    land(line, "a.png")
    request = (tick(instance).run_requests or [])[0]
    run = launch(instance, request, dg.DagsterRunStatus.FAILURE)
    again = (tick(instance).run_requests or [])[0]
    assert again.tags["vad/batch"] == request.tags["vad/batch"]
    assert again.run_key != request.run_key
    instance.add_run_tags(run.run_id, {"dagster/will_retry": "true"})
    assert run_state(instance, str(request.run_key)) == RunState("failed", will_retry=True)


def test_a_reset_cursor_repeats_nothing(line: Line, instance: dg.DagsterInstance) -> None:
    champion(line)
    land(line, "a.png")
    request = (tick(instance).run_requests or [])[0]
    launch(instance, request, dg.DagsterRunStatus.STARTED)
    assert not tick(instance, cursor=None).run_requests


def test_an_evaluation_that_finds_nothing_watches_and_asks_for_a_run_when_an_image_lands(
    line: Line, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion(line)
    line.inbox.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(landing, "WAIT_SECONDS", 60.0)
    timer = threading.Timer(0.5, land, (line, "deep/a.png"), {"seconds_ago": 0})
    timer.start()
    (request,) = tick(instance).run_requests or []
    timer.join()
    assert request.tags["vad/images"] == "1"


def test_where_a_scorer_is_an_image_is_left_to_it_until_it_has_stood_still(
    line: Line, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion(line)
    land(line, "a.png", seconds_ago=0)
    monkeypatch.setattr(landing, "WAIT_SECONDS", 60.0)
    with presence_file(Home.from_environment()).open("a") as scorer:
        fcntl.flock(scorer, fcntl.LOCK_EX)
        assert "1 still being written" in str(tick(instance).skip_reason)
        relief = landing_folders_relief(dg.build_sensor_context(instance))
        assert isinstance(relief, dg.SkipReason)
    # it died
    assert len(tick(instance).run_requests or []) == 1


def test_one_sensor_watches_at_a_time_and_the_other_does_not_repeat_its_requests(
    line: Line, instance: dg.DagsterInstance, vad_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion(line)
    land(line, "a.png")
    assert isinstance(landing_folders_relief(dg.build_sensor_context(instance)), dg.SkipReason)
    monkeypatch.setattr(landing, "WAIT_SECONDS", 0.01)
    with whose_turn(vad_home / ".landing.lock", 0.0):
        assert isinstance(landing_folders_relief(dg.build_sensor_context(instance)), dg.SkipReason)
    monkeypatch.setattr(landing, "REPEAT_SECONDS", 20.0)
    relief = landing_folders_relief(dg.build_sensor_context(instance))
    assert isinstance(relief, dg.SensorResult)
    assert len(relief.run_requests or []) == 1
    result = tick(instance)
    assert not result.run_requests
    assert "its run is on its way" in str(result.skip_reason)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (dg.DagsterRunStatus.STARTING, "active"),
        (dg.DagsterRunStatus.CANCELING, "active"),
        (dg.DagsterRunStatus.SUCCESS, "succeeded"),
        (dg.DagsterRunStatus.CANCELED, "cancelled"),
    ],
)
def test_run_states_are_told_in_the_words_of_the_ledger(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus, state: str
) -> None:
    assert run_state(instance, "b.1") is None
    create_run_for_test(instance, tags={"vad/batch_key": "b.1"}, status=status)
    found = run_state(instance, "b.1")
    assert found is not None
    assert found.status == state


def test_a_line_with_a_wrong_plan_does_not_hold_up_the_others(
    line: Line, vad_home: Path, instance: dg.DagsterInstance
) -> None:
    champion(line)
    land(line, "a.png")
    make_line(Home(vad_home), "broken", plan="user_parameters: 7\n", normal=1, scratched=0)
    instance.add_dynamic_partitions("line", ["broken"])
    result = tick(instance)
    assert [request.partition_key for request in result.run_requests or []] == ["gravel"]


def test_lines_take_turns_and_a_late_tick_goes_on_where_it_stopped(
    line: Line, vad_home: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_line(Home(vad_home), "second", normal=1, scratched=0)
    instance.add_dynamic_partitions("line", ["second"])
    monkeypatch.setattr("vad_dagster.sensors.landing.SECONDS_PER_TICK", -1.0)
    cursor = tick(instance).cursor
    assert json.loads(str(cursor))["next"] == "gravel"
    names = [each.name for each in lines_from(Home(vad_home).lines(), "h")]
    assert names == ["second", "gravel"]


@pytest.mark.timeout(300)
def test_a_landed_batch_is_inspected_whole(gravel_home: Home, instance: dg.DagsterInstance) -> None:
    """Good, broken and repeated files; one prediction a content, a reason for each other file."""
    defs = build_defs()
    trained = defs.resolve_job_def("train_line").execute_in_process(instance=instance, partition_key="gravel")
    assert trained.success
    line = gravel_home.line("gravel")
    for number in range(3):
        land(line, f"tile {number} “ü”.png", number + 50)
    land(line, "again.png", 50)
    broken = land(line, "broken.png")
    broken.write_bytes(b"")
    os.utime(broken, (1, 1))
    (request,) = tick(instance).run_requests or []
    job = defs.resolve_job_def("inspect_line")
    result = job.execute_in_process(
        instance=instance, partition_key="gravel", run_config=request.run_config, tags=request.tags
    )
    assert result.success
    db = InspectionDatabase.of(gravel_home)
    assert len(db.predictions("gravel")) == 3
    assert set(db.kept_aside("gravel")["rule"]) == {"duplicate", "unreadable_image"}
    table = (line.inference_artifacts / "output" / "output.csv").read_text()
    assert "broken.png" in table
    assert "the same content as" in table
    tick(instance)
    assert set(db.batches("gravel")["state"]) == {"closed"}
