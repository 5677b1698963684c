"""From raw scores to decisions: the learnt threshold, the calibrated score p, the decision rule, the sweep table.

Everything here is numbers: no image, no detector, no file but the graph. A detector's raw score is a float32, larger
is more anomalous. ``DecisionRule(calibration, inference_threshold).judge(raw_scores)`` gives p, certainty and OK or NG,
and no other module compares a score with a threshold.
"""

from __future__ import annotations

from vad_lib.thresholds.calibration import Calibration, learn_calibration
from vad_lib.thresholds.decision import DecisionRule, Judged, certainty, decide
from vad_lib.thresholds.graph import plot_threshold_table
from vad_lib.thresholds.learning import choose_threshold, learn_threshold
from vad_lib.thresholds.learnt import LearntThreshold
from vad_lib.thresholds.promises import Costs, FalseAlarmBudget
from vad_lib.thresholds.records import (
    LearningRule,
    LearntMethod,
    Threshold,
    ThresholdMethod,
    as_flags,
    as_scores,
    rows_digest,
)
from vad_lib.thresholds.table import threshold_table

__all__ = [
    "Calibration",
    "Costs",
    "DecisionRule",
    "FalseAlarmBudget",
    "Judged",
    "LearningRule",
    "LearntMethod",
    "LearntThreshold",
    "Threshold",
    "ThresholdMethod",
    "as_flags",
    "as_scores",
    "certainty",
    "choose_threshold",
    "decide",
    "learn_calibration",
    "learn_threshold",
    "plot_threshold_table",
    "rows_digest",
    "threshold_table",
]
