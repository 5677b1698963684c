"""The calibrated score p: what people see, what `inference_threshold` cuts, what certainty is computed from.

A min-max scaling clipped to 0..1 would call everything beyond the validation scores 1 and their certainty complete. A
logistic curve saturates in floating point at some forty scales. So the curve here has heavy tails, ::

    z = (raw - threshold) / scale        p = 1/2 + (1/2 - m) * z / (1 + |z|) + step * (rank(raw) - rank(threshold))

where ``rank`` numbers the float32 values in their order. The last term is at most 4e-6 and keeps any two float32 scores
apart, where rounding in the first would make them equal: very far from the threshold, or both very near to zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from vad_lib.thresholds.records import ABOVE_ALL_SCORES, LARGEST_SCORE, Threshold, as_flags, as_scores, to_float32

# Rounding in the smooth term is below 3e-16 a value; neighbours must differ by more than twice that.
_STEP = 2.0**-50
# All 2**32 ranks together move p by less than 2**-18; the smooth term leaves four times that free at each end.
_MARGIN = 2.0**-16
# Spreads below this share of the threshold's magnitude are noise of float32 arithmetic, not knowledge.
_LEAST_RELATIVE_SCALE = 1e-4
# Without any spread to learn from, twice the threshold is called fairly certain (p .98), a tenth above it is not.
_UNKNOWN_RELATIVE_SCALE = 0.05


class Calibration(BaseModel):
    """p of a raw score: in (0, 1), increasing, strictly so between distinct float32 scores, 0.5 at the threshold."""

    model_config = ConfigDict(frozen=True)

    threshold: float = Field(
        ge=-LARGEST_SCORE, le=ABOVE_ALL_SCORES, allow_inf_nan=False, description="Raw score where p is 0.5."
    )
    scale: float = Field(
        gt=1e-60, le=LARGEST_SCORE, description="Distance from the threshold at which p is 0.25 and 0.75."
    )

    def __call__(self, raw_scores: ArrayLike) -> NDArray[np.float64]:
        """Return p for raw scores of any shape.

        Scores are rounded to float32 (finite ones beyond its range to its ends); the comparison with the threshold is
        made before rounding, so ``p >= 0.5`` exactly where ``raw >= threshold``.

        Raises:
            ValueError: a score is infinite or missing.
        """
        given = np.asarray(raw_scores, dtype=np.float64)
        raw = to_float32(given)
        z = (raw - self.threshold) / self.scale
        ranks = _rank(raw) - _rank(to_float32(self.threshold))
        p = 0.5 + (0.5 - _MARGIN) * (z / (1 + np.abs(z))) + _STEP * ranks
        p = np.where(given < self.threshold, np.minimum(p, np.nextafter(0.5, 0)), p)
        p = np.where(given > self.threshold, np.maximum(p, np.nextafter(0.5, 1)), p)
        return np.where(given == self.threshold, 0.5, p)

    def inverse(self, p: float) -> float:
        """Return the raw score from which on the calibrated score is at least ``p``.

        That is the threshold itself at 0.5, else the smallest such float32 score: ``raw >= inverse(p)`` exactly where
        ``self(raw) >= p``. Where every score is at least ``p`` the answer is -inf, where none is, +inf.
        """
        if np.isnan(p):
            raise ValueError("p is missing")
        if p == 0.5:
            return self.threshold
        low, high = int(_rank(-LARGEST_SCORE)), int(_rank(LARGEST_SCORE))
        if self._at(low) >= p:
            return float("-inf")
        if self._at(high) < p:
            return float("inf")
        while high - low > 1:  # 32 halvings of the ranks; self(low) < p <= self(high) throughout
            middle = (low + high) // 2
            low, high = (low, middle) if self._at(middle) >= p else (middle, high)
        return float(_unrank(high))

    def moved_to(self, threshold: float) -> Calibration:
        """Return the same curve about another threshold."""
        return Calibration(threshold=threshold, scale=self.scale)

    def belongs_to(self, threshold: Threshold) -> bool:
        """Return whether p is 0.5 at this threshold."""
        return self.threshold == _within_reach(threshold)

    def _at(self, rank: int) -> float:
        return float(self(float(_unrank(rank))))


def learn_calibration(scores: ArrayLike, is_anomalous: ArrayLike, threshold: Threshold) -> Calibration:
    """Learn the scale from validation rows: a quarter of the median distance of a score from the threshold.

    A typical row then has p .1 or .9 (certainty .53). A median is not moved by a few extreme scores. Scores
    that are all equal (one image, constant scores; anything within 1e-4 of the threshold's magnitude) have no spread to
    learn from: the scale is then a twentieth of that magnitude, so that no other image is called certain for nothing.

    Args:
        scores: raw scores, shape (N,), N >= 1.
        is_anomalous: true labels, shape (N,). The median is taken within each class and the two are averaged, so that
            many normal rows do not outvote few anomalous ones.
        threshold: the learnt threshold.
    """
    values = as_scores(scores)
    flags = as_flags(is_anomalous, len(values))
    if not len(values):
        raise ValueError("no validation score to learn a calibration from")
    distance = np.abs(values - threshold.value)
    medians = [float(np.median(distance[rows])) for rows in (~flags, flags) if rows.any()]
    scale = sum(medians) / len(medians) / 4
    magnitude = abs(threshold.value) or 1.0
    if scale < _LEAST_RELATIVE_SCALE * magnitude:
        scale = _UNKNOWN_RELATIVE_SCALE * magnitude
    scale = min(max(scale, 1e-45), LARGEST_SCORE)
    return Calibration(threshold=_within_reach(threshold), scale=scale)


def _within_reach(threshold: Threshold) -> float:
    """Return the threshold, moved to the nearest that still tells all float32 scores apart."""
    return float(np.clip(threshold.value, -LARGEST_SCORE, ABOVE_ALL_SCORES))


def _rank(raw: ArrayLike) -> NDArray[np.int64]:
    """Number the float32 values in increasing order; -0.0 and 0.0 are one value, of rank 0."""
    bits = np.asarray(raw, dtype=np.float32).view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits + 2**31))


def _unrank(rank: int) -> np.float32:
    return np.float32(np.int32(abs(rank)).view(np.float32) * (1 if rank >= 0 else -1))
