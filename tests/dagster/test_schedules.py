"""Retraining by the clock, spaced as the plan says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.instance_for_test import instance_for_test
from dagster._core.test_utils import create_run_for_test
from gravel_line import PLAN, make_line

from vad_dagster.definitions import defs
from vad_dagster.jobs import INPUTS_TAG, VERSION_TAG, inspection_tags, training_tags
from vad_dagster.schedules import retrain_lines, retraining_is_due
from vad_lib.ground_truth import read_input
from vad_lib.lines import Home
from vad_lib.plan import read_plan
from vad_lib.training_inputs import digest_of_inputs

HOURS = 3600.0


@pytest.mark.spec("V9.06")
@pytest.mark.parametrize(
    ("last", "in_progress", "due"),
    [
        (None, False, True),
        (6 * HOURS, False, True),  # exactly the interval has passed
        (5.99 * HOURS, False, False),
        (None, True, False),
        (100 * HOURS, True, False),
    ],
)
def test_a_line_is_due_when_the_interval_has_passed_and_no_training_runs(
    last: float | None, in_progress: bool, due: bool
) -> None:
    now = 1_000_000.0
    began = None if last is None else now - last
    assert retraining_is_due(now, interval_hours=6, last_training=began, in_progress=in_progress)[0] is due


def evaluate(instance: dg.DagsterInstance, moment: datetime) -> list[dg.RunRequest] | str:
    context = dg.build_schedule_context(
        instance, scheduled_execution_time=moment, repository_def=defs.get_repository_def()
    )
    data = retrain_lines.evaluate_tick(context)
    return list(data.run_requests or []) or str(data.skip_message)


@pytest.mark.spec("V9.06")
def test_each_line_is_trained_and_then_left_alone_for_its_interval(vad_home: Path) -> None:
    make_line(Home(vad_home), "slow", normal=1, scratched=0)
    make_line(Home(vad_home), "fast", PLAN + "operation:\n  retrain_interval_hours: 1\n", normal=1, scratched=0)
    now = datetime.now(UTC)
    with instance_for_test() as instance:
        instance.add_dynamic_partitions("line", ["slow", "fast"])
        requests = evaluate(instance, now)
        assert [request.partition_key for request in requests] == ["fast", "slow"]
        for request in requests:
            assert isinstance(request, dg.RunRequest)
            create_run_for_test(
                instance, job_name="train_line", tags=dict(request.tags), status=dg.DagsterRunStatus.SUCCESS
            )
        assert "fast: the last training began" in str(evaluate(instance, now + timedelta(minutes=30)))
        later = evaluate(instance, now + timedelta(hours=2))
        assert [request.partition_key for request in later] == ["fast"]
        later = evaluate(instance, now + timedelta(hours=7))
        assert [request.partition_key for request in later] == ["fast", "slow"]


def test_a_line_is_trained_again_only_where_its_images_table_or_plan_have_changed(vad_home: Path) -> None:
    line = make_line(Home(vad_home), "slow", normal=2, scratched=0)
    now = datetime.now(UTC) + timedelta(days=1)
    table, image = line.folder / "train" / "train.csv", line.folder / "train" / "good" / "tile0.png"

    def train(instance: dg.DagsterInstance, number: int, **options: object) -> None:
        inputs = digest_of_inputs(
            plan := read_plan(line.plan_file),
            read_input(plan.train_data_folder(), plan.input, pipeline="train"),
            Home(vad_home).weights_folder,
        )
        tags = {**training_tags("slow"), INPUTS_TAG: inputs, VERSION_TAG: f"vad-slow/{number}"}
        create_run_for_test(instance, job_name="train_line", tags=tags, **options)  # type: ignore[arg-type]

    with instance_for_test() as instance:
        instance.add_dynamic_partitions("line", ["slow"])
        train(instance, 1, status=dg.DagsterRunStatus.FAILURE)
        assert len(evaluate(instance, now)) == 1, "a training that failed is tried again"
        other = {"ops": {"trained_model": {"config": {"model_name": "fastflow"}}}}
        train(instance, 2, status=dg.DagsterRunStatus.SUCCESS, run_config=other)
        assert isinstance(evaluate(instance, now), list), "it trained something else than the plan says"
        train(instance, 3, status=dg.DagsterRunStatus.SUCCESS)
        assert evaluate(instance, now) == "slow: nothing new since version vad-slow/3"
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
            assert isinstance(evaluate(instance, now), list), file
            train(instance, 4 + number, status=dg.DagsterRunStatus.SUCCESS)
            assert evaluate(instance, now) == f"slow: nothing new since version vad-slow/{4 + number}"
        line.plan_file.write_text(
            line.plan_file.read_text().replace("inference_threshold: 0.5", "inference_threshold: 0.6")
        )
        assert isinstance(evaluate(instance, now), str), "that changes nothing of a training"


def test_a_line_in_training_or_with_a_wrong_plan_is_passed_over_with_the_reason(vad_home: Path) -> None:
    make_line(Home(vad_home), "busy", normal=1, scratched=0)
    make_line(Home(vad_home), "wrong", PLAN.replace("percentile", "percentil"), normal=1, scratched=0)
    with instance_for_test() as instance:
        instance.add_dynamic_partitions("line", ["busy", "wrong"])
        create_run_for_test(instance, tags={"vad/train_line": "busy"}, status=dg.DagsterRunStatus.STARTED)
        reason = evaluate(instance, datetime.now(UTC) + timedelta(days=9))
        assert isinstance(reason, str)
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
