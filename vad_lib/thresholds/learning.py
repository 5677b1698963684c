"""Learning a threshold from validation scores by one of four rules; or taking one that a person chose."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vad_lib.thresholds.promises import Costs, FalseAlarmBudget
from vad_lib.thresholds.records import (
    ABOVE_ALL_SCORES,
    LARGEST_SCORE,
    LearningRule,
    Threshold,
    as_flags,
    as_scores,
    rows_digest,
)

BY_F1 = LearningRule()


def learn_threshold(scores: ArrayLike, is_anomalous: ArrayLike, rule: LearningRule = BY_F1) -> Threshold:
    """Learn a threshold on raw scores: NG if and only if ``score >= threshold``.

    ``F1`` maximises the F1 score of the anomalous class and lies midway between the two neighbouring distinct scores.
    Among equal F1 scores it takes the lowest threshold: fewest misses, because a miss leaves the plant. If the lowest
    score of all must be NG too, the threshold is that score. Without anomalous rows F1 is undefined, and the quantile
    is taken instead, which the note says; without normal rows everything is NG.

    ``Percentile`` is the quantile (linear interpolation) of the scores of the *normal* rows, so that about
    ``1 - percentile`` of normal images are called NG whatever anomalous rows are among the validation rows; with
    anomalous rows only, the quantile of those. Ties never make more rows NG than asked for: where several rows share
    the quantile's score, the threshold moves up to midway to the next score; where the quantile is the largest score
    (constant scores, a single image, percentile 1), to the next float32 above it, so that a constant normal set is OK.

    ``FalseAlarmRate`` keeps a budget of false alarms with a confidence, from the normal rows only: see
    `FalseAlarmBudget.order_of_threshold`. It assumes nothing of the scores but that the normal validation rows are like
    the normal images to come. The note says what is promised, and how many rows would be needed where these do not do.

    ``Cost`` takes the cut of the least expected cost; among equal costs the lowest, as F1 does. Without normal or
    without anomalous rows it is undefined, and the quantile is taken.

    Args:
        scores: raw scores, shape (N,), N >= 1, finite; rounded to float32.
        is_anomalous: shape (N,), boolean.
        rule: see above.

    Raises:
        ValueError: no rows, lengths that differ, scores that are not finite, or percentile outside 0..1.

    >>> learn_threshold([1, 2, 3, 6, 7], [False, False, False, True, True]).value
    4.5
    """
    values = as_scores(scores)
    flags = as_flags(is_anomalous, len(values))
    if not len(values):
        raise ValueError("no validation score to learn a threshold from")
    percentile, n_normal, n_anomalous = rule.percentile, int((~flags).sum()), int(flags.sum())
    if not 0 <= percentile <= 1:
        hint = f" (did you mean {percentile / 100:g}?)" if 1 < percentile <= 100 else ""
        raise ValueError(f"percentile is {percentile}: it is a quantile, between 0 and 1{hint}")
    used, note = rule.method, ""
    if used in ("F1", "Cost") and not n_anomalous:
        used, note = "Percentile", f"{used} is undefined without anomalous validation rows: the quantile was taken."
    elif not n_normal:
        used = "F1" if used == "F1" else "Percentile"
        note = "There was no normal validation row: the threshold is a guess."
    if used == "F1":
        value = _best_f1(values, flags)
    elif used == "Cost":
        value, note = _least_cost(values, flags, rule.costs)
    elif used == "FalseAlarmRate":
        value, note = _within_budget(values[~flags], rule.budget), rule.budget.in_words(n_normal)
    else:
        value = _quantile(values[~flags] if n_normal else values, percentile)
    return Threshold(
        value=value,
        method=used,
        percentile=percentile if used == "Percentile" else None,
        rule=rule,
        n_normal=n_normal,
        n_anomalous=n_anomalous,
        rows_digest=rows_digest(values, flags),
        note=note,
    )


def fixed_threshold(value: float) -> Threshold:
    """Return the threshold of a detector that needs no images, where there is no row to learn another one from."""
    nobody = np.empty(0)
    return Threshold(
        value=value,
        method="Fixed",
        n_normal=0,
        n_anomalous=0,
        rows_digest=rows_digest(nobody, nobody.astype(bool)),
        note="The detector's own, as there was no validation image: nothing is known about misses and false alarms.",
    )


def threshold_of_inspected(scores: ArrayLike, percentile: float) -> Threshold:
    """Return the quantile of the scores of images that were inspected and that nobody has labelled.

    Args:
        scores: raw scores, shape (N,), N >= 1.
        percentile: a quantile, in 0..1.
    """
    learnt = learn_threshold(
        scores, np.zeros(len(as_scores(scores)), bool), LearningRule(method="Percentile", percentile=percentile)
    )
    note = (
        f"The quantile {percentile:g} of the raw scores of the first {learnt.n_normal} images that the line inspected, "
        "as there was no validation image: nothing is known about misses and false alarms."
    )
    return learnt.model_copy(update={"method": "FirstInspected", "rule": None, "n_normal": 0, "note": note})


def choose_threshold(value: float, instead_of: Threshold, note: str = "") -> Threshold:
    """Return a threshold that a person chose, for example from the threshold table, in place of a learnt one."""
    return Threshold(
        value=value,
        method="chosen",
        n_normal=instead_of.n_normal,
        n_anomalous=instead_of.n_anomalous,
        rows_digest=instead_of.rows_digest,
        note=note or f"Chosen instead of {instead_of.value:g} ({instead_of.method}).",
    )


def midpoint(low: float, high: float) -> float:
    """Return a threshold t with ``low < t <= high``: midway, or ``high`` where no float lies between."""
    middle = low + (high - low) / 2
    return middle if low < middle <= high else high


def next_above(score: float) -> float:
    """Return the smallest float32 above ``score``; above the largest float32, the next float64.

    A threshold at the largest float32 itself would make that score NG where nothing should be.
    """
    if score >= LARGEST_SCORE:
        return ABOVE_ALL_SCORES
    return float(np.nextafter(np.float32(score), np.float32(np.inf)))


def _best_f1(values: NDArray[np.float64], flags: NDArray[np.bool_]) -> float:
    """Compare 2 tp / (n_anomalous + tp + fp) over all cuts in whole numbers, so that ties are ties."""
    distinct, tp, ng = counts_at_or_above(values, flags)
    total = int(flags.sum())
    best = 0
    for cut in range(1, len(distinct)):
        # a / b > c / d  <=>  a d > c b; equal quotients keep the lower cut
        if int(tp[cut]) * (total + int(ng[best])) > int(tp[best]) * (total + int(ng[cut])):
            best = cut
    return float(distinct[0]) if best == 0 else midpoint(float(distinct[best - 1]), float(distinct[best]))


def _within_budget(normal: NDArray[np.float64], budget: FalseAlarmBudget) -> float:
    """Return a threshold above the normal score that the promise names, as far from the next one as F1's would be."""
    highest_ok = float(np.sort(normal)[budget.order_of_threshold(len(normal)) - 1])
    above = normal[normal > highest_ok]
    return midpoint(highest_ok, float(above.min())) if len(above) else next_above(highest_ok)


