"""Another threshold for a line, chosen by a person: a version with the same weights. Nothing is fitted."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import pandas as pd

from vad_dagster.io_manager import TABLE_FILE, store_folder
from vad_dagster.plans import refuse_where_never
from vad_dagster.promotions import serve_by_person
from vad_dagster.registry import MADE_FROM, SCORES_LIKE, LineRegistry, Version
from vad_dagster.resources import MLflowTracking
from vad_lib.artifacts.version_card import FILTERED_BY
from vad_lib.errors import InputError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import Actor
from vad_lib.lines import Home

FROM = "threshold_from"
"""Tag of a version whose threshold a person chose: the version that it was made from."""


def validation_scores_of(version: Version) -> pd.DataFrame:
    """Return ``tables.ValidationScores`` of a version, without a row where this machine has none of it.

    The last training on this machine left them. They hold for each version that gives the same scores.
    """
    file = store_folder(version.line, "validation_scores") / TABLE_FILE
    if not file.is_file():
        return pd.DataFrame(columns=["file", "label", "is_anomalous", "raw_score"])
    found = pd.read_parquet(file)
    alike = found.attrs.get("scores_like") and found.attrs["scores_like"] == version.tags.get(SCORES_LIKE)
    return found if alike else found.iloc[:0]


def save_threshold(
    db: InspectionDatabase, tracking: MLflowTracking, line: str, value: float, by: Actor, reason: str
) -> Version:
    """Let the model that serves go on with another threshold, as a version of its own that can be rolled back.

    Predictions that were made before stay as they are.

    Args:
        db: holds the audit.
        tracking: where versions are.
        line: whose champion.
        value: on the raw score; NG at or above it.
        by: who decides.
        reason: why.

    Raises:
        InputError: the line has no champion, the value is no number or the one in force, there is no reason, or the
            plan says ``promotion: never``.
    """
    from vad_lib.metrics import evaluate
    from vad_lib.models import InspectionModel
    from vad_lib.thresholds import DecisionRule, choose_threshold

    if not reason.strip():
        raise InputError("Say why the threshold is changed: others will ask.")
    if not math.isfinite(value):
        raise InputError(f"A threshold is a number on the raw score, not {value}.")
    of_home = Home.from_environment().line(line)
    if of_home.plan_file.is_file():
        refuse_where_never(of_home)
    registry = LineRegistry(tracking, line)
    champion = registry.champion()
    model = InspectionModel.load(registry.folder(champion))
    before = model.threshold.value
    if value == before:
        raise InputError(f"The threshold of {champion.label} is {value:g} already.")
    chosen = choose_threshold(value, model.threshold, f"{by.person}: {reason.strip()}")
    changed = model.with_threshold(chosen)
    rows, numbers = validation_scores_of(champion), {}
    if len(rows):
        predicted = DecisionRule(changed.calibration).judge(rows["raw_score"]).predicted
        judged = evaluate(rows["raw_score"], rows["is_anomalous"], predicted)
        numbers = {name: round(one, 6) for name, one in judged.headlines().items() if name in FILTERED_BY}
    kept = {name: one for name, one in champion.tags.items() if name not in (MADE_FROM, "promoted_by", *FILTERED_BY)}
    tags = {**kept, **numbers, "threshold": value, "threshold_method": chosen.method, FROM: champion.label}
    trained = tracking.connect().get_run(champion.run_id).data.tags.get("mlflow.parentRunId", champion.run_id)
    described = (
        f"**{champion.label}** with the threshold {value:.6g} instead of {before:.6g}, chosen by {by.person}: "
        f"{reason.strip()}\n\nNothing was fitted."
    )
    with tempfile.TemporaryDirectory(prefix="vad_threshold_") as work:
        folder = Path(work) / "inspection_model"
        changed.save(folder)
        with tracking.run(line, name=f"threshold of {champion.label}", parent_run_id=trained) as run:
            run.describe(described)
            version = registry.register(folder, run_id=run.run_id, tags=tags, description=described, example_image=None)
    return serve_by_person(db, registry, version, by, reason, "threshold", {"from": before, "to": value})
