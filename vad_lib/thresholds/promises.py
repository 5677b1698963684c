"""Thresholds that promise something: a bound on false alarms, or the least expected cost."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


class FalseAlarmBudget(BaseModel):
    """At most so many false alarms, with this confidence."""

    model_config = ConfigDict(frozen=True)

    per_thousand: float = Field(gt=0, lt=1000, description="Normal images of a thousand that may be called NG.")
    confidence: float = Field(gt=0, lt=1, description="Share of validation sets of this size that keep the promise.")

    @property
    def normals_needed(self) -> int:
        """Normal validation images from which on the budget can be promised: (1 - rate)**n <= 1 - confidence.

        >>> FalseAlarmBudget(per_thousand=10, confidence=0.95).normals_needed
        299
        """
        return math.ceil(math.log1p(-self.confidence) / math.log1p(-self.per_thousand / 1000))

    def promised(self, n_normal: int) -> float:
        """Return the false alarms of a thousand that can be promised on so many normal images at best.

        Args:
            n_normal: at least 1.

        >>> round(FalseAlarmBudget(per_thousand=10, confidence=0.95).promised(40), 1)
        72.2
        """
        return 1000 * float(-math.expm1(math.log1p(-self.confidence) / n_normal))

    def in_words(self, n_normal: int) -> str:
        """Say what is promised where the threshold was learnt on so many normal images."""
        sure = f"With {self.confidence:.4g} confidence"
        if n_normal >= self.normals_needed:
            return (
                f"{sure} at most {self.per_thousand:g} of 1,000 normal images are called NG ({n_normal} normal "
                "validation images)."
            )
        return (
            f"The budget of {self.per_thousand:g} false alarms of 1,000 needs {self.normals_needed} normal validation "
            f"images, and there are {n_normal}: the threshold lies above all of them, and {sure[0].lower()}{sure[1:]} "
            f"at most {self.promised(n_normal):.3g} of 1,000 normal images are called NG."
        )

    def order_of_threshold(self, n_normal: int) -> int:
        """Return how many of the normal scores, the smallest ones, have to lie below the threshold.

        The share of all normal images above the j-th smallest of n scores has the distribution Beta(n - j + 1, j),
        whatever the scores are distributed like. S. S. Wilks, "Determination of sample sizes for setting tolerance
        limits", Annals of Mathematical Statistics 12, 1941. The smallest j is taken that keeps the promise, else n.
        """
        from scipy.stats import beta

        orders = np.arange(1, n_normal + 1)
        kept = beta.cdf(self.per_thousand / 1000, n_normal - orders + 1, orders) >= self.confidence
        return int(orders[kept][0]) if kept.any() else n_normal


class Costs(BaseModel):
    """What wrong decisions cost, in any one currency, and how many parts are defective."""

    model_config = ConfigDict(frozen=True)

    miss: float = Field(ge=0, allow_inf_nan=False, description="Of a defective part that is called OK.")
    false_alarm: float = Field(ge=0, allow_inf_nan=False, description="Of a good part that is called NG.")
    share_of_defects: float = Field(gt=0, lt=1, description="Of all parts that are made.")

    def of_thousand(
        self, missed: NDArray[np.int64], n_anomalous: int, alarms: NDArray[np.int64], n_normal: int
    ) -> NDArray[np.float64]:
        """Return the expected cost of 1,000 parts where so many of the validation images are judged wrongly."""
        of_misses = self.share_of_defects * self.miss * missed / n_anomalous
        of_alarms = (1 - self.share_of_defects) * self.false_alarm * alarms / n_normal
        cost: NDArray[np.float64] = 1000 * (of_misses + of_alarms)
        return cost