def _least_cost(values: NDArray[np.float64], flags: NDArray[np.bool_], costs: Costs) -> tuple[float, str]:
    distinct, tp, ng = counts_at_or_above(values, flags)
    n_anomalous, n_normal = int(flags.sum()), int((~flags).sum())
    found, alarms = np.append(tp, 0), np.append(ng - tp, 0)
    cost = costs.of_thousand(n_anomalous - found, n_anomalous, alarms, n_normal)
    best = int(np.argmin(cost))
    note = (
        f"Expected cost of 1,000 parts: {cost[best]:.4g}, where a miss costs {costs.miss:g}, a false alarm "
        f"{costs.false_alarm:g}, and {costs.share_of_defects:.3g} of all parts are defective."
    )
    if best == 0:
        return float(distinct[0]), note
    if best == len(distinct):
        return next_above(float(distinct[-1])), note
    return midpoint(float(distinct[best - 1]), float(distinct[best])), note


def counts_at_or_above(
    values: NDArray[np.float64], flags: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct scores, increasing, with the number of anomalous rows and of all rows at or above each."""
    distinct, place = np.unique(values, return_inverse=True)
    every = np.bincount(place, minlength=len(distinct))
    anomalous = np.bincount(place[flags], minlength=len(distinct))
    return distinct, anomalous[::-1].cumsum()[::-1], every[::-1].cumsum()[::-1]


def _quantile(values: NDArray[np.float64], percentile: float) -> float:
    quantile = float(np.quantile(values, percentile))
    if quantile >= values.max():
        return next_above(float(values.max()))
    n = len(values)
    if (values >= quantile).sum() > (1 - percentile) * n + 1:
        higher = values[values > quantile]
        return midpoint(quantile, float(higher.min()))
    return quantile
