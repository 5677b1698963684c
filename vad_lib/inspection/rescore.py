"""Decide old predictions anew under another threshold. No model is needed: raw scores are stored."""

from __future__ import annotations

import pandas as pd

from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.thresholds import Calibration, DecisionRule, Threshold


def rescore_predictions(
    db: InspectionDatabase,
    line: str,
    *,
    model_version: str,
    threshold: Threshold,
    calibration: Calibration,
    inference_threshold: float = 0.5,
) -> pd.DataFrame:
    """Return what the recorded predictions of a model version would be under another threshold.

    Nothing is written: a recorded prediction is what the line acted on.

    Args:
        db: the inspection database.
        line: name of the line.
        model_version: raw scores of different versions cannot be compared, so one is wanted.
        threshold: on the raw score.
        calibration: of the model version; it is moved to ``threshold``.
        inference_threshold: on p.

    Returns:
        One row a prediction in order of recording: prediction_id, path, sha256, raw_score, p, certainty, predicted,
        predicted_before, changed (bool), threshold_version.
    """
    recorded = db.predictions(line, model_version=model_version)
    moved = calibration if calibration.threshold == threshold.value else calibration.moved_to(threshold.value)
    judged = DecisionRule(moved, inference_threshold).judge(recorded["raw_score"].to_numpy(dtype=float))
    return pd.DataFrame(
        {
            "prediction_id": recorded["prediction_id"],
            "path": recorded["path"],
            "sha256": recorded["sha256"],
            "raw_score": recorded["raw_score"],
            "p": judged.p,
            "certainty": judged.certainty,
            "predicted": judged.predicted,
            "predicted_before": recorded["predicted"],
            "changed": judged.predicted != recorded["predicted"].to_numpy(),
            "threshold_version": threshold.version,
        }
    )
