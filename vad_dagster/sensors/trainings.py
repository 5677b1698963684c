"""Trainings that no person starts: the one place that decides about them, by what the plan of each line asks for.

A training starts where the plan gives a reason, nothing speaks against it, and something is new since the last one.
What was decided on each line, and why, stands in the log of the evaluation and in its reason for skipping.
"""

from __future__ import annotations

import json
import time
from datetime import UTC
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg

from vad_dagster.jobs import INPUTS_TAG, LABELS_TAG, REASON_TAG, TRAIN_TAG, VERSION_TAG, train_line, training_tags
from vad_dagster.partitions import LINES_PARTITION
from vad_dagster.plans import enough_inspected, plan_of, training_table
from vad_dagster.registry import registered_model
from vad_dagster.sensors.serving import recorded_version
from vad_lib.errors import VadError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.labels import agreement, count_judged_since, labels_that_hold, newest_label
from vad_lib.inspection_db.monitoring import chart_states
from vad_lib.lines import Home, Line
from vad_lib.monitoring import ANSWERED_BY_TRAINING
from vad_lib.training_reasons import SinceTraining, reason_to_wait, reasons_to_train, trains_by_itself

if TYPE_CHECKING:
    from vad_lib.plan import ExperimentalPlan

ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
RECENT_RUNS = 20
SECONDS_UNTIL_ASKED_AGAIN = 900.0
"""Where nothing was new, the images of a line are not looked through again before, unless somebody judged one."""


class Decision(NamedTuple):
    """Whether a line is trained now.

    Attributes:
        train: whether it is.
        why: in words; also why not.
        key: of the run, so that two evaluations do not start the same training.
        nothing_new: it is not, for the sole reason that nothing is new.
    """

    train: bool
    why: str
    key: str = ""
    nothing_new: bool = False


