"""Are the images and scores of late still those that the model was trained on?

Each measure of the recent images is compared with the same measure of the normal training images (brightness, contrast,
sharpness) or of the normal validation images (raw score), by two numbers: the two-sample Kolmogorov-Smirnov test, which
says whether a difference can be chance, and the population stability index (PSI), which says whether it is large.
Drift is reported only where both say so: with many images every difference is significant, and with few every
difference is large.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field

IMAGE_MEASURES = ("brightness", "contrast", "sharpness")
SCORE_MEASURE = "raw_score"
SIGNIFICANCE = 0.01
PSI_LIMIT = 0.2
"""Above 0.2 is the usual reading of 'the population has shifted'."""
FEWEST_IMAGES = 20


class MeasureDrift(BaseModel):
    """One measure, then and now."""

    model_config = ConfigDict(frozen=True)

    measure: str
    n_reference: int = Field(ge=0)
    n_recent: int = Field(ge=0)
    median_reference: float | None
    median_recent: float | None
    ks: float | None = Field(description="Largest distance of the two distribution functions, 0..1.")
    p_value: float | None = Field(description="Of the KS test.")
    psi: float | None = Field(description="Population stability index over ten quantile bins of the reference.")
    status: Literal["steady", "drifted", "too few images"]


class DriftReport(BaseModel):
    """All measures of a line."""

    model_config = ConfigDict(frozen=True)

    model_version: str
    measures: tuple[MeasureDrift, ...]

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of the measures that drifted."""
        return tuple(entry.measure for entry in self.measures if entry.status == "drifted")

    def table(self) -> pd.DataFrame:
        return pd.DataFrame([entry.model_dump() for entry in self.measures])

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "drift_report.json").write_text(self.model_dump_json(indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> DriftReport:
        return cls.model_validate(json.loads((folder / "drift_report.json").read_text(encoding="utf-8")))


def population_stability_index(reference: ArrayLike, recent: ArrayLike, bins: int = 10) -> float:
    """Return the PSI of two samples of shapes (N,) and (M,): the sum of (a - b) ln(a / b) over quantile bins.

    Empty bins count as half an image. 0 where the samples fill the bins alike.
    """
    old, new = np.asarray(reference, float), np.asarray(recent, float)
    inner = np.quantile(old, np.linspace(0, 1, bins + 1)[1:-1])
    # what lies outside the reference has bins of its own, so that another constant is seen too
    edges = np.unique([old.min(), *inner, np.nextafter(old.max(), np.inf)])
    bin_of = [np.searchsorted(edges, values, side="right") for values in (old, new)]
    counts = [np.bincount(places, minlength=len(edges) + 1) for places in bin_of]
    shares = [np.maximum(count, 0.5) / max(1, len(values)) for count, values in zip(counts, (old, new), strict=True)]
    return float(np.sum((shares[0] - shares[1]) * np.log(shares[0] / shares[1])))


def compare_measure(measure: str, reference: ArrayLike, recent: ArrayLike) -> MeasureDrift:
    """Compare one measure; missing and infinite values are left out."""
    from scipy.stats import ks_2samp

    old, new = np.asarray(reference, float), np.asarray(recent, float)
    old, new = old[np.isfinite(old)], new[np.isfinite(new)]
    known = {
        "measure": measure,
        "n_reference": len(old),
        "n_recent": len(new),
        "median_reference": float(np.median(old)) if len(old) else None,
        "median_recent": float(np.median(new)) if len(new) else None,
    }
    if min(len(old), len(new)) < FEWEST_IMAGES:
        return MeasureDrift(**known, ks=None, p_value=None, psi=None, status="too few images")
    test = ks_2samp(old, new)
    psi = population_stability_index(old, new)
    drifted = test.pvalue < SIGNIFICANCE and psi > PSI_LIMIT
    return MeasureDrift(
        **known,
        ks=float(test.statistic),
        p_value=float(test.pvalue),
        psi=psi,
        status="drifted" if drifted else "steady",
    )


def report_drift(
    *,
    model_version: str,
    reference_facts: pd.DataFrame,
    recent_facts: pd.DataFrame,
    reference_scores: ArrayLike,
    recent_scores: ArrayLike,
) -> DriftReport:
    """Compare images and scores of late with those of training.

    Args:
        model_version: the version whose scores are compared.
        reference_facts: brightness, contrast and sharpness of the normal training images, one row an image.
        recent_facts: the same of images of late.
        reference_scores: raw scores of the normal validation rows.
        recent_scores: raw scores of late, by the same model version. Most images of a line are normal, so a shift of
            the whole distribution shows whatever a few anomalous ones do.
    """
    measures = [
        compare_measure(name, reference_facts[name], recent_facts[name])
        for name in IMAGE_MEASURES
        if name in reference_facts and name in recent_facts
    ]
    measures.append(compare_measure(SCORE_MEASURE, reference_scores, recent_scores))
    return DriftReport(model_version=model_version, measures=tuple(measures))
