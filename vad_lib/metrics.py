"""Performance numbers: of decisions, and of image scores.

A number that is undefined (no anomalous row, nothing predicted NG) is None, never 0 or 1: a line without defects has
no recall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from vad_lib.tables import NG, OK
from vad_lib.thresholds import as_flags, as_scores

HEADLINES = {
    "image_auroc": "image AUROC",
    "f1": "F1",
    "recall": "recall",
    "precision": "precision",
    "accuracy": "accuracy",
    "fn": "misses",
    "fp": "false alarms",
    "tp": "defects found",
    "tn": "rightly OK",
}
"""Numbers of an evaluation that people compare by, and what they are called."""

HARDLY_ABOVE = 0.05
"""An F1 that is not this much above that of calling everything NG is nothing to rely on."""


class Evaluation(BaseModel):
    """Performance of decisions on labelled rows; the anomalous class is the positive one."""

    model_config = ConfigDict(frozen=True)

    n: int = Field(ge=0, description="Rows.")
    tp: int = Field(ge=0, description="Anomalous and NG.")
    fp: int = Field(ge=0, description="Normal and NG: false alarms.")
    tn: int = Field(ge=0, description="Normal and OK.")
    fn: int = Field(ge=0, description="Anomalous and OK: misses.")
    accuracy: float | None = Field(ge=0, le=1)
    precision: float | None = Field(ge=0, le=1, description="None where nothing is NG.")
    recall: float | None = Field(ge=0, le=1, description="None without anomalous rows.")
    f1: float | None = Field(ge=0, le=1, description="None without anomalous rows.")
    false_alarm_rate: float | None = Field(ge=0, le=1, description="fp / (fp + tn); None without normal rows.")
    miss_rate: float | None = Field(ge=0, le=1, description="fn / (fn + tp); None without anomalous rows.")
    image_auroc: float | None = Field(ge=0, le=1, description="Of the scores; None unless both classes are there.")
    average_precision: float | None = Field(ge=0, le=1, description="Of the scores; None unless both classes.")

    @property
    def has_anomalous(self) -> bool:
        return self.tp + self.fn > 0

    def defined(self) -> dict[str, Any]:
        """Return the defined numbers by name; without rows no miss and no false alarm was counted, so none is told."""
        return self.model_dump(exclude_none=True) if self.n else {"n": 0}

    def numbers(self) -> dict[str, float]:
        """Return the defined numbers by name as floats, for trackers."""
        return {name: float(value) for name, value in self.defined().items()}

    def headlines(self) -> dict[str, float]:
        """Return those of the defined numbers that people compare by, the most telling first; counts are whole."""
        numbers = self.defined()
        return {name: numbers[name] for name in HEADLINES if name in numbers}

    def in_words(self) -> str:
        """Say it in a sentence for those who do not read metrics."""
        if not self.n:
            return "No image was validated, so nothing is known yet about misses and false alarms."
        normal, anomalous = self.tn + self.fp, self.tp + self.fn
        alarms = f"{self.fp} of {normal} normal images would be false alarms."
        if normal:
            low, high = (round(100 * share) for share in interval(self.fp, normal))
            alarms += (
                f" Of 100 good parts expect about {100 * self.fp / normal:.0f} false alarms (between {low} and {high}, "
                "at 95 % confidence)."
            )
        if not anomalous:
            return f"{alarms} No anomalous image was validated, so nothing is known about what it finds."
        return f"{self.tp} of {anomalous} anomalous images are found, {self.fn} missed; {alarms}"

    def warning(self) -> str:
        """Say where a good-looking F1 tells nothing: calling every image NG is hardly worse. Empty where it does."""
        anomalous, normal = self.tp + self.fn, self.tn + self.fp
        if self.f1 is None or not normal:
            return ""
        everything = 2 * anomalous / (2 * anomalous + normal)
        if self.f1 > everything + HARDLY_ABOVE:
            return ""
        return (
            f"The F1 of {self.f1:.3f} is hardly above {everything:.3f}, which calling every image NG would give: this "
            "model does not tell normal from anomalous. Look at the images and labels, and at the backbone's weights."
        )


def interval(count: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share: between which shares the true one lies.

    Args:
        count: in 0..``of``.
        of: at least 1.
        confidence: in 0..1.

    >>> [round(share, 3) for share in interval(0, 30)]
    [0.0, 0.116]
    """
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, count, of - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - tail, count + 1, of - count)) if count < of else 1.0
    return low, high


