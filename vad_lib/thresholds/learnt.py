"""The threshold of a model version with all that belongs to it: calibration, sweep, and the decisions it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vad_lib.json_record import JsonRecord
from vad_lib.tables import ValidationScores
from vad_lib.thresholds.calibration import Calibration, learn_calibration
from vad_lib.thresholds.decision import DecisionRule
from vad_lib.thresholds.learning import (
    choose_threshold,
    fixed_threshold,
    learn_threshold,
    threshold_of_inspected,
)
from vad_lib.thresholds.records import LearningRule, Threshold
from vad_lib.thresholds.table import threshold_table

TABLE_FILE = "threshold_table.parquet"


class _Learnt(JsonRecord):
    threshold: Threshold
    calibration: Calibration


@dataclass(frozen=True)
class LearntThreshold:
    """The threshold in force, its calibration, and the sweep that it was picked from (``tables.ThresholdTable``)."""

    threshold: Threshold
    calibration: Calibration
    table: pd.DataFrame

    @classmethod
    def learn(
        cls,
        scores: pd.DataFrame,
        rule: LearningRule,
        *,
        chosen: float | None = None,
        note: str = "",
    ) -> LearntThreshold:
        """Learn from validation scores.

        Args:
            scores: ``tables.ValidationScores``.
            rule: see `learn_threshold`.
            chosen: a threshold on the raw score that a person chose instead.
            note: why it was chosen.

        Raises:
            ValueError: there are no rows, or a score or an argument is out of its range.
        """
        raw, flags = scores["raw_score"], scores["is_anomalous"]
        threshold = learn_threshold(raw, flags, rule)
        if chosen is not None:
            threshold = choose_threshold(chosen, threshold, note)
        calibration = learn_calibration(raw, flags, threshold)
        return cls(threshold, calibration, threshold_table(raw, flags, threshold, calibration))

    @classmethod
    def without_rows(
        cls,
        fixed: float,
        inspected: Sequence[float],
        percentile: float,
        *,
        chosen: float | None = None,
        note: str = "",
    ) -> LearntThreshold:
        """Make the threshold of a line without validation rows.

        Args:
            fixed: a probability, the detector's own threshold.
            inspected: raw scores of the first images that the line inspected; none takes ``fixed``.
            percentile: the quantile of these.
            chosen: a threshold on the raw score that a person chose instead.
            note: why it was chosen.
        """
        threshold = threshold_of_inspected(inspected, percentile) if len(inspected) else fixed_threshold(fixed)
        if chosen is not None:
            threshold = choose_threshold(chosen, threshold, note)
        # without any score, the ends of a probability stand for what is sure
        scores, flags = (inspected, [False] * len(inspected)) if len(inspected) else ([0.0, 1.0], [False, True])
        calibration = learn_calibration(scores, flags, threshold)
        return cls(threshold, calibration, threshold_table([], [], threshold, calibration))

    def judged(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Return ``tables.ValidationScores`` with the columns p, certainty and predicted."""
        rows = ValidationScores.validate(scores).reset_index(drop=True)
        return rows.assign(**DecisionRule(self.calibration).judge(rows["raw_score"])._asdict())

    def around_chosen(self, rows: int = 5) -> pd.DataFrame:
        """Return the chosen row of the table and up to ``rows`` neighbours on each side."""
        place = int(self.table["chosen"].to_numpy().argmax())
        return self.table.iloc[max(0, place - rows) : place + rows + 1]

    def save(self, folder: Path) -> None:
        _Learnt(threshold=self.threshold, calibration=self.calibration).save(folder)
        self.table.to_parquet(folder / TABLE_FILE, index=False)

    @classmethod
    def load(cls, folder: Path) -> LearntThreshold:
        record = _Learnt.load(folder)
        return cls(record.threshold, record.calibration, pd.read_parquet(folder / TABLE_FILE))
