"""What the resident scorer did becomes materializations of ``inference_outputs``, so that history is whole.

One event a line, model version and tick says how many images were scored and which rows of the inspection database
they are; one evaluation says whether the promise of three seconds was kept. The cursor is the last ``prediction_id``
that was told: a tick that dies tells the same again, nothing is left out.

Where no scorer runs, the page of the sensor and the check say so, and how to start it.
"""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

import json

import dagster as dg
import requests

from vad_dagster.asset_metadata import agreement_metadata
from vad_dagster.partitions import LINES_PARTITION
from vad_dagster.provenance import ASSET, FIRST, LAST, results_page, scorer_url
from vad_dagster.registry import registered_model
from vad_dagster.resources import MLflowTracking
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.verdicts import Agreement, agreement
from vad_lib.landing.reporting import queue_facts
from vad_lib.scorer.reporting import PROMISE_SECONDS, Promise, ScoredImages, promise, promises, scored_since

PROMISE_CHECK = "promise_of_three_seconds"
ANSWER_SECONDS = 1.0
HOW_TO_START = "start it with `vad serve`, or everything with `vad dev`"


def scorer_answers() -> bool:
    """Whether a resident scorer works at the address that links lead to."""
    try:
        return requests.get(scorer_url("health"), timeout=ANSWER_SECONDS).ok
    except requests.RequestException:
        return False


def fast_lane_state() -> str:
    """Say whether a resident scorer works, and how to start one."""
    if scorer_answers():
        return f"The resident scorer works at {scorer_url()}"
    return f"No resident scorer answers at {scorer_url()}: images wait for runs. To have one, {HOW_TO_START}."


def promise_result(found: dict[str, Promise]) -> dg.AssetCheckResult:
    """Return how well the fast lane kept its promise to each line, as one check's result."""
    broken = [name for name, promised in found.items() if not promised.kept]
    return dg.AssetCheckResult(
        asset_key=ASSET,
        check_name=PROMISE_CHECK,
        passed=not broken,
        severity=dg.AssetCheckSeverity.WARN,
        description="\n\n".join(f"{name}: {found[name]}" for name in (*broken, *sorted(set(found) - set(broken))))
        or "The fast lane has taken up no image yet.",
        metadata={
            "images in the last hour": sum(promised.images for promised in found.values()),
            "waiting": sum(promised.waiting for promised in found.values()),
            "lines": _promise_table(found),
            "fast lane": fast_lane_state(),
        },
    )


def _promise_table(found: dict[str, Promise]) -> dg.TableMetadataValue:
    types = {"line": "string", "kept": "bool", "images in the last hour": "int", "waiting": "int"}
    types |= dict.fromkeys(("p50 seconds", "p95 seconds", "worst seconds", "promised seconds"), "float")
    records = [
        dg.TableRecord({"line": name, "kept": promised.kept, **_promise_metadata(promised)})
        for name, promised in sorted(found.items())
    ]
    schema = dg.TableSchema(columns=[dg.TableColumn(name, kind) for name, kind in types.items()])
    return dg.MetadataValue.table(records, schema=schema)


def _promise_metadata(found: Promise) -> dict[str, float | int]:
    values = {
        "images in the last hour": found.images,
        "waiting": found.waiting,
        "p50 seconds": found.p50,
        "p95 seconds": found.p95,
        "worst seconds": found.worst,
        "promised seconds": found.limit,
    }
    return {name: value for name, value in values.items() if value is not None}


@dg.asset_check(
    asset=ASSET,
    name=PROMISE_CHECK,
    description=f"On every line, 95 of 100 images that the resident scorer took up in the last hour had their result "
    f"within {PROMISE_SECONDS:g} seconds of landing.",
)
def promise_of_three_seconds() -> dg.AssetCheckResult:
    # One result for all lines: Dagster keeps a single evaluation outside of runs for each partition of a check, and
    # the sensor's second one of a line would be refused, with all that it had to tell.
    return promise_result(promises(InspectionDatabase.from_environment()))


def as_materialization(
    scored: ScoredImages,
    found: Promise,
    waiting: dict[str, float],
    version_url: str,
    agreed: Agreement,
) -> dg.AssetMaterialization:
    """Return the event that stands for what was scored, with the way to each image and to the model."""
    return dg.AssetMaterialization(
        asset_key=ASSET,
        partition=scored.line,
        description=f"{scored.images} images scored by the resident scorer.",
        tags={"vad/lane": "fast"},
        metadata={
            "images": scored.images,
            "OK": scored.ok,
            "NG": scored.ng,
            "images per second": round(scored.images_per_second, 3),
            "model version": dg.MetadataValue.url(version_url),
            "predictions": dg.MetadataValue.url(
                results_page(scored.line, version=scored.model_version, first=scored.first_id, last=scored.last_id)
            ),
            FIRST: scored.first_id,
            LAST: scored.last_id,
            **agreement_metadata(agreed),
            "from": scored.first_at.isoformat(),
            "to": scored.last_at.isoformat(),
            "images that wait": int(waiting["pending"]),
            "oldest waits for seconds": round(max(waiting["oldest_seconds"], found.oldest_waiting), 3),
            **{name: value for name, value in _promise_metadata(found).items() if name.endswith("seconds")},
        },
    )


@dg.sensor(
    name="scored_images",
    description="Records what the resident scorer did as materializations of inference_outputs, and whether its "
    "promise was kept. Says nothing where no scorer runs.",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
)
def scored_images(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    after = int(json.loads(context.cursor)["after"]) if context.cursor else 0
    db = InspectionDatabase.from_environment()
    groups, last = scored_since(db, after)
    known = set(context.instance.get_dynamic_partitions(LINES_PARTITION))
    tracking = MLflowTracking()
    events: list[dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.AssetObservation] = []
    for name in sorted({group.line for group in groups} & known):
        found = promise(db, name)
        for group in (group for group in groups if group.line == name):
            number = group.model_version.rpartition("/")[2]
            url = tracking.version_url(registered_model(name), number)
            agreed = agreement(db, name, group.model_version)
            events.append(as_materialization(group, found, queue_facts(db, name), url, agreed))
    if events:
        result = promise_result(promises(db))
        events.append(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(ASSET),
                check_name=PROMISE_CHECK,
                passed=result.passed,
                severity=result.severity,
                description=result.description,
                metadata=result.metadata,
            )
        )
    return dg.SensorResult(
        asset_events=events,
        skip_reason=None if events else f"Nothing was scored by the resident scorer since. {fast_lane_state()}",
        cursor=json.dumps({"after": last}),
    )