def auroc_interval(area: float, n_normal: int, n_anomalous: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return between which values the true area under the ROC curve lies, where ``area`` was found on so many images.

    The ends are the areas from which the one found is as far as a normal deviate allows, with the variance that they
    themselves would have: so the interval of an area of 1 has a width too. R. Newcombe, "Confidence intervals for an
    effect size measure based on the Mann-Whitney statistic, part 2", Statistics in Medicine 25, 2006, method 5.

    Returns:
        The low end and the high end, each in 0..1.

    >>> [round(end, 3) for end in auroc_interval(1.0, 12, 36)]
    [0.888, 1.0]
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    deviate = norm.ppf((1 + confidence) / 2)
    more = (n_normal + n_anomalous) / 2 - 1

    def beyond(other: float) -> float:
        variance = other * (1 - other) * (1 + more * ((1 - other) / (2 - other) + other / (1 + other)))
        return abs(area - other) - deviate * math.sqrt(variance / (n_normal * n_anomalous))

    # beside the area itself, where an area of 1 has neither distance nor variance
    low = brentq(beyond, 0.0, area * (1 - 1e-9)) if area > 0 else 0.0
    high = brentq(beyond, 1 - (1 - area) * (1 - 1e-9), 1.0) if area < 1 else 1.0
    return float(low), float(high)


def evaluate(scores: ArrayLike, is_anomalous: ArrayLike, predicted: ArrayLike) -> Evaluation:
    """Compare decisions and scores with the true labels.

    Args:
        scores: raw or calibrated, shape (N,); only their order matters.
        is_anomalous: shape (N,), boolean.
        predicted: 'OK' or 'NG', shape (N,).
    """
    values = as_scores(scores)
    flags = as_flags(is_anomalous, len(values))
    ng = _is_ng(predicted, len(values))
    tp, fp = int((ng & flags).sum()), int((ng & ~flags).sum())
    tn, fn = int((~ng & ~flags).sum()), int((~ng & flags).sum())
    auroc = average = None
    if flags.any() and not flags.all():
        from sklearn.metrics import average_precision_score, roc_auc_score

        # Sums of rounded parts may end just beyond 1.
        auroc = min(float(roc_auc_score(flags, values)), 1.0)
        average = min(float(average_precision_score(flags, values)), 1.0)
    return Evaluation(
        n=len(values),
        tp=tp,
        fp=fp,
        tn=tn,
        fn=fn,
        accuracy=_ratio(tp + tn, len(values)),
        precision=_ratio(tp, tp + fp),
        recall=_ratio(tp, tp + fn),
        f1=_ratio(2 * tp, 2 * tp + fp + fn) if tp + fn else None,
        false_alarm_rate=_ratio(fp, fp + tn),
        miss_rate=_ratio(fn, tp + fn),
        image_auroc=auroc,
        average_precision=average,
    )


def confusion_matrix(is_anomalous: ArrayLike, predicted: ArrayLike) -> pd.DataFrame:
    """Return counts, rows 'true OK' and 'true NG', columns 'predicted OK' and 'predicted NG'."""
    ng = _is_ng(predicted, None)
    flags = as_flags(is_anomalous, len(ng))
    counts = [[int((row & column).sum()) for column in (~ng, ng)] for row in (~flags, flags)]
    return pd.DataFrame(
        counts,
        index=pd.Index([f"true {OK}", f"true {NG}"], name="label"),
        columns=[f"predicted {OK}", f"predicted {NG}"],
    )


def classification_report(labels: Sequence[str], is_anomalous: ArrayLike, predicted: ArrayLike) -> dict[str, Any]:
    """Return scikit-learn's report as a dictionary, and how each of the user's own labels fared.

    Args:
        labels: the user's labels, length N; all that are not the normal one count as anomalous.
        is_anomalous: shape (N,), boolean.
        predicted: 'OK' or 'NG', shape (N,).

    Returns:
        'OK', 'NG', 'accuracy', 'macro avg' and 'weighted avg' as in scikit-learn, undefined numbers None; and
        'by_label': for each label its 'n', 'predicted_OK', 'predicted_NG' and 'rate_NG'.
    """
    from sklearn.metrics import classification_report as sklearn_report

    ng = _is_ng(predicted, len(labels))
    flags = as_flags(is_anomalous, len(labels))
    names = np.array([OK, NG])
    report = sklearn_report(
        names[flags.astype(int)], names[ng.astype(int)], labels=[OK, NG], output_dict=True, zero_division=np.nan
    )
    if "accuracy" not in report:  # scikit-learn calls it 'micro avg' where a class is absent
        report["accuracy"] = report.pop("micro avg")["f1-score"]
    counts = pd.DataFrame({"label": list(labels), "ng": ng}).groupby("label", sort=True)["ng"].agg(["size", "sum"])
    report["by_label"] = {
        str(label): {
            "n": int(size),
            f"predicted_{OK}": int(size - hits),
            f"predicted_{NG}": int(hits),
            f"rate_{NG}": float(hits / size),
        }
        for label, size, hits in counts.itertuples()
    }
    cleaned: dict[str, Any] = _without_nan(report)
    return cleaned


def _is_ng(predicted: ArrayLike, length: int | None) -> NDArray[np.bool_]:
    names = np.asarray(predicted, dtype=object)
    if names.ndim != 1 or (length is not None and len(names) != length):
        raise ValueError(f"predictions of shape {names.shape} do not match {length} rows")
    ng: NDArray[np.bool_] = names == NG
    unknown = ~ng & (names != OK)
    if unknown.any():
        raise ValueError(f"a prediction is {names[unknown][0]!r}, neither {OK!r} nor {NG!r}")
    return ng


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
