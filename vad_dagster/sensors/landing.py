"""Images that land become runs: a shell around ``vad_lib.landing``, which decides everything.

One evaluation looks at each line's landing folder, asks for one batched run for the new complete images, and remembers
in its cursor only what a look cannot tell by itself. What has been taken up is in the inspection database, so an
evaluation that dies, or a cursor that is reset, loses nothing and repeats nothing.

Dagster's daemon begins an evaluation only every five seconds. So that no image waits for that, an evaluation that found
nothing watches the folders for some seconds (``VAD_LANDING_WAIT_SECONDS``, 0: not at all), and two sensors take turns:
one watches while the other is between two evaluations. Where a resident scorer is at work there is no hurry, and one
short look is enough.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from vad_dagster.io_manager import store_folder
from vad_dagster.jobs import inspect_line, inspection_tags
from vad_dagster.partitions import LINES_PARTITION
from vad_dagster.plans import landing_folder, plan_of
from vad_lib.errors import VadError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.landing import BatchRequest, Limits, RunState, plan_landing_tick
from vad_lib.landing.waiting import LandingEvents, whose_turn
from vad_lib.lines import Home, Line
from vad_lib.scorer import hand_over_abandoned
from vad_lib.scorer.presence import is_scorer_here

SECONDS_PER_TICK = 20.0
WAIT_SECONDS = 8.0
"""An evaluation watches so long: longer than the daemon leaves between two, short enough for Ctrl-C. With its turn and
its looks it stays well below the code server's DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS of 60."""
TURN_SECONDS = 12.0
REPEAT_SECONDS = 60.0
"""What one sensor has asked for, the other does not ask for again so soon: it would be another run, as run keys are
compared for each sensor by itself. As long as the code server lets an evaluation last, so that the request is either
a run by then or lost."""
AGAIN_SECONDS, AGAIN_SHARE = 0.5, 5.0
WILL_RETRY_TAG = "dagster/will_retry"


def run_state(instance: dg.DagsterInstance, batch_key: str) -> RunState | None:
    """Return what became of the newest run of one attempt of a batch, None where there is none."""
    found = instance.get_runs(dg.RunsFilter(tags={"vad/batch_key": batch_key}), limit=1)
    if not found:
        return None
    run = found[0]
    if run.status == dg.DagsterRunStatus.SUCCESS:
        return RunState("succeeded")
    if run.status == dg.DagsterRunStatus.CANCELED:
        return RunState("cancelled")
    if run.status == dg.DagsterRunStatus.FAILURE:
        return RunState("failed", will_retry=run.tags.get(WILL_RETRY_TAG) == "true")
    return RunState("active")


def as_run_request(line: str, request: BatchRequest) -> dg.RunRequest:
    """Return the run that inspects a batch."""
    return dg.RunRequest(
        run_key=request.run_key,
        partition_key=line,
        run_config={"ops": {"inference_outputs": {"config": {"batch_id": request.batch_id}}}},
        tags={**inspection_tags(line), **request.tags, "vad/images": str(request.count)},
    )


def lines_from(lines: list[Line], first: str) -> list[Line]:
    """Return the lines in turn, beginning with ``first`` or what follows it, so that a slow one starves nobody."""
    later = [line for line in lines if line.name >= first]
    return later + [line for line in lines if line.name < first]


@dataclass
class Looking:
    """The looks of one evaluation.

    Attributes:
        context: of the evaluation.
        db: the inspection database.
        whole_at_once: no scorer is first: an image is taken as soon as it is complete.
        looks: line -> what a look is to remember for the next one.
        requests: runs to ask for.
        seen: line -> what was seen last.
        due: line -> when it is to be looked at again, on the monotonic clock; missing: when something lands.
    """

    context: dg.SensorEvaluationContext
    db: InspectionDatabase
    whole_at_once: bool
    looks: dict[str, Any]
    requests: list[dg.RunRequest] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)

    def look_at(self, line: Line) -> None:
        """Look at one line's landing folder."""
        started = time.monotonic()
        previous = self.looks.get(line.name, {})
        self.due.pop(line.name, None)
        try:
            plan = plan_of(line)
        except VadError as error:
            self.seen[line.name] = str(error)
            return
        if not store_folder(line.name, "champion_model").is_dir():
            self.seen[line.name] = f"no champion yet, images in {landing_folder(line, plan)} wait: train the line first"
            return
        tick = plan_landing_tick(
            self.db,
            line.name,
            landing_folder(line, plan),
            run_state=lambda key: run_state(self.context.instance, key),
            limits=Limits(
                settle_seconds=plan.operation.settle_seconds,
                max_batch=plan.operation.max_batch_images,
                repeat_seconds=REPEAT_SECONDS,
            ),
            previous_look=previous,
            skip_folders=line.own_folders,
            whole_at_once=self.whole_at_once,
        )
        self.looks[line.name] = tick.waiting
        self.seen[line.name] = tick.message
        self.requests += [as_run_request(line.name, request) for request in tick.requests]
        now = time.monotonic()
        if tick.writing or tick.unfinished:
            # A large folder takes long to look at, and is then looked at more rarely.
            self.due[line.name] = now + max(AGAIN_SECONDS, AGAIN_SHARE * (now - started))


