"""Charts that see a change in a stream of images: pure functions of a state of a few numbers and of one more image.

Each chart states how many unchanged images lie between two false alarms on average. That number is exact for the CUSUM
(its states are whole numbers) and for a normal measure of the EWMA; ``tests/monitoring`` holds both by simulation.

* ``Cusum`` counts decisions: the cumulative sum of log-likelihood ratios of Bernoulli trials, on a lattice so that its
  run length is known exactly (Reynolds and Stoumbos 1999, "A CUSUM chart for monitoring a proportion").
* ``Ewma`` follows measures: the exponentially weighted moving average (Roberts 1959), with limits that allow for what a
  reference of few images does not know.
* ``Places`` follows where the anomaly map stands out: the share of late images in which the same place does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

State = Mapping[str, Any]
"""Numbers of a chart, JSON-ready; empty at the start."""

CUSUM_FALSE_ALARM_IMAGES = 20_000
"""Unchanged images between two false alarms of the chart of decisions, on average."""
EWMA_FALSE_ALARM_IMAGES = 50_000
"""The same of each measure's chart, where the measure is normal and its reference is large."""
ODDS_RATIO = 3.0
"""The change that the chart of decisions is made for: three times the odds of NG."""
WEIGHT = 0.05
"""Share of the newest image in a moving average."""
EWMA_LIMIT = 4.1
"""Standard deviations of the moving average that are an alarm: what gives ``EWMA_FALSE_ALARM_IMAGES``."""
CLIP = 4.0
"""Robust standard deviations beyond which one image counts no further: a single odd one must not be an alarm."""
LEAST_REFERENCE = 10
"""Fewer images have no distribution worth speaking of."""
PLACE_WEIGHT, PLACE_LIMIT = 0.15, 0.6
"""Of ``Places``: a place is an alarm where it stood out in more than this share of the weighted late images; from
nothing, six in a row are."""
ENDS_AT = 0.5
"""An alarm ends when its chart has come back to this share of the limit."""
BEGAN_AT = 0.25
"""The change began when the chart was last within this share of the limit."""


@dataclass(frozen=True)
class Cusum:
    """Whether NG has become more frequent than ``usual``.

    Attributes:
        usual: share of NG that is usual, in 0..1, exclusive.
    """

    usual: float

    @cached_property
    def gain(self) -> int:
        """What one NG adds; an OK takes away 1, and the state never falls below 0."""
        raised = ODDS_RATIO * self.usual / (1 + (ODDS_RATIO - 1) * self.usual)
        return max(1, round(math.log(raised / self.usual) / math.log((1 - self.usual) / (1 - raised))))

    @cached_property
    def limit(self) -> int:
        """The state that is an alarm: the least that is reached falsely no more often than stated."""
        return _cusum_limit(self.usual, self.gain, CUSUM_FALSE_ALARM_IMAGES)

    def step(self, state: State, values: Sequence[float]) -> dict[str, Any]:
        """Return the state after one more image; ``values`` holds 1 for NG and 0 for OK.

        Beside the sum, images and NG since it was last 0 are counted: when the change began, as far as it can be told.
        """
        raised = int(state.get("sum", 0)) + (self.gain if values[0] else -1)
        if raised <= 0:
            return {"sum": 0, "ng": 0, "of": 0}
        counted = {"ng": state.get("ng", 0) + int(bool(values[0])), "of": state.get("of", 0) + 1}
        return {"sum": min(raised, self.limit), **counted}

    def level(self, state: State) -> float:
        """Return the state as a share of the limit; from 1 on it is an alarm."""
        return float(state.get("sum", 0)) / self.limit


@lru_cache(maxsize=256)
def _cusum_limit(usual: float, gain: int, images: int) -> int:
    low, high = gain, 2 * gain
    while mean_run_length(usual, gain, high) < images:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if mean_run_length(usual, gain, middle) < images else (low, middle)
    return high


def mean_run_length(share: float, gain: int, limit: int) -> float:
    """Return after how many images a ``Cusum`` reaches its limit on average, from 0, where ``share`` of them are NG.

    Each state's mean follows from those above it: E[s] = 1 + (1 - share) E[s - 1] + share E[s + gain], from the top
    down as a multiple of the unknown E[limit - 1], which the lowest state determines: E[-1] is E[0].
    """
    slope, constant = [0.0] * (limit + gain), [0.0] * (limit + gain)
    slope[limit - 1] = 1.0
    for state in range(limit - 1, 0, -1):
        slope[state - 1] = (slope[state] - share * slope[state + gain]) / (1 - share)
        constant[state - 1] = (constant[state] - 1 - share * constant[state + gain]) / (1 - share)
    # E[0] = 1 + (1 - share) E[0] + share E[gain]
    unknown = (1 + share * (constant[gain] - constant[0])) / (share * (slope[0] - slope[gain]))
    return slope[0] * unknown + constant[0]


