"""The gate of each line is asked again when there is something new to decide, and a version that disappoints goes."""

from __future__ import annotations

import dagster as dg

from vad_dagster.io_manager import store_folder
from vad_dagster.jobs import gate_line
from vad_dagster.notices import tell
from vad_dagster.partitions import LINES_PARTITION
from vad_dagster.plans import plan_of
from vad_dagster.registry import CHALLENGER, CHAMPION, PREVIOUS, TAKEN_BACK, LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_dagster.sensors.serving import Serving, record_move
from vad_dagster.values import ModelEvaluation
from vad_lib.errors import VadError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.labels import agreement
from vad_lib.inspection_db.version_comparison import compare_versions
from vad_lib.lines import Home, Line
from vad_lib.promotion import reason_to_take_back

STEP_WITHOUT_LIMIT = 20
"""Judged images after which the gate is asked again, where the plan names no number."""
MANY_SHADOWED = 100
"""Live images of the random share by which a person can see how a challenger differs."""
TAKEN_BACK_BY = "rule: fallen_agreement"


@dg.sensor(
    name="waiting_challengers",
    job=gate_line,
    description="Asks the gate of a line again when people have judged more live images that champion and challenger "
    "have both scored, or when there are enough of them to see how they differ. Never twice for the same evidence.",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=60,
)
def waiting_challengers(
    context: dg.SensorEvaluationContext, tracking: MLflowTracking
) -> list[dg.RunRequest] | dg.SkipReason:
    requests, reasons = [], []
    for line in _known_lines(context):
        try:
            key, why = _evidence(line, tracking)
        except VadError as error:
            key, why = "", str(error)
        if key:
            context.log.info(f"{line.name}: {why}")
            # Dagster starts no second run of the same key
            tags = {"vad/started_by": "sensor waiting_challengers", "vad/reason": why}
            requests.append(dg.RunRequest(run_key=f"{line.name}:{key}", partition_key=line.name, tags=tags))
        else:
            reasons.append(f"{line.name}: {why}")
    return requests or dg.SkipReason("; ".join(reasons) or "There is no line yet.")


def _evidence(line: Line, tracking: MLflowTracking) -> tuple[str, str]:
    """Return a key of what is known about the challenger of a line, empty where nothing is to be decided; and why."""
    operation = plan_of(line).operation
    if operation.promotion == "never":
        return "", "its plan says promotion: never"
    registry = LineRegistry(tracking, line.name)
    challenger, champion = registry.at(CHALLENGER), registry.at(CHAMPION)
    if challenger is None or champion is None or challenger.number == champion.number:
        return "", "no version waits"
    folder = store_folder(line.name, "model_evaluation")
    if not folder.is_dir() or ModelEvaluation.load(folder).version != challenger.number:
        return "", f"{challenger.label} waits for a person: no training on this machine has evaluated it"
    found = compare_versions(InspectionDatabase.from_environment(), line.name, champion.label, challenger.label)
    judged, shadowed = found.judged.images, found.live.images
    steps = judged // (operation.gate_least_judged or STEP_WITHOUT_LIMIT)
    why = f"{judged} judged and {shadowed} other live images were scored by {champion.label} and {challenger.label}"
    if not steps and shadowed < MANY_SHADOWED:
        return "", f"{why}: too few to decide anything anew"
    numbers = f"{challenger.number}:{champion.number}:{steps}:{int(shadowed >= MANY_SHADOWED)}"
    return f"{operation.promotion}:{operation.gate_least_judged}:{numbers}", why


@dg.sensor(
    name="fallen_agreement",
    description="Lets the version before serve again where people agree with less of what the champion decides than "
    "the plan's rollback_below, and chance does not explain it.",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=60,
)
def fallen_agreement(context: dg.SensorEvaluationContext, tracking: MLflowTracking) -> dg.SensorResult:
    events, reasons = [], []
    for line in _known_lines(context):
        try:
            event, why = _take_back(line, tracking)
        except VadError as error:
            event, why = None, str(error)
        if event is not None:
            context.log.warning(f"{line.name}: {why}")
            events.append(event)
        else:
            reasons.append(f"{line.name}: {why}")
    return dg.SensorResult(
        asset_events=events, skip_reason=None if events else "; ".join(reasons) or "There is no line yet."
    )


def _take_back(line: Line, tracking: MLflowTracking) -> tuple[dg.AssetMaterialization | None, str]:
    """Let the version before serve again where there is a reason; return the event that shows it, and why (not)."""
    operation = plan_of(line).operation
    if not operation.rollback_below:
        return None, "its plan leaves that to people"
    registry = LineRegistry(tracking, line.name)
    champion, previous = registry.at(CHAMPION), registry.at(PREVIOUS)
    if champion is None or previous is None:
        return None, "there is no version to go back to"
    if TAKEN_BACK in previous.tags:
        return None, f"{previous.label} was taken back itself"
    db, limit = InspectionDatabase.from_environment(), operation.rollback_below
    said = agreement(db, line.name, champion.label)
    found = compare_versions(db, line.name, previous.label, champion.label)
    why = reason_to_take_back(said.agree, said.judged, limit, judged=found.judged, line=line.name)
    if operation.rollback_without_labels and not said.judged:
        same = found.live.both_ok + found.live.both_ng
        why = reason_to_take_back(same, found.live.images, limit, line=line.name, who=f"version {previous.number}")
    if not why:
        return None, f"people agree with {said.agree} of {said.judged} images of {champion.label}"
    serving = registry.roll_back(by=TAKEN_BACK_BY, why=why)
    told = f"{champion.label} was taken back. {why}"
    tell(line.name, "gate", told, subject=f"{champion.label} taken back", page=f"/lines/{line.name}/versions")
    move = Serving(line.name, champion.number, serving.number)
    return record_move(move, TAKEN_BACK_BY, "fallen_agreement", told), why


def _known_lines(context: dg.SensorEvaluationContext) -> list[Line]:
    known = set(context.instance.get_dynamic_partitions(LINES_PARTITION))
    return [line for line in Home.from_environment().lines() if line.name in known]