def look_and_wait(looking: Looking, lines: list[Line], wait_seconds: float) -> str:
    """Look at all lines, and then at those where something happens, until there is something to ask for.

    Returns:
        The line to begin with next time, where there was no time for all; else nothing.
    """
    with LandingEvents({line.name: folder for line in lines if (folder := _folder_of(line))}) as events:
        deadline = time.monotonic() + SECONDS_PER_TICK
        for line in lines:
            if time.monotonic() > deadline:
                return line.name
            looking.look_at(line)
        by_name = {line.name: line for line in lines}
        until = time.monotonic() + wait_seconds
        while not looking.requests and (left := until - time.monotonic()) > 0:
            next_due = min(looking.due.values(), default=until) - time.monotonic()
            changed = events.wait(max(0.0, min(left, next_due)))
            now = time.monotonic()
            for name in sorted(changed | {name for name, due in looking.due.items() if due <= now}):
                looking.look_at(by_name[name])
    return ""


def _folder_of(line: Line) -> Path | None:
    try:
        return landing_folder(line, plan_of(line))
    except VadError:
        return None


def evaluate(context: dg.SensorEvaluationContext, *, relief: bool) -> dg.SensorResult | dg.SkipReason:
    """Evaluate one of the two sensors."""
    home = Home.from_environment()
    scorer = is_scorer_here(home)
    seconds = 0.0 if scorer else float(os.environ.get("VAD_LANDING_WAIT_SECONDS", WAIT_SECONDS))
    if relief and not seconds:
        return dg.SkipReason("Nobody watches the folders between evaluations: landing_folders looks now and then.")
    with whose_turn(home.root / ".landing.lock", TURN_SECONDS if seconds else 0.0) as mine:
        if relief and not mine:
            return dg.SkipReason("The other sensor looks at the landing folders just now.")
        return _evaluate(context, home, whole_at_once=not scorer, wait_seconds=seconds if mine else 0.0)


def _evaluate(
    context: dg.SensorEvaluationContext, home: Home, *, whole_at_once: bool, wait_seconds: float
) -> dg.SensorResult:
    memory = json.loads(context.cursor) if context.cursor else {}
    known = set(context.instance.get_dynamic_partitions(LINES_PARTITION))
    lines = [line for line in lines_from(home.lines(), memory.get("next", "")) if line.name in known]
    looking = Looking(context, InspectionDatabase.from_environment(), whole_at_once, memory.get("looks", {}))
    # What a resident scorer had in hand when it died; its batches are then open ones of the bulk lane.
    if handed_over := hand_over_abandoned(looking.db):
        context.log.warning(f"{handed_over} batches of a scorer that is gone are taken over.")
    following = look_and_wait(looking, lines, wait_seconds)
    seen = [f"{name}: {message}" for name, message in looking.seen.items()]
    for message in seen if looking.requests else []:
        context.log.info(message)
    looks = {name: look for name, look in looking.looks.items() if name in known and look}
    return dg.SensorResult(
        run_requests=looking.requests,
        skip_reason=None if looking.requests else (" ".join(seen) or "There is no line yet."),
        cursor=json.dumps({"next": following, "looks": looks}),
    )


@dg.sensor(
    name="landing_folders",
    job=inspect_line,
    description="Asks for an inspection run when complete new images lie in a line's landing folder. Watches the "
    "folders for some seconds in each evaluation.",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=1,
)
def landing_folders(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    return evaluate(context, relief=False)


@dg.sensor(
    name="landing_folders_relief",
    job=inspect_line,
    description="Watches the landing folders while landing_folders is between two evaluations, so that no image waits "
    "for the next one.",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=1,
)
def landing_folders_relief(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    return evaluate(context, relief=True)
