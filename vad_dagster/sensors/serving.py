"""Who serves, as MLflow says it: a person may move the alias 'champion' there, and the asset's history shows it."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg

from vad_dagster.io_manager import store_folder
from vad_dagster.partitions import LINES_PARTITION
from vad_dagster.registry import CHAMPION, LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_dagster.values import ChampionRecord
from vad_lib.artifacts.publishing import publish_tree
from vad_lib.promotion import PromotionDecision

MOVED = "person: moved the alias in MLflow"


@dataclass(frozen=True)
class Serving:
    """What is recorded and what is so."""

    line: str
    recorded: str
    actual: str


def moved_aliases(servings: list[Serving]) -> list[Serving]:
    """Return the lines whose champion is another than the asset's record says.

    A line without an alias is left alone: nothing serves there, and the record is the last that did.

    >>> moved_aliases([Serving("a", "1", "2"), Serving("b", "1", "1"), Serving("c", "1", ""), Serving("d", "", "1")])
    [Serving(line='a', recorded='1', actual='2'), Serving(line='d', recorded='', actual='1')]
    """
    return [serving for serving in servings if serving.actual and serving.actual != serving.recorded]


def recorded_version(line: str) -> str:
    """Return the version that the asset's record names; empty where there is none."""
    folder = store_folder(line, "champion_model")
    return ChampionRecord.load(folder).version if folder.is_dir() else ""


def record_move(serving: Serving, by: str = MOVED, rule: str = "person", why: str = "") -> dg.AssetMaterialization:
    """Renew the record, and return the event that shows it in the asset's history."""
    reason = why or f"Version {serving.actual} serves since a person gave it the alias '{CHAMPION}' in MLflow."
    record = ChampionRecord(
        line=serving.line,
        version=serving.actual,
        previous_version=serving.recorded,
        decision=PromotionDecision(promote=True, rule=rule, reason=reason),
        by=by,
    )
    with publish_tree(store_folder(serving.line, "champion_model")) as folder:
        record.save(folder)
    return dg.AssetMaterialization(
        asset_key="champion_model",
        partition=serving.line,
        metadata={"serving version": int(serving.actual), "by": by, "why": reason},
    )


@dg.sensor(
    name="serving_versions",
    description="Records in champion_model when a person moved the alias 'champion' in MLflow.",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=60,
)
def serving_versions(context: dg.SensorEvaluationContext, tracking: MLflowTracking) -> dg.SensorResult:
    servings = []
    for line in sorted(context.instance.get_dynamic_partitions(LINES_PARTITION)):
        champion = LineRegistry(tracking, line).at(CHAMPION)
        servings.append(Serving(line, recorded_version(line), champion.number if champion else ""))
    events = [record_move(serving) for serving in moved_aliases(servings)]
    return dg.SensorResult(
        asset_events=events, skip_reason=None if events else f"The champions of {len(servings)} lines are as recorded."
    )
