"""Whether two ways of scoring decide alike: the same images through both, each difference counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from vad_lib.thresholds import Calibration, DecisionRule

LIMIT = 1e-4
"""Largest relative difference of a score that counts as the same arithmetic in another order."""


class ParityReport(BaseModel):
    """What was compared, and how far it lay apart.

    A difference is relative to the score or to the threshold, whichever is larger in magnitude: near a score of nothing
    every rounding would be a large part of it.
    """

    model_config = ConfigDict(frozen=True)

    images: int = Field(ge=0, description="Scored by both.")
    max_difference: float = Field(ge=0, description="Largest absolute difference of a raw score.")
    max_relative_difference: float = Field(ge=0, description="See above.")
    limit: float = Field(default=LIMIT, description="On the relative difference.")
    flipped: tuple[str, ...] = Field(default=(), description="Images that are decided differently; must be none.")
    disagreements: tuple[str, ...] = Field(default=(), description="Images that only one of the two could score.")

    @property
    def passed(self) -> bool:
        """True where every label is the same and every score within the limit."""
        same = not self.flipped and not self.disagreements
        return same and self.images > 0 and self.max_relative_difference <= self.limit

    def in_words(self) -> str:
        """Say it in one sentence."""
        if not self.images:
            return "No image could be compared."
        text = f"{self.images} images: largest relative difference of a score {self.max_relative_difference:.1e}"
        text += f" (limit {self.limit:.0e}), {len(self.flipped) or 'no'} label{'s' * (len(self.flipped) != 1)} flipped"
        return text + (f", {len(self.disagreements)} scored by one side only." if self.disagreements else ".")


def compare(
    names: Sequence[str],
    ours: Sequence[float | None],
    theirs: Sequence[float | None],
    calibration: Calibration,
    inference_threshold: float = 0.5,
) -> ParityReport:
    """Compare raw scores of the same images; None stands for an image that could not be scored.

    Args:
        names: of the images.
        ours: the reference.
        theirs: the other way.
        calibration: from raw score to p.
        inference_threshold: on p.
    """
    both = [k for k, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a is not None and b is not None]
    one = [names[k] for k, (a, b) in enumerate(zip(ours, theirs, strict=True)) if (a is None) != (b is None)]
    a = np.array([ours[k] for k in both], np.float64)
    b = np.array([theirs[k] for k in both], np.float64)
    rule = DecisionRule(calibration, inference_threshold)
    flips = rule.judge(a).predicted != rule.judge(b).predicted
    difference = np.abs(a - b)
    scale = np.maximum(np.abs(a), abs(calibration.threshold))
    relative = np.divide(difference, scale, out=np.where(difference > 0, np.inf, 0.0), where=scale > 0)
    return ParityReport(
        images=len(both),
        max_difference=float(difference.max(initial=0.0)),
        max_relative_difference=float(min(relative.max(initial=0.0), 1e300)),
        flipped=tuple(names[k] for k, flip in zip(both, flips, strict=True) if flip),
        disagreements=tuple(one),
    )
