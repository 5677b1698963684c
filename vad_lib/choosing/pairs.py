"""Whether two detectors differ on the same images, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vad_lib.choosing.cross_validation import CrossValidated
from vad_lib.paired_tests import delong, mcnemar

SHOWN = 0.05
"""Probability of so large a difference by chance alone below which it counts as shown."""
DEVIATE = 1.96


@dataclass(frozen=True)
class Difference:
    """Two detectors on the same images.

    Attributes:
        first: name.
        second: name.
        difference: AUROC of the first minus that of the second.
        low: lower end of its interval (95 %).
        high: upper end.
        p_scores: DeLong's probability of so large a difference of the AUROC by chance.
        only_first: images that only the first judges rightly.
        only_second: images that only the second judges rightly.
        p_decisions: McNemar's probability of so uneven numbers by chance.
        n_normal: images.
        n_anomalous: images.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    p_scores: float
    only_first: int
    only_second: int
    p_decisions: float
    n_normal: int
    n_anomalous: int

    @property
    def is_shown(self) -> bool:
        """Whether the scores differ by more than chance explains."""
        return self.p_scores < SHOWN

    @property
    def times_more(self) -> float:
        """How many times as many images would show a difference of this size; infinite where there is none."""
        half = (self.high - self.low) / 2
        return math.inf if not self.difference else (half / abs(self.difference)) ** 2

    def in_words(self) -> str:
        """Say whether a difference is shown, and what would show it."""
        better, other = (self.first, self.second) if self.difference >= 0 else (self.second, self.first)
        told = f"AUROC of {better} minus that of {other}: {abs(self.difference):.3f} "
        ends = sorted((self.low, self.high) if self.difference >= 0 else (-self.low, -self.high))
        told += f"({ends[0]:.3f} to {ends[1]:.3f}, p {self.p_scores:.2g}). "
        n = f"{self.n_normal} normal and {self.n_anomalous} defective images"
        if self.is_shown:
            told += f"{better} is better on these images ({n})."
        else:
            told += f"No difference can be shown with {n}"
            told += (
                f"; about {math.ceil(self.times_more * self.n_anomalous)} defective and "
                f"{math.ceil(self.times_more * self.n_normal)} normal ones would show one of this size."
                if 1 < self.times_more < 1000
                else "."
            )
        return told + (
            f" Decisions: only {self.first} is right on {self.only_first} images, only {self.second} on "
            f"{self.only_second} (p {self.p_decisions:.2g})."
        )


def difference_of(first: CrossValidated, second: CrossValidated) -> Difference:
    """Compare two detectors that ran on the same rows."""
    rows = first.rows.merge(second.rows, on="row", suffixes=("", "_other"))
    flags = rows["is_anomalous"].to_numpy(bool)
    scores = delong(flags, rows["raw_score"].to_numpy(float), rows["raw_score_other"].to_numpy(float))
    right = (rows["predicted"] == "NG").to_numpy() == flags
    right_other = (rows["predicted_other"] == "NG").to_numpy() == flags
    only_first, only_second = int((right & ~right_other).sum()), int((~right & right_other).sum())
    return Difference(
        first.name,
        second.name,
        *(scores.difference, scores.low, scores.high, scores.p),
        *(only_first, only_second, mcnemar(only_first, only_second)),
        n_normal=int(np.sum(~flags)),
        n_anomalous=int(np.sum(flags)),
    )
