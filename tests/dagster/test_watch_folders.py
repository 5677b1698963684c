"""The sensor on watch folders: a shell, tried with real run records."""

from __future__ import annotations

import os
import time
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from gravel_line import draw_tile, make_line

from vad_dagster.io_manager import store_folder
from vad_dagster.sensors.watch_folders import lines_from, seconds_until_run, watch_folders
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home, Line
from vad_lib.queue import Later, finish, lease, new_worker
from vad_lib.queue.facts import announce_service


@pytest.fixture
def line(vad_home: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.delenv("VAD_INSPECTION_DB", raising=False)
    return make_line(Home(vad_home), normal=1, scratched=0)


@pytest.fixture
def instance() -> dg.DagsterInstance:
    ephemeral = dg.DagsterInstance.ephemeral()
    ephemeral.add_dynamic_partitions("line", ["gravel"])
    return ephemeral


def champion(line: Line) -> None:
    store_folder(line.name, "champion_model").mkdir(parents=True)


def deliver(line: Line, name: str, number: int = 40, seconds_ago: float = 60) -> Path:
    file = line.inbox / name
    file.parent.mkdir(parents=True, exist_ok=True)
    draw_tile(number).save(file)
    moment = time.time() - seconds_ago
    os.utime(file, (moment, moment))
    return file


def tick(instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    result = watch_folders(dg.build_sensor_context(instance, cursor=cursor))
    assert isinstance(result, dg.SensorResult)
    return result


def launch(instance: dg.DagsterInstance, request: dg.RunRequest, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    tags = {**request.tags, "dagster/partition": request.partition_key or ""}
    return create_run_for_test(instance, job_name="inspect_line", tags=tags, status=status)


def test_without_a_champion_images_wait_and_the_tick_says_so(line: Line, instance: dg.DagsterInstance) -> None:
    deliver(line, "a.png")
    result = tick(instance)
    assert not result.run_requests
    assert "gravel: no champion yet" in str(result.skip_reason)


@pytest.mark.spec("R1.02")
def test_new_images_of_any_depth_become_one_run(line: Line, instance: dg.DagsterInstance) -> None:
    champion(line)
    for name in ("a.png", "deep/er/b.JPG", "c.jpeg"):
        deliver(line, name)
    (request,) = tick(instance).run_requests or []
    assert request.partition_key == "gravel"
    assert request.tags["vad/inspect_line"] == "gravel"
    assert request.run_config["ops"]["inference_outputs"]["config"] == {"queue": True}
    assert InspectionDatabase.from_environment().file_counts("gravel")["pending"] == 3


def test_what_the_line_writes_itself_is_never_inspected(line: Line, instance: dg.DagsterInstance) -> None:
    champion(line)
    plan = line.plan_file.read_text(encoding="utf-8")
    assert "operation:" not in plan
    line.plan_file.write_text(f"{plan}\noperation:\n  watch_folder: {line.folder}\n", encoding="utf-8")
    deliver(line, "a.png")
    for folder in (line.quarantine, line.inference_artifacts / "output", line.train_artifacts, line.store):
        folder.mkdir(parents=True, exist_ok=True)
        draw_tile(41).save(folder / "b.png")
    assert len(tick(instance).run_requests or []) == 1
    registered = set(InspectionDatabase.from_environment().incoming_files("gravel")["path"])
    assert "inbox/a.png" in registered
    assert not [path for path in registered if path.endswith("b.png")]


def test_a_plan_may_still_say_landing_folder(line: Line, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    champion(line)
    plan = line.plan_file.read_text(encoding="utf-8")
    line.plan_file.write_text(f"{plan}\noperation:\n  landing_folder: {tmp_path / 'camera'}\n", encoding="utf-8")
    (tmp_path / "camera").mkdir()
    file = deliver(line, "a.png")
    file.rename(tmp_path / "camera" / "a.png")
    assert len(tick(instance).run_requests or []) == 1


def test_a_file_that_is_being_written_is_left_alone_until_it_stands_still(
    line: Line, instance: dg.DagsterInstance
) -> None:
    champion(line)
    file = deliver(line, "a.png", seconds_ago=0)
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    assert "1 still being written" in str(tick(instance).skip_reason)
    past = time.time() - 10
    os.utime(file, (past, past))
    assert len(tick(instance).run_requests or []) == 1


def test_a_request_that_was_never_launched_is_made_again(line: Line, instance: dg.DagsterInstance) -> None:
    champion(line)
    deliver(line, "a.png")
    assert len(tick(instance).run_requests or []) == 1
    assert len(tick(instance).run_requests or []) == 1


def test_while_a_run_works_nothing_is_asked_for_twice_and_a_reset_cursor_changes_nothing(
    line: Line, instance: dg.DagsterInstance
) -> None:
    champion(line)
    deliver(line, "a.png")
    request = (tick(instance).run_requests or [])[0]
    launch(instance, request, dg.DagsterRunStatus.STARTED)
    for cursor in ("gravel", None):
        result = tick(instance, cursor)
        assert not result.run_requests
        assert "a run is at work" in str(result.skip_reason)


@pytest.mark.spec("R1.02")
def test_after_a_failed_run_the_next_waits_ever_longer(line: Line, instance: dg.DagsterInstance) -> None:
    champion(line)
    deliver(line, "a.png")
    request = (tick(instance).run_requests or [])[0]
    run = launch(instance, request, dg.DagsterRunStatus.FAILURE)
    result = tick(instance)
    assert not result.run_requests
    assert "the last run failed, the next follows in" in str(result.skip_reason)
    instance.add_run_tags(run.run_id, {"dagster/will_retry": "true"})
    assert "a run is at work" in str(tick(instance).skip_reason)
    # It keeps its tag for ever, so it says something only until it was repeated.
    repeated = launch(instance, request, dg.DagsterRunStatus.SUCCESS)
    instance.add_run_tags(run.run_id, {"dagster/auto_retry_run_id": repeated.run_id})
    assert len(tick(instance).run_requests or []) == 1
    waits = [seconds_until_run([(True, 0.0)] * failures, 0.0) for failures in range(8)]
    assert waits == [0, 15, 30, 60, 120, 240, 300, 300]
    assert seconds_until_run([(False, 0.0), (True, 0.0)], 0.0) == 0


@pytest.mark.spec("R1.01")
def test_where_an_inference_service_works_on_the_line_no_run_is_asked_for_and_nothing_is_scanned(
    line: Line, instance: dg.DagsterInstance
) -> None:
    champion(line)
    deliver(line, "a.png")
    db = InspectionDatabase.from_environment()
    worker = new_worker()
    announce_service(db, worker, ["gravel"])
    result = tick(instance)
    assert not result.run_requests
    assert "an inference service works on it" in str(result.skip_reason)
    assert db.incoming_files("gravel").empty
    announce_service(db, worker, [])
    assert len(tick(instance).run_requests or []) == 1


def test_images_in_somebodys_hand_or_to_be_tried_later_need_no_run(line: Line, instance: dg.DagsterInstance) -> None:
    champion(line)
    deliver(line, "a.png")
    assert tick(instance).run_requests
    db, worker = InspectionDatabase.from_environment(), new_worker()
    (leased,) = lease(db, "gravel", worker, 5).files
    assert "1 images are in hand or are tried again later" in str(tick(instance).skip_reason)
    finish(db, "gravel", worker, [Later(leased.file_id, 60.0, "the share is away")], source="batch")
    assert not tick(instance).run_requests


def test_what_a_dead_worker_had_is_asked_for(line: Line, instance: dg.DagsterInstance) -> None:
    champion(line)
    deliver(line, "a.png")
    tick(instance)
    machine, pid, _ = str(new_worker()).split(":")[:3]
    db = InspectionDatabase.from_environment()
    assert lease(db, "gravel", f"{machine}:{pid}:1.00:dead", 5).files
    assert len(tick(instance).run_requests or []) == 1


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(line: Line, instance: dg.DagsterInstance) -> None:
    champion(line)
    deliver(line, "a.png")
    tick(instance)
    line.inbox.rename(line.folder / "elsewhere")
    result = tick(instance)
    assert "cannot read" in (str(result.skip_reason) + str(result.run_requests)) or result.run_requests
    assert InspectionDatabase.from_environment().file_counts("gravel")["pending"] == 1


def test_a_faulty_plan_of_one_line_leaves_the_others_alone(
    line: Line, instance: dg.DagsterInstance, vad_home: Path
) -> None:
    champion(line)
    deliver(line, "a.png")
    other = Home(vad_home).line("another")
    other.folder.mkdir(parents=True)
    other.plan_file.write_text("nonsense: [", encoding="utf-8")
    instance.add_dynamic_partitions("line", ["another"])
    assert len(tick(instance).run_requests or []) == 1


def test_lines_are_looked_at_in_turn() -> None:
    home = Home(Path("/nowhere"))
    lines = [home.line(name) for name in ("a", "b", "c")]
    assert [each.name for each in lines_from(lines, "b")] == ["b", "c", "a"]
    assert [each.name for each in lines_from(lines, "bb")] == ["c", "a", "b"]


def test_the_sensor_is_on_by_default_and_starts_the_inference_assets() -> None:
    assert watch_folders.default_status == dg.DefaultSensorStatus.RUNNING
    assert [target.job_name for target in watch_folders.targets] == ["inspect_line"]
