"""What cross-validated scores say of a detector, each figure with its n and an interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import roc_auc_score

from vad_lib.choosing.cross_validation import CrossValidated
from vad_lib.metrics import auroc_interval, interval
from vad_lib.thresholds.learning import counts_at_or_above

RESAMPLES = 1000
CONFIDENCE = 0.95
ONE_SCALE = 1.0
"""Where the medians of the parts' normal scores lie further apart than so many times the spread within a part, the
parts are not on one scale."""
Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Figure:
    """A number with the interval (95 %) in which the true one lies.

    Attributes:
        value: the number.
        low: lower end.
        high: upper end.
        n: what it was counted on, in words.
    """

    value: float
    low: float
    high: float
    n: str

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Figures:
    """The figures of one detector on a line.

    Attributes:
        auroc: of the scores of images that the model had not seen.
        average_precision: the area under the curve of precision over recall.
        f1: of the decisions, by thresholds that had not seen the image.
        recall: share of the defects that are found.
        false_alarms: share of the normal images that are called NG.
        recall_at_1: recall where 1 % of the normal images are called NG.
        recall_at_0: recall where no normal image is called NG.
        unseen_recall: recall by kind of defect, where the threshold was learnt without that kind.
        warning: why the figures are rough; empty where nothing speaks against them.
    """

    auroc: Figure
    average_precision: Figure
    f1: Figure
    recall: Figure
    false_alarms: Figure
    recall_at_1: Figure
    recall_at_0: Figure
    unseen_recall: dict[str, Figure]
    warning: str = ""


def figures_of(found: CrossValidated, seed: int = 0) -> Figures:
    """Return the figures of a detector that ran.

    Intervals of shares are Clopper and Pearson's, that of the AUROC is Newcombe's, all others are percentiles of 1,000
    resamples of the normal and of the anomalous images (B. Efron, R. Tibshirani, "An introduction to the bootstrap",
    1993).

    Args:
        found: with rows of both classes.
        seed: of the resampling.
    """
    rows = found.rows
    scores, flags = rows["raw_score"].to_numpy(float), rows["is_anomalous"].to_numpy(bool)
    ng = (rows["predicted"] == "NG").to_numpy()
    normal, anomalous = int((~flags).sum()), int(flags.sum())
    n = f"{normal} + {anomalous}"
    draws = list(_resamples(flags, seed))

    def bootstrap(statistic: Callable[[npt.NDArray[np.intp]], float]) -> Figure:
        values = np.array([statistic(draw) for draw in draws])
        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = np.percentile(values, [tail, 100 - tail])
        return Figure(statistic(np.arange(len(rows))), float(low), float(high), n)

    area = float(roc_auc_score(flags, scores))
    return Figures(
        auroc=Figure(area, *auroc_interval(area, normal, anomalous), n),
        average_precision=bootstrap(lambda draw: average_precision(flags[draw], scores[draw])),
        f1=bootstrap(lambda draw: _f1(flags[draw], ng[draw])),
        recall=_share(int((ng & flags).sum()), anomalous),
        false_alarms=_share(int((ng & ~flags).sum()), normal),
        recall_at_1=bootstrap(lambda draw: _recall_at(flags[draw], scores[draw], 0.01)),
        recall_at_0=bootstrap(lambda draw: _recall_at(flags[draw], scores[draw], 0.0)),
        unseen_recall=_unseen(rows),
        warning=_not_on_one_scale(rows),
    )


def _share(count: int, of: int) -> Figure:
    return Figure(count / of, *interval(count, of), str(of))


def _resamples(flags: Flags, seed: int) -> list[npt.NDArray[np.intp]]:
    """Draw images anew, as many normal and as many anomalous ones as there are."""
    rng = np.random.default_rng(seed)
    classes = np.flatnonzero(~flags), np.flatnonzero(flags)
    return [np.concatenate([rng.choice(some, len(some)) for some in classes]) for _ in range(RESAMPLES)]


def average_precision(flags: Flags, scores: Numbers) -> float:
    """Return the area under the curve of precision over recall, as steps; scikit-learn's, and much faster."""
    _, found, ng = counts_at_or_above(scores, flags)
    recall = np.append(found, 0) / found[0]
    return float(((recall[:-1] - recall[1:]) * found / ng).sum())


def _f1(flags: Flags, ng: Flags) -> float:
    found = int((ng & flags).sum())
    return 2 * found / (int(flags.sum()) + int(ng.sum()))


def _recall_at(flags: Flags, scores: Numbers, share: float) -> float:
    """Return the share of the anomalous scores above all but this share of the normal ones."""
    normal = np.sort(scores[~flags])
    allowed = int(np.floor(share * len(normal)))
    return float((scores[flags] > normal[len(normal) - 1 - allowed]).mean())


def _unseen(rows: pd.DataFrame) -> dict[str, Figure]:
    defects = rows[rows["is_anomalous"]]
    found = (defects["predicted_unseen"] == "NG").groupby(defects["label"]).agg(["sum", "size"])
    return {str(kind): _share(int(row["sum"]), int(row["size"])) for kind, row in found.iterrows()}


def _not_on_one_scale(rows: pd.DataFrame) -> str:
    normal = rows[~rows["is_anomalous"]].groupby("part")["raw_score"]
    spread = float((normal.quantile(0.75) - normal.quantile(0.25)).mean())
    medians = normal.median()
    if float(medians.max() - medians.min()) <= ONE_SCALE * spread:
        return ""
    return (
        "The models of the parts do not score on one scale: the figures, which pool their scores, are lower than those "
        "of one model would be."
    )
