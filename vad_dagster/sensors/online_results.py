"""What inference services did becomes materializations of ``inference_outputs``, so that history is whole.

One event a line, model version and tick says how many images were scored and which rows of the inspection database
they are; one evaluation says whether the latency objective was met. The cursor holds the last ``prediction_id`` of each
line that was recorded: a tick that dies records the same again, nothing is left out.

Where no service runs, the page of the sensor and the check say so, and how to start one.
"""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

import json

import dagster as dg

from vad_dagster.asset_metadata import agreement_metadata
from vad_dagster.partitions import LINES_PARTITION
from vad_dagster.provenance import ASSET, FIRST, LAST, results_page
from vad_dagster.registry import registered_model
from vad_dagster.resources import MLflowTracking
from vad_lib.forecast.records import OBJECTIVE_SECONDS
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.labels import Agreement, agreement
from vad_lib.lines import Home
from vad_lib.queue import QueueFacts, queue_facts, services_of
from vad_lib.queue.latency import Latency, ScoredImages, latencies, scored_since

LATENCY_CHECK = "latency_objective"
HOW_TO_START = "start one with `vad serve`, or everything with `vad dev`"


def service_state(db: InspectionDatabase) -> str:
    """Say whether an inference service works, and how to start one."""
    served = services_of(db)
    if served:
        return f"Inference services work on {', '.join(sorted(served))}."
    return f"No inference service is alive: images wait for runs. To have one, {HOW_TO_START}."


def latency_result(db: InspectionDatabase, found: dict[str, Latency]) -> dg.AssetCheckResult:
    """Return how well the latency objective is met on each line, as one check's result."""
    missed = [name for name, latency in found.items() if not latency.is_met]
    return dg.AssetCheckResult(
        asset_key=ASSET,
        check_name=LATENCY_CHECK,
        passed=not missed,
        severity=dg.AssetCheckSeverity.WARN,
        description="\n\n".join(f"{name}: {found[name]}" for name in (*missed, *sorted(set(found) - set(missed))))
        or "No inference service has decided an image yet.",
        metadata={
            "images in the last hour": sum(latency.images for latency in found.values()),
            "waiting": sum(latency.waiting for latency in found.values()),
            "lines": _latency_table(found),
            "inference service": service_state(db),
        },
    )


def _latency_table(found: dict[str, Latency]) -> dg.TableMetadataValue:
    types = {"line": "string", "met": "bool", "images in the last hour": "int", "waiting": "int"}
    types |= dict.fromkeys(("p50 seconds", "p95 seconds", "worst seconds", "objective seconds"), "float")
    records = [
        dg.TableRecord({"line": name, "met": latency.is_met, **_latency_metadata(latency)})
        for name, latency in sorted(found.items())
    ]
    schema = dg.TableSchema(columns=[dg.TableColumn(name, kind) for name, kind in types.items()])
    return dg.MetadataValue.table(records, schema=schema)


def _latency_metadata(found: Latency) -> dict[str, float | int]:
    values = {
        "images in the last hour": found.images,
        "waiting": found.waiting,
        "p50 seconds": found.p50,
        "p95 seconds": found.p95,
        "worst seconds": found.worst,
        "objective seconds": found.objective,
    }
    return {name: value for name, value in values.items() if value is not None}


@dg.asset_check(
    asset=ASSET,
    name=LATENCY_CHECK,
    description=f"On every line, 95 of 100 images that an inference service decided in the last hour had their result "
    f"within {OBJECTIVE_SECONDS:g} seconds of their arrival.",
)
def latency_objective() -> dg.AssetCheckResult:
    # One result for all lines: Dagster keeps a single evaluation outside of runs for each partition of a check, and
    # the sensor's second one of a line would be refused, with all that it had to tell.
    home = Home.from_environment()
    db = InspectionDatabase.of(home)
    return latency_result(db, latencies(db, [line.name for line in home.lines()]))


def as_materialization(
    scored: ScoredImages, latency: Latency | None, waiting: QueueFacts, version_url: str, agreed: Agreement
) -> dg.AssetMaterialization:
    """Return the event that stands for what was scored, with the way to each image and to the model."""
    return dg.AssetMaterialization(
        asset_key=ASSET,
        partition=scored.line,
        description=f"{scored.images} images scored by the inference service.",
        tags={"vad/source": "online"},
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
            "images that wait": waiting.pending,
            "oldest waits for seconds": round(waiting.oldest_seconds, 3),
            **{
                name: value
                for name, value in (_latency_metadata(latency) if latency else {}).items()
                if name.endswith("seconds")
            },
        },
    )


@dg.sensor(
    name="online_results",
    description="Records what inference services did as materializations of inference_outputs, and whether the latency "
    "objective was met. Says nothing where no service runs.",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
)
def online_results(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    after: dict[str, int] = json.loads(context.cursor) if context.cursor else {}
    db = InspectionDatabase.from_environment()
    lines = context.instance.get_dynamic_partitions(LINES_PARTITION)
    groups, reached = scored_since(db, lines, after)
    tracking = MLflowTracking()
    events: list[dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.AssetObservation] = []
    if groups:
        found, waiting = latencies(db, lines), queue_facts(db)
        for group in groups:
            number = group.model_version.rpartition("/")[2]
            url = tracking.version_url(registered_model(group.line), number)
            agreed = agreement(db, group.line, group.model_version)
            facts = waiting.get(group.line, QueueFacts())
            events.append(as_materialization(group, found.get(group.line), facts, url, agreed))
        result = latency_result(db, found)
        events.append(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(ASSET),
                check_name=LATENCY_CHECK,
                passed=result.passed,
                severity=result.severity,
                description=result.description,
                metadata=result.metadata,
            )
        )
    return dg.SensorResult(
        asset_events=events,
        skip_reason=None if events else f"No service has scored an image since. {service_state(db)}",
        cursor=json.dumps(reached),
    )
