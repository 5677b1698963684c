"""Images that land become runs: a shell around ``vad_lib.landing``, which decides everything.

One tick looks at each line's landing folder, asks for one batched run for the new complete images, and remembers in
its cursor only what a look cannot tell by itself. What has been taken up is in the inspection database, so a tick that
dies, or a cursor that is reset, loses nothing and repeats nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import dagster as dg

from vad_dagster.io_manager import store_folder
from vad_dagster.jobs import inspect_line, inspection_tags
from vad_dagster.partitions import LINES_PARTITION
from vad_dagster.plans import landing_folder, plan_of
from vad_lib.errors import VadError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.landing import BatchRequest, RunState, plan_landing_tick
from vad_lib.lines import Home, Line
from vad_lib.scorer import hand_over_abandoned

SECONDS_PER_TICK = 20.0
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


def look_at_line(
    line: Line, db: InspectionDatabase, state: Callable[[str], RunState | None], previous: dict[str, Any]
) -> tuple[list[dg.RunRequest], dict[str, list[float]], str]:
    """Return the runs to ask for, what to remember, and what was seen."""
    try:
        plan = plan_of(line)
    except VadError as error:
        return [], previous, str(error)
    if not store_folder(line.name, "champion_model").is_dir():
        return [], previous, f"no champion yet, images in {landing_folder(line, plan)} wait: train the line first"
    tick = plan_landing_tick(
        db,
        line.name,
        landing_folder(line, plan),
        run_state=state,
        settle_seconds=plan.operation.settle_seconds,
        max_batch=plan.operation.max_batch_images,
        previous_look=previous,
        # a plan may name a landing folder that holds the line's own
        skip_folders=(
            line.kept_aside,
            line.train_artifacts,
            line.inference_artifacts,
            line.store,
            line.folder / "maps",
        ),
    )
    return [as_run_request(line.name, request) for request in tick.requests], tick.waiting, tick.message


@dg.sensor(
    name="landing_folders",
    job=inspect_line,
    description="Asks for an inspection run when complete new images lie in a line's landing folder.",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=1,
)
def landing_folders(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    memory = json.loads(context.cursor) if context.cursor else {}
    looks: dict[str, Any] = memory.get("looks", {})
    known = set(context.instance.get_dynamic_partitions(LINES_PARTITION))
    lines = [line for line in lines_from(Home.from_environment().lines(), memory.get("next", "")) if line.name in known]
    deadline = time.monotonic() + SECONDS_PER_TICK
    db = InspectionDatabase.from_environment()
    # What a resident scorer had in hand when it died; its batches are then open ones of the bulk lane.
    if handed_over := hand_over_abandoned(db):
        context.log.warning(f"{handed_over} batches of a scorer that is gone are taken over.")
    requests: list[dg.RunRequest] = []
    seen: list[str] = []
    following = ""
    for line in lines:
        if time.monotonic() > deadline:
            following = line.name
            break
        wanted, waiting, message = look_at_line(
            line, db, lambda key: run_state(context.instance, key), looks.get(line.name, {})
        )
        requests += wanted
        looks[line.name] = waiting
        seen.append(f"{line.name}: {message}")
    looks = {name: look for name, look in looks.items() if name in known and look}
    for message in seen if requests else []:
        context.log.info(message)
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else (" ".join(seen) or "There is no line yet."),
        cursor=json.dumps({"next": following, "looks": looks}),
    )
