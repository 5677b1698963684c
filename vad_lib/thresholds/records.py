"""The learnt threshold as a value: what it is, how it was found, on which rows, and its version."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, computed_field

from vad_lib.thresholds.promises import Costs, FalseAlarmBudget

LearntMethod = Literal["F1", "Percentile", "FalseAlarmRate", "Cost"]
ThresholdMethod = Literal["F1", "Percentile", "FalseAlarmRate", "Cost", "chosen", "Fixed", "FirstInspected"]

LARGEST_SCORE = float(np.finfo(np.float32).max)
ABOVE_ALL_SCORES = float(np.nextafter(LARGEST_SCORE, np.inf))
"""A threshold that no float32 score reaches. It is a float64 number, as all thresholds are."""


class LearningRule(BaseModel):
    """How a threshold is learnt from validation rows; see `vad_lib.thresholds.learn_threshold`."""

    model_config = ConfigDict(frozen=True)

    method: LearntMethod = "F1"
    percentile: float = Field(default=0.8, description="Of ``Percentile``: a quantile, in 0..1.")
    budget: FalseAlarmBudget = Field(
        default=FalseAlarmBudget(per_thousand=10, confidence=0.95), description="Of ``FalseAlarmRate``."
    )
    costs: Costs = Field(default=Costs(miss=100, false_alarm=1, share_of_defects=0.01), description="Of ``Cost``.")


class Threshold(BaseModel):
    """A threshold on the raw score: NG if and only if ``raw_score >= value``.

    Two thresholds with equal contents have equal versions, whenever they were made.
    """

    model_config = ConfigDict(frozen=True)

    value: float = Field(allow_inf_nan=False, description="On the raw score.")
    method: ThresholdMethod = Field(
        description="How it was found. 'chosen' means by a person, 'Fixed' by the detector, which needs no images, and "
        "'FirstInspected' the quantile of the first images that the line inspected, which nobody has labelled."
    )
    percentile: float | None = Field(default=None, ge=0, le=1, description="The quantile, where the method takes one.")
    rule: LearningRule | None = Field(default=None, description="How it was learnt; None where it was not.")
    n_normal: int = Field(ge=0, description="Normal rows that it was learnt on.")
    n_anomalous: int = Field(ge=0, description="Anomalous rows that it was learnt on.")
    rows_digest: str = Field(description="sha256 of the scores and labels of those rows, in any order.")
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    note: str = Field(default="", description="Why this value, in words; empty where nothing is unusual.")

    @computed_field(description="Short sha256 of the contents, created_at left out.")  # type: ignore[prop-decorator]
    @property
    def version(self) -> str:
        contents: dict[str, Any] = self.model_dump(mode="json", exclude={"version", "created_at"})
        return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:12]


def as_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """Return raw scores as float64 holding float32 values, shape (N,).

    Detectors score in float32; rounding here means that no later step can see two scores as different that an exported
    model would see as equal.

    Raises:
        ValueError: the scores are not one-dimensional, or one is infinite, missing or beyond float32.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"scores must be one-dimensional, not of shape {values.shape}")
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    bad = ~np.isfinite(rounded)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{int(bad.sum())} of {len(values)} scores are not finite float32 numbers, the first at position {first} "
            f"({values[first]}): the detector is broken or its input was; look at the images of these rows"
        )
    return rounded.astype(np.float64)


def to_float32(raw_scores: ArrayLike) -> NDArray[np.float64]:
    """Return finite scores of any shape as float64 holding float32 values; those beyond float32 become its ends.

    Raises:
        ValueError: a score is infinite or missing.
    """
    values = np.asarray(raw_scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a raw score is infinite or missing: it has no calibrated score")
    return np.clip(values, -LARGEST_SCORE, LARGEST_SCORE).astype(np.float32).astype(np.float64)


def as_flags(is_anomalous: ArrayLike, length: int) -> NDArray[np.bool_]:
    """Return the labels as booleans, shape (``length``,).

    Raises:
        ValueError: another length, or a value that is neither true nor false (a missing label).
    """
    flags = np.asarray(is_anomalous)
    if flags.shape != (length,):
        raise ValueError(f"{length} scores, but labels of shape {flags.shape}")
    if flags.dtype != np.bool_:
        # A missing value is an object (pandas' NA) or a NaN: neither may become True by conversion.
        known = np.array([isinstance(flag, Real | np.bool_) and flag in (0, 1) for flag in flags], bool)
        if not known.all():
            first = int(np.flatnonzero(~known)[0])
            raise ValueError(f"label at position {first} is {flags[first]!r}, which is neither true nor false")
        flags = flags.astype(bool)
    return flags


def rows_digest(scores: NDArray[np.float64], flags: NDArray[np.bool_]) -> str:
    """Return a sha256 of rows of (score, label) that does not depend on their order."""
    order = np.lexsort((flags, scores))
    content = scores[order].astype("<f8").tobytes() + flags[order].astype("u1").tobytes()
    return hashlib.sha256(content).hexdigest()
