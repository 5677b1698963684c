"""Trainings that no person starts: what a plan asks for, never without something new, and never two at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.instance_for_test import instance_for_test
from dagster._core.test_utils import create_run_for_test
from gravel_line import PLAN, make_line
from sqlalchemy import delete, insert

from vad_dagster.definitions import defs
from vad_dagster.io_manager import store_folder
from vad_dagster.jobs import INPUTS_TAG, LABELS_TAG, REASON_TAG, VERSION_TAG, inspection_tags, training_tags
from vad_dagster.sensors import trainings
from vad_dagster.sensors.trainings import decide, due_trainings, inputs_of
from vad_dagster.values import ChampionRecord
from vad_lib.inspection_db import InspectionDatabase, utc_now
from vad_lib.inspection_db.audit import Actor
from vad_lib.inspection_db.labels import newest_label, record_label, withdraw_label
from vad_lib.inspection_db.schema import monitoring_state, predictions
from vad_lib.lines import Home, Line
from vad_lib.plan import read_plan
from vad_lib.promotion import PromotionDecision


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def line_that(vad_home: Path, instance: dg.DagsterInstance, *asked: str, name: str = "slow") -> Line:
    """Make a line of one image whose plan asks for this in the section operation."""
    section = "".join(f"  {one}\n" for one in asked)
    instance.add_dynamic_partitions("line", [name])
    return make_line(Home(vad_home), name, PLAN + (f"operation:\n{section}" if asked else ""), normal=2, scratched=0)


def evaluate(
    instance: dg.DagsterInstance, cursor: str | None = None
) -> tuple[dict[str, dict[str, str]], str, str | None]:
    """Return the tags of the trainings that are asked for, by line; the reason for skipping; and the cursor."""
    result = due_trainings(dg.build_sensor_context(instance, cursor=cursor))
    assert isinstance(result, dg.SensorResult)
    asked = {str(request.partition_key): dict(request.tags) for request in result.run_requests or []}
    skipped = result.skip_reason
    return asked, str(skipped.skip_message if isinstance(skipped, dg.SkipReason) else skipped), result.cursor


def decided(instance: dg.DagsterInstance, line: Line, hours: float = 0.0) -> tuple[bool, str]:
    """Return the decision about a line so many hours from now."""
    now = (datetime.now(UTC) + timedelta(hours=hours)).timestamp()
    plan = read_plan(line.plan_file, line.base_folder)
    return decide(instance, line, plan, now)[:2]


def trained(
    instance: dg.DagsterInstance, line: Line, number: int, status: str = "SUCCESS", config: object = None
) -> None:
    """Record a training of the line as it is now."""
    tags = {
        **training_tags(line.name),
        INPUTS_TAG: inputs_of(line, read_plan(line.plan_file, line.base_folder)),
        LABELS_TAG: str(newest_label(InspectionDatabase.from_environment(), line.name)),
        VERSION_TAG: f"vad-{line.name}/{number}",
    }
    create_run_for_test(
        instance,
        job_name="train_line",
        tags=tags,
        status=dg.DagsterRunStatus[status],
        run_config=config or {},  # type: ignore[arg-type]
    )


def predicted(line: Line, images: int, version: str = "vad-slow/1") -> list[int]:
    """Record predictions of so many images, all OK, and return their numbers."""
    db = InspectionDatabase.from_environment()
    row = {
        "line": line.name, "model_version": version, "raw_score": 1.0, "p": 0.4, "certainty": 0.2, "predicted": "OK",
        "threshold": 1.0, "threshold_version": "t", "inference_threshold": 0.5, "source": "batch",
        "created_at": utc_now(),
    }  # fmt: skip
    with db.writing() as connection:
        return [
            connection.execute(
                insert(predictions)
                .values(**row, path=f"/{image}.png", sha256=hashlib.sha256(str(image).encode()).hexdigest())
                .returning(predictions.c.prediction_id)
            ).scalar_one()
            for image in range(images)
        ]


def say(number: int, label: str) -> None:
    record_label(InspectionDatabase.from_environment(), number, label, by=Actor("Kim"))  # type: ignore[arg-type]


def serves(line: Line, number: str) -> None:
    """Record which version serves."""
    decision = PromotionDecision(promote=True, rule="person", reason="Kim says so.")
    folder = store_folder(line.name, "champion_model")
    folder.mkdir(parents=True)
    ChampionRecord(line=line.name, version=number, decision=decision, by="person: Kim").save(folder)


@pytest.mark.spec("L3.01")
def test_a_line_whose_plan_asks_for_nothing_is_left_to_people(vad_home: Path, instance: dg.DagsterInstance) -> None:
    line = line_that(vad_home, instance)
    for number in predicted(line, 3):
        say(number, "NG")
    assert evaluate(instance)[:2] == ({}, "1 lines are trained by people only, as their plans say")


@pytest.mark.spec("L3.02", "L3.04")
def test_new_labels_start_a_training_that_says_so_and_count_from_zero_again(
    vad_home: Path, instance: dg.DagsterInstance
) -> None:
    line = line_that(vad_home, instance, "train_after_labels: 2", "retrain_interval_hours: 0")
    first, second, third = predicted(line, 3)
    say(first, "OK")
    assert evaluate(instance)[:2] == ({}, "slow: no reason yet")
    say(second, "OK")
    (tags,) = evaluate(instance)[0].values()
    assert tags[REASON_TAG] == "people judged 2 images since the last training (2 are enough)"
    assert tags["vad/train_line"] == "slow"
    trained(instance, line, 1)
    assert evaluate(instance)[1] == "slow: no reason yet"
    withdraw_label(InspectionDatabase.from_environment(), first, by=Actor("Kim"))
    assert evaluate(instance)[1] == "slow: no reason yet"
    say(third, "NG")
    assert "judged 2 images" in evaluate(instance)[0]["slow"][REASON_TAG]


@pytest.mark.spec("L3.03")
def test_labels_that_came_to_what_they_were_before_start_no_training(
    vad_home: Path, instance: dg.DagsterInstance
) -> None:
    line = line_that(vad_home, instance, "train_after_labels: 1", "retrain_interval_hours: 0")
    (number,) = predicted(line, 1)
    say(number, "OK")
    trained(instance, line, 1)
    say(number, "NG")
    say(number, "OK")
    train, why = decided(instance, line)
    assert not train
    assert why.startswith("nothing new since version vad-slow/1 (people judged 1 images")
    # what was new is compared with the last training, and not with one before it
    say(number, "NG")
    trained(instance, line, 2)
    say(number, "OK")
    assert decided(instance, line)[0]


@pytest.mark.spec("L3.02")
def test_low_agreement_and_drift_of_the_champion_start_a_training(vad_home: Path, instance: dg.DagsterInstance) -> None:
    asked = ("train_when_agreement_below: 0.9", "train_agreement_images: 3", "train_on_drift: true")
    line = line_that(vad_home, instance, *asked)
    for number in predicted(line, 3):
        say(number, "NG")
    assert decided(instance, line) == (False, "no reason yet"), "no version serves"
    serves(line, "1")
    train, why = decided(instance, line)
    assert train
    assert why == "people agree with 0 of 3 predictions of vad-slow/1, which is less than 90%"
    db, now = InspectionDatabase.from_environment(), utc_now()
    row = {
        "line": "slow",
        "numbers": "{}",
        "images": 9,
        "level": 1.2,
        "since": now,
        "since_images": 3,
        "raised_at": now,
    }
    for version, chart, told in (("0", "score", False), ("1", "score", True), ("1", "shift", False)):
        with db.writing(line="slow") as connection:
            connection.execute(delete(monitoring_state).where(monitoring_state.c.model_version != "vad-slow/1"))
            values = {**row, "chart": chart, "model_version": f"vad-slow/{version}", "alarm": "something moved"}
            connection.execute(insert(monitoring_state).values(values))
        assert ("drift of score since vad-slow/1 was trained" in decided(instance, line)[1]) == told


@pytest.mark.spec("V9.06", "L3.03")
def test_by_the_clock_each_line_is_trained_and_then_left_alone_for_its_interval(
    vad_home: Path, instance: dg.DagsterInstance
) -> None:
    slow = line_that(vad_home, instance, "train_every_hours: 1")
    fast = line_that(vad_home, instance, "train_every_hours: 1", "retrain_interval_hours: 1", name="fast")
    assert set(evaluate(instance)[0]) == {"slow", "fast"}
    for line in (slow, fast):
        create_run_for_test(instance, tags=training_tags(line.name), status=dg.DagsterRunStatus.SUCCESS)
    assert evaluate(instance)[1] == "fast: no reason yet; slow: no reason yet"
    assert decided(instance, fast, hours=2)[0]
    train, why = decided(instance, slow, hours=2)
    assert not train
    assert why.startswith("the last training began 2.0 h ago, and 6 h have to pass (a training is due every 1 h")
    assert decided(instance, slow, hours=7)[0]


@pytest.mark.spec("L3.03")
def test_a_line_is_trained_again_only_where_its_images_table_or_plan_have_changed(
    vad_home: Path, instance: dg.DagsterInstance
) -> None:
    line = line_that(vad_home, instance, "train_every_hours: 6")
    table, image = line.folder / "train" / "train.csv", line.folder / "train" / "good" / "tile0.png"
    trained(instance, line, 1, status="FAILURE")
    assert decided(instance, line, hours=24)[0], "a training that failed is tried again"
    trained(instance, line, 2, config={"ops": {"trained_model": {"config": {"model_name": "fastflow"}}}})
    assert decided(instance, line, hours=24)[0], "it trained something else than the plan says"
    trained(instance, line, 3)
    assert "nothing new since version vad-slow/3" in decided(instance, line, hours=24)[1]
    for number, (file, change) in enumerate(
        (
            (table, lambda text: text.replace(b"good\n", b"scratch\n", 1)),
            (image, lambda _: (line.folder / "train" / "good" / "tile1.png").read_bytes()),
            (line.plan_file, lambda text: text.replace(b"img_size: [64, 64]", b"img_size: [96, 96]")),
        )
    ):
        before = file.read_bytes()
        file.write_bytes(change(before))
        assert file.read_bytes() != before
        assert decided(instance, line, hours=24)[0], file
        trained(instance, line, 4 + number)
        assert f"nothing new since version vad-slow/{4 + number}" in decided(instance, line, hours=24)[1]
    line.plan_file.write_text(
        line.plan_file.read_text().replace("inference_threshold: 0.5", "inference_threshold: 0.6")
    )
    assert not decided(instance, line, hours=24)[0], "that changes nothing of a training"


@pytest.mark.spec("L3.03")
def test_images_are_not_looked_through_in_every_evaluation_where_nothing_is_new(
    vad_home: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = line_that(vad_home, instance, "train_every_hours: 0.000001", "retrain_interval_hours: 0")
    (number,) = predicted(line, 1)
    trained(instance, line, 1)
    looked: list[str] = []
    monkeypatch.setattr(trainings, "inputs_of", lambda line, plan: looked.append(line.name) or inputs_of(line, plan))
    _, first, cursor = evaluate(instance)
    _, second, cursor = evaluate(instance, cursor)
    assert first == second
    assert "nothing new since version vad-slow/1" in first
    assert looked == ["slow"]
    say(number, "NG")
    assert set(evaluate(instance, cursor)[0]) == {"slow"}, "what somebody says is seen at once"


@pytest.mark.spec("L3.03", "L3.04")
def test_a_line_in_training_or_with_a_wrong_plan_is_passed_over_with_the_reason(
    vad_home: Path, instance: dg.DagsterInstance
) -> None:
    line_that(vad_home, instance, "train_every_hours: 0.000001", "retrain_interval_hours: 0", name="busy")
    make_line(Home(vad_home), "wrong", PLAN.replace("percentile", "percentil"), normal=1, scratched=0)
    create_run_for_test(instance, tags={"vad/train_line": "busy"}, status=dg.DagsterRunStatus.STARTED)
    create_run_for_test(instance, tags={"vad/train_line": "busy"}, status=dg.DagsterRunStatus.FAILURE)
    asked, reason, _ = evaluate(instance)
    assert not asked
    assert "busy: a training is queued or running" in reason
    assert "percentil" in reason


@pytest.mark.spec("V9.06")
def test_a_training_has_the_time_that_its_plan_gives(vad_home: Path) -> None:
    make_line(Home(vad_home), "usual", normal=1, scratched=0)
    make_line(Home(vad_home), "short", PLAN + "operation:\n  training_timeout_hours: 0.5\n", normal=1, scratched=0)
    assert training_tags("usual")["dagster/max_runtime"] == str(6 * 3600)
    assert training_tags("short")["dagster/max_runtime"] == "1800"
    assert training_tags("nowhere")["dagster/max_runtime"] == str(6 * 3600)
    assert inspection_tags("usual")["vad/inspect_line"] == "usual"


def test_a_run_from_the_launchpad_carries_the_tags_of_its_line(vad_home: Path) -> None:
    make_line(Home(vad_home), "short", PLAN + "operation:\n  training_timeout_hours: 0.5\n", normal=1, scratched=0)
    for job, tags in (("train_line", training_tags("short")), ("inspect_line", inspection_tags("short"))):
        config = defs.resolve_job_def(job).partitioned_config
        assert config is not None
        assert tags.items() <= config.get_tags_for_partition_key("short", job).items()


def test_dagster_starts_what_is_asked_for_on_the_partition_of_the_line(vad_home: Path) -> None:
    with instance_for_test() as instance:
        line_that(vad_home, instance, "train_every_hours: 24")
        context = dg.build_sensor_context(instance, repository_def=defs.get_repository_def())
        with partition_loading_context(dynamic_partitions_store=instance):  # as the daemon's process does
            (request,) = due_trainings.evaluate_tick(context).run_requests or []
        assert (request.partition_key, request.tags["dagster/partition"]) == ("slow", "slow")
