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
from vad_dagster.jobs import inspection_tags, training_tags
from vad_dagster.schedules import retrain_lines, retraining_is_due, watch_lines
from vad_lib.lines import Home

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


def test_each_line_gets_its_drift_report(vad_home: Path) -> None:
    with instance_for_test() as instance:
        instance.add_dynamic_partitions("line", ["a", "b"])
        context = dg.build_schedule_context(
            instance, scheduled_execution_time=datetime.now(UTC), repository_def=defs.get_repository_def()
        )
        requests = watch_lines.evaluate_tick(context).run_requests or []
        assert sorted(str(request.partition_key) for request in requests) == ["a", "b"]
