"""Images that arrive become runs, on lines that no inference service works on.

An evaluation asks one question: does anything wait in a line's queue that nobody has leased? Where a service works on
the line, the answer is the service's business. Elsewhere the evaluation looks at the watch folder, registers what is
complete, and asks for one run a line. Everything that matters stands in the inspection database and in Dagster's own
records of runs, so an evaluation that dies, or a cursor that is reset, loses nothing and repeats nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import dagster as dg

from vad_dagster.io_manager import store_folder
from vad_dagster.jobs import inspect_line, inspection_tags
from vad_dagster.partitions import LINES_PARTITION
from vad_dagster.plans import plan_of, watch_folder
from vad_lib.errors import VadError
from vad_lib.ingest import Arrival, FolderWatch
from vad_lib.inspection.quarantine import keep_files_refused_by_name
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home, Line
from vad_lib.queue import QueueFacts, expire, known_versions, queue_facts, register, services_of

QUEUE_TAG = "vad/queue"
"""Tag of the runs that work on a line's queue; its value is the line."""
WILL_RETRY_TAG, RETRIED_BY_TAG = "dagster/will_retry", "dagster/auto_retry_run_id"
"""Dagster's tags of a failed run: that it is going to be repeated, and, from then on, by which run it was."""
SECONDS_PER_TICK = 20.0
FIRST_DELAY, LONGEST_DELAY = 15.0, 300.0
RUNS_LOOKED_AT = 6

_watches: dict[tuple[str, str, float, tuple[str, ...]], FolderWatch] = {}
"""What this process knows of watch folders, by database, folder and what the plan says of it: only a help, the scan is
the truth."""


def lines_from(lines: list[Line], first: str) -> list[Line]:
    """Return the lines in turn, beginning with ``first`` or what follows it, so that a slow one starves nobody."""
    later = [line for line in lines if line.name >= first]
    return later + [line for line in lines if line.name < first]


def seconds_until_run(ended: Sequence[tuple[bool, float]], now: float) -> float:
    """Return how long to wait before another run: ever longer while runs of the line fail.

    Args:
        ended: of its last runs, newest first: whether it failed, and when it ended (seconds since the epoch).
        now: seconds since the epoch.

    >>> seconds_until_run([(True, 100.0), (True, 50.0), (False, 10.0)], 110.0)
    20.0
    """
    failures = next((number for number, (failed, _) in enumerate(ended) if not failed), len(ended))
    if not failures:
        return 0.0
    return max(0.0, ended[0][1] + min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (failures - 1)) - now)


def why_no_run(line: str, facts: QueueFacts | None, instance: dg.DagsterInstance, now: float) -> str:
    """Return why no run is asked for on a line that no service works on; empty: one is."""
    if facts is None:
        return "nothing waits"
    if facts.unleased_seconds is None:
        return f"{facts.pending} images are in hand or are tried again later"
    records = instance.get_run_records(dg.RunsFilter(tags={QUEUE_TAG: line}), limit=RUNS_LOOKED_AT)
    for record in records:
        run = record.dagster_run
        to_be_repeated = run.tags.get(WILL_RETRY_TAG) == "true" and RETRIED_BY_TAG not in run.tags
        if not run.is_finished or (run.is_failure and to_be_repeated):
            return f"{facts.pending} images wait, and a run is at work"
    wait = seconds_until_run([(not each.dagster_run.is_success, each.end_time or now) for each in records], now)
    return f"{facts.pending} images wait; the last run failed, the next follows in {wait:.0f} s" if wait else ""


def look_at_folder(db: InspectionDatabase, line: Line) -> str:
    """Register what is complete in a line's watch folder; return what was seen, in words."""
    plan = plan_of(line)
    folder = watch_folder(line, plan)
    if not store_folder(line.name, "champion_model").is_dir():
        return f"no champion yet, images in {folder} wait: train the line first"
    key = (f"{db.url} {line.name}", str(folder), plan.operation.settle_seconds, plan.operation.ignored_suffixes)
    if key not in _watches:
        known = partial(known_versions, db, line.name)
        _watches[key] = FolderWatch(
            line.name,
            folder,
            plan.operation.settle_seconds,
            known,
            skip_folders=line.own_folders,
            ignored_suffixes=plan.operation.ignored_suffixes,
        )
    watch = _watches[key]
    watch.scan()
    if watch.error:
        return f"cannot read {folder}: {watch.error}; nothing is concluded from that"
    arrivals = [Arrival(version, moment) for version, moment in watch.waiting.items()]
    refused = list(watch.refused)
    register(db, line.name, folder, arrivals, refused)
    watch.mark_registered({arrival.version for arrival in arrivals} | {seen.version for seen in refused})
    keep_files_refused_by_name(db, line)
    notes = [f"{len(arrivals)} new images among {watch.files} files"]
    notes += [f"{len(refused)} files refused ({refused[0].version.path}: {refused[0].reason})"] if refused else []
    notes += [f"{watch.writing} still being written"] if watch.writing else []
    notes += [f"{place} cannot be read" for place in watch.unreadable_folders[:3]]
    return "; ".join(notes)


@dg.sensor(
    name="watch_folders",
    job=inspect_line,
    description="Asks for an inspection run where complete new images wait on a line that no inference service works "
    "on.",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=5,
)
def watch_folders(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    db = InspectionDatabase.from_environment()
    if expired := expire(db):
        context.log.warning(f"{expired} images are offered again: their workers are gone.")
    known = set(context.instance.get_dynamic_partitions(LINES_PARTITION))
    lines = [line for line in lines_from(Home.from_environment().lines(), context.cursor or "") if line.name in known]
    served = services_of(db)
    seen: dict[str, str] = {}
    deadline, following = time.monotonic() + SECONDS_PER_TICK, ""
    for line in lines:
        if line.name in served:
            seen[line.name] = "an inference service works on it"
        elif time.monotonic() > deadline:
            following = following or line.name
        else:
            try:
                seen[line.name] = look_at_folder(db, line)
            except VadError as error:
                seen[line.name] = str(error)
    waiting, now = queue_facts(db), time.time()
    requests = []
    for line in lines:
        if line.name in served or not store_folder(line.name, "champion_model").is_dir():
            continue
        why = why_no_run(line.name, waiting.get(line.name), context.instance, now)
        seen[line.name] = f"{seen.get(line.name, 'not looked at in this turn')}; {why or 'a run is asked for'}"
        if not why:
            requests.append(queue_request(line.name))
    messages = [f"{name}: {message}" for name, message in seen.items()]
    for message in messages if requests else []:
        context.log.info(message)
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else (" ".join(messages) or "There is no line yet."),
        cursor=following,
    )


def queue_request(line: str) -> dg.RunRequest:
    """Return the run that works on a line's queue."""
    return dg.RunRequest(
        partition_key=line,
        run_config={"ops": {"inference_outputs": {"config": {"queue": True}}}},
        tags={**inspection_tags(line), QUEUE_TAG: line},
    )
