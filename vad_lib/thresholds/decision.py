"""The one decision: which raw scores are NG, with the calibrated score and the certainty that people see beside it.

Validation, inspection, re-scoring, reports, export and the served model all ask a `DecisionRule`. It decides on the raw
score; the calibrated score p is a curve for people and the scale on which an operator moves the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vad_lib.tables import NG, OK
from vad_lib.thresholds.calibration import Calibration
from vad_lib.thresholds.records import to_float32


class Judged(NamedTuple):
    """What a rule says of N raw scores; each array has the shape (N,)."""

    p: NDArray[np.float64]
    """Calibrated scores in (0, 1), 0.5 exactly at the trained threshold."""
    certainty: NDArray[np.float64]
    """1 - H2(p), in 0..1."""
    predicted: NDArray[np.str_]
    """'OK' or 'NG'."""


@dataclass(frozen=True)
class DecisionRule:
    """An image is NG if and only if its raw score is at least ``raw_threshold``.

    Args:
        calibration: of the model version.
        inference_threshold: on p, in 0..1; 0.5 is the trained threshold, 0 makes everything NG and 1 everything OK.

    Attributes:
        raw_threshold: the raw score that ``inference_threshold`` stands for. It is found once, exactly: a float32 score
            is at least ``raw_threshold`` where its p is at least ``inference_threshold``, and nowhere else. It is -inf
            where everything is NG, and +inf where nothing is.

    Raises:
        ValueError: ``inference_threshold`` is not in 0..1.

    >>> rule = DecisionRule(Calibration(threshold=2.0, scale=0.5))
    >>> rule.raw_threshold, rule.judge([1.0, 2.0, 3.0]).predicted.tolist()
    (2.0, ['OK', 'NG', 'NG'])
    """

    calibration: Calibration
    inference_threshold: float = 0.5
    raw_threshold: float = field(init=False)

    def __post_init__(self) -> None:
        _refuse_nonsense(self.inference_threshold)
        object.__setattr__(self, "raw_threshold", self.calibration.inverse(self.inference_threshold))

    def judge(self, raw_scores: ArrayLike) -> Judged:
        """Return p, certainty and decision of raw scores, shape (N,).

        Scores are rounded to float32 first, as a detector gives them, so that p and the decision always agree.

        Raises:
            ValueError: a score is infinite or missing.
        """
        raw = to_float32(raw_scores)
        p = self.calibration(raw)
        return Judged(p, certainty(p), np.where(raw >= self.raw_threshold, NG, OK))


def decide(p: ArrayLike, inference_threshold: float = 0.5) -> NDArray[np.str_]:
    """Return 'NG' where the calibrated score ``p`` is at least ``inference_threshold``, else 'OK'.

    `DecisionRule.judge` decides alike from raw scores; this is for places that still hold p only.

    Raises:
        ValueError: a score is missing, or the threshold is not in 0..1.
    """
    _refuse_nonsense(inference_threshold)
    values = np.asarray(p, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("cannot decide on a missing score")
    return np.where(values >= inference_threshold, NG, OK)


def certainty(p: ArrayLike) -> NDArray[np.float64]:
    """Return 1 - H2(p): one minus the Shannon entropy, base 2, of the distribution (p, 1 - p); in 0..1.

    >>> certainty([0.5, 0.9, 1.0]).round(3).tolist()
    [0.0, 0.531, 1.0]
    """
    from scipy.special import entr

    values = np.asarray(p, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p must lie between 0 and 1")
    result: NDArray[np.float64] = np.clip(1 - (entr(values) + entr(1 - values)) / np.log(2), 0, 1)
    return result


def _refuse_nonsense(inference_threshold: float) -> None:
    if not 0 <= inference_threshold <= 1:
        raise ValueError(
            f"inference_threshold is {inference_threshold}: it is on the calibrated score, between 0 and 1"
        )