@dg.sensor(
    name="due_trainings",
    job=train_line,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=60,
    description="Trains a line where its plan asks for it (train_after_labels, train_when_agreement_below, "
    "train_on_drift, train_every_hours in the section operation; all off by default), at least retrain_interval_hours "
    "after the last training, and only where the table, its images, the labels of people, the plan, the weights or the "
    "code have changed since.",
)
def due_trainings(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    known = set(context.instance.get_dynamic_partitions(LINES_PARTITION))
    asked_before: dict[str, list[Any]] = json.loads(context.cursor or "{}")
    asked_now: dict[str, list[Any]] = {}
    requests, reasons, silent = [], [], 0
    for line in Home.from_environment().lines():
        try:
            plan = plan_of(line)
            if not trains_by_itself(plan.operation):
                silent += 1
                continue
            if line.name not in known:
                decision = Decision(False, "not registered yet")
            else:
                decision = _decide(context.instance, line, plan, asked_before.get(line.name), asked_now)
        except VadError as error:
            decision = Decision(False, str(error))
        context.log.info(f"{line.name}: {'trained, since ' if decision.train else ''}{decision.why}")
        if decision.train:
            requests.append(
                dg.RunRequest(
                    run_key=f"{line.name}:{decision.key}",
                    partition_key=line.name,
                    tags={
                        **training_tags(line.name),
                        "vad/started_by": "sensor due_trainings",
                        REASON_TAG: decision.why,
                    },
                )
            )
        else:
            reasons.append(f"{line.name}: {decision.why}")
    if silent:
        reasons.append(f"{silent} lines are trained by people only, as their plans say")
    skipped = None if requests else "; ".join(reasons) or "There is no line yet."
    return dg.SensorResult(run_requests=requests, skip_reason=skipped, cursor=json.dumps(asked_now))


def _decide(
    instance: dg.DagsterInstance,
    line: Line,
    plan: ExperimentalPlan,
    asked_before: list[Any] | None,
    asked_now: dict[str, list[Any]],
) -> Decision:
    """Decide about a line, without looking through its images where that was done lately and nothing was said since."""
    said = newest_label(InspectionDatabase.from_environment(), line.name)
    if asked_before and asked_before[0] == said and time.time() - asked_before[1] < SECONDS_UNTIL_ASKED_AGAIN:
        asked_now[line.name] = asked_before
        return Decision(False, asked_before[2])
    decision = decide(instance, line, plan, time.time())
    if decision.nothing_new:
        asked_now[line.name] = [said, time.time(), decision.why]
    return decision


def decide(instance: dg.DagsterInstance, line: Line, plan: ExperimentalPlan, now: float) -> Decision:
    """Say whether a line is to be trained now, and why or why not.

    Args:
        instance: Dagster's.
        line: that is asked about.
        plan: of the line.
        now: seconds since the epoch.
    """
    last = last_trained(instance, line.name)
    since = since_training(instance, line, last, now)
    reasons = "; ".join(reasons_to_train(plan.operation, since))
    if not reasons:
        return Decision(False, "no reason yet")
    if waits := reason_to_wait(plan.operation, since):
        return Decision(False, f"{waits} ({reasons})")
    inputs = inputs_of(line, plan)
    # a run in which an operator changed an argument did not train what the plan says
    if last is not None and last.tags[INPUTS_TAG] == inputs and not last.run_config.get("ops"):
        return Decision(False, f"nothing new since version {last.tags[VERSION_TAG]} ({reasons})", nothing_new=True)
    return Decision(True, reasons, key=f"{inputs}:{_began(instance, line.name)}")


def since_training(instance: dg.DagsterInstance, line: Line, last: dg.DagsterRun | None, now: float) -> SinceTraining:
    """Look up what has happened on a line since ``last``, its last training that made a version."""
    db = InspectionDatabase.from_environment()
    of_line = {TRAIN_TAG: line.name}
    under_way = [status for status in dg.DagsterRunStatus if status not in ENDED]
    newest = instance.get_runs(dg.RunsFilter(tags=of_line), limit=1)
    began = _began(instance, line.name)
    number = recorded_version(line.name)
    champion = f"{registered_model(line.name)}/{number}" if number else ""
    agreed = agreement(db, line.name, champion)
    return SinceTraining(
        hours=None if began is None else (now - began) / 3600,
        in_progress=bool(instance.get_runs(dg.RunsFilter(tags=of_line, statuses=under_way), limit=1)),
        failed=bool(newest) and newest[0].status == dg.DagsterRunStatus.FAILURE,
        new_labels=count_judged_since(db, line.name, int(last.tags.get(LABELS_TAG, 0)) if last else 0),
        champion=champion,
        judged=agreed.judged,
        agree=agreed.agree,
        drifted=_drifted(db, line.name, champion),
    )


def last_trained(instance: dg.DagsterInstance, line: str) -> dg.DagsterRun | None:
    """Return the line's last run that trained a model and made a version of it; None where there is none."""
    succeeded = dg.RunsFilter(tags={TRAIN_TAG: line}, statuses=[dg.DagsterRunStatus.SUCCESS])
    runs = instance.get_runs(succeeded, limit=RECENT_RUNS)
    return next((run for run in runs if {INPUTS_TAG, VERSION_TAG} <= run.tags.keys()), None)


def inputs_of(line: Line, plan: ExperimentalPlan) -> str:
    """Return the digest of what a training of the line would be made from now."""
    from vad_lib.training_inputs import digest_of_inputs

    table, _ = training_table(plan, line.base_folder)
    return digest_of_inputs(
        plan,
        table,
        Home.from_environment().weights_folder,
        labels=labels_that_hold(InspectionDatabase.from_environment(), line.name),
        enough_inspected=enough_inspected(line, plan),
    )


def _began(instance: dg.DagsterInstance, line: str) -> float | None:
    """Return when the line's last training began, successful or not; None where there was none."""
    records = instance.get_run_records(dg.RunsFilter(tags={TRAIN_TAG: line}), limit=1)
    began = records[0].create_timestamp.replace(tzinfo=UTC).timestamp() if records else None
    newest = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("trained_model"), asset_partitions=[line]), limit=1
    ).records
    return max(began or 0.0, newest[0].timestamp) if newest else began


def _drifted(db: InspectionDatabase, line: str, champion: str) -> tuple[str, ...]:
    """Return the charts of the champion whose alarms a training may answer; none while the camera is to be mended."""
    version, states = chart_states(db, line)
    standing = tuple(name for name, state in states.items() if state.stands)
    return standing if version == champion and set(standing) <= set(ANSWERED_BY_TRAINING) else ()