@dataclass(frozen=True)
class Usual:
    """How one measure lies in the reference.

    Attributes:
        mean: of the values within ``CLIP`` robust deviations of the median.
        deviation: standard deviation of the same, at least what the measure's floor says.
        images: how many there were.
        low, high: values beyond count as these.
    """

    mean: float
    deviation: float
    images: int
    low: float
    high: float

    @classmethod
    def of(cls, values: npt.ArrayLike, least_deviation: float) -> Usual | None:
        """Learn it; None where there are too few finite values, or all are the same and no spread is allowed.

        Args:
            values: of the reference, shape (N,).
            least_deviation: a spread that is always allowed, in units of the measure.
        """
        known = np.asarray(values, dtype=float)
        known = known[np.isfinite(known)]
        if len(known) < LEAST_REFERENCE:
            return None
        median = float(np.median(known))
        spread = max(1.4826 * float(np.median(np.abs(known - median))), least_deviation)
        low, high = median - CLIP * spread, median + CLIP * spread
        kept = np.clip(known, low, high)
        deviation = max(float(kept.std(ddof=1)), least_deviation)
        return cls(float(kept.mean()), deviation, len(kept), low, high) if deviation > 0 else None

    @cached_property
    def limit(self) -> float:
        """How far the moving average may lie from the mean, in deviations.

        The mean of a small reference is itself uncertain (1 / images), and so is its deviation: it may be too small by
        chance, so the value is taken that is large enough in nine of ten references.
        """
        from scipy.stats import chi2

        free = self.images - 1
        unsure = math.sqrt(free / chi2.ppf(0.1, free))
        return EWMA_LIMIT * math.sqrt(WEIGHT / (2 - WEIGHT) + 1 / self.images) * unsure

    def deviations(self, value: float) -> float:
        """Return how many deviations a value lies above (+) or below (-) the mean."""
        return (min(max(value, self.low), self.high) - self.mean) / self.deviation


@dataclass(frozen=True)
class Ewma:
    """Whether the mean of one or several measures has moved.

    Attributes:
        usual: of each measure.
    """

    usual: tuple[Usual, ...]

    def step(self, state: State, values: Sequence[float]) -> dict[str, Any]:
        """Return the state after one more image; ``values`` has one number for each measure, in its own unit.

        What decides are deviations within ``CLIP``; beside them the plain differences are averaged, to tell a size.
        """
        found = [usual.deviations(value) for usual, value in zip(self.usual, values, strict=True)]
        moved = [value - usual.mean for usual, value in zip(self.usual, values, strict=True)]
        nothing = [0.0] * len(self.usual)
        return {
            "mean": _averaged(state.get("mean") or nothing, found),
            "moved": _averaged(state.get("moved") or nothing, moved),
        }

    def level(self, state: State) -> float:
        """Return the largest of the moving averages as a share of its limit; from 1 on it is an alarm."""
        means = state.get("mean") or [0.0] * len(self.usual)
        return max(abs(mean) / usual.limit for mean, usual in zip(means, self.usual, strict=True))

    def change(self, state: State, images: int) -> list[float]:
        """Return by how much each measure has moved, in its own unit, where it moved ``images`` images ago."""
        reached = 1 - (1 - WEIGHT) ** max(1, images)
        return [moved / reached for moved in state["moved"]]


def _averaged(before: Sequence[float], now: Sequence[float]) -> list[float]:
    return [old + WEIGHT * (new - old) for old, new in zip(before, now, strict=True)]


@dataclass(frozen=True)
class Places:
    """Whether the same place of the anomaly map stands out in most of the late images."""

    def step(self, state: State, values: Sequence[float]) -> dict[str, Any]:
        """Return the state after one more image; ``values`` holds the numbers of the places that stand out in it."""
        shares = {place: (1 - PLACE_WEIGHT) * share for place, share in (state.get("places") or {}).items()}
        for place in {str(int(value)) for value in values}:
            shares[place] = shares.get(place, 0.0) + PLACE_WEIGHT
        return {"places": {place: round(share, 4) for place, share in shares.items() if share > 0.01}}

    def level(self, state: State) -> float:
        """Return the share of the most conspicuous place as a share of the limit; from 1 on it is an alarm."""
        return max((state.get("places") or {}).values(), default=0.0) / PLACE_LIMIT


Chart = Cusum | Ewma | Places
