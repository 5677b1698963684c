"""The sweep: what each possible threshold would have done to the validation rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from vad_lib.tables import ThresholdTable
from vad_lib.thresholds.calibration import Calibration
from vad_lib.thresholds.learning import counts_at_or_above, midpoint, next_above
from vad_lib.thresholds.records import Threshold, as_flags, as_scores

MOST_ROWS = 2000


def threshold_table(
    scores: ArrayLike,
    is_anomalous: ArrayLike,
    threshold: Threshold,
    calibration: Calibration,
    most_rows: int = MOST_ROWS,
) -> pd.DataFrame:
    """Return one row for each threshold that changes a decision, in increasing order (``tables.ThresholdTable``).

    The first row calls everything NG, the last nothing; between them each threshold lies midway between two
    neighbouring distinct scores. The learnt threshold stands in place of the midpoint of its gap, marked ``chosen``.
    Taking ``p`` of a row as `inference_threshold` gives exactly the counts of that row.

    Beyond ``most_rows`` rows are left out evenly (so at quantiles of the distinct scores), never the first, the last or
    the chosen one.

    Without any score there is one row: the threshold, of which nothing is known.

    Args:
        scores: raw scores, shape (N,).
        is_anomalous: shape (N,), boolean.
        threshold: the learnt threshold, to mark.
        calibration: for the column ``p``.
        most_rows: at least 3.
    """
    values = as_scores(scores)
    flags = as_flags(is_anomalous, len(values))
    if not len(values):
        cuts, nothing = np.array([threshold.value]), np.zeros(1, np.int64)
        return _with_rates(cuts, calibration(cuts), nothing, nothing, flags, np.ones(1, bool))
    distinct, anomalous_above, all_above = counts_at_or_above(values, flags)
    cuts = np.array(
        [distinct[0], *map(midpoint, distinct[:-1], distinct[1:]), next_above(float(distinct[-1]))], dtype=np.float64
    )
    chosen = int(np.searchsorted(distinct, threshold.value, side="left"))  # scores below the threshold are OK
    cuts[chosen] = threshold.value
    tp = np.append(anomalous_above, 0)
    fp = np.append(all_above, 0) - tp
    keep = _keep(len(cuts), chosen, most_rows)
    p = _p_of_cuts(cuts, distinct, calibration)
    return _with_rates(cuts[keep], p[keep], tp[keep], fp[keep], flags, keep == chosen)


def _p_of_cuts(
    cuts: NDArray[np.float64], distinct: NDArray[np.float64], calibration: Calibration
) -> NDArray[np.float64]:
    """Return p of each cut, placed above p of the score below it and not above p of the score over it."""
    p = calibration(cuts)
    of_scores = calibration(distinct)
    # A midpoint of neighbouring float32 values may round to the lower one, whose p would let that one through as NG.
    p[1:-1] = np.where(p[1:-1] > of_scores[:-1], np.minimum(p[1:-1], of_scores[1:]), of_scores[1:])
    p[0] = min(p[0], of_scores[0])
    p[-1] = max(p[-1], np.nextafter(of_scores[-1], 1))
    return p


def _keep(n: int, chosen: int, most_rows: int) -> NDArray[np.int64]:
    if n <= most_rows:
        return np.arange(n)
    spread = np.linspace(0, n - 1, max(2, most_rows - 1)).round().astype(np.int64)
    return np.unique(np.append(spread, chosen))


def _with_rates(
    cuts: NDArray[np.float64],
    p: NDArray[np.float64],
    tp: NDArray[np.int64],
    fp: NDArray[np.int64],
    flags: NDArray[np.bool_],
    chosen: NDArray[np.bool_],
) -> pd.DataFrame:
    n_anomalous, n_normal = int(flags.sum()), int((~flags).sum())
    fn, tn = n_anomalous - tp, n_normal - fp
    recall = _ratio(tp, n_anomalous)
    rows = pd.DataFrame(
        {
            "threshold": cuts,
            "p": p,
            "accuracy": _ratio(tp + tn, len(flags)),
            "precision": _ratio(tp, tp + fp),
            "recall": recall,
            # Without anomalous rows nothing can be found, so nothing is said.
            "f1": _ratio(2 * tp, n_anomalous + tp + fp) if n_anomalous else np.nan,
            "tp": tp,
            "fp": fp,
            "tn": tn,
            "fn": fn,
            "false_alarm_rate": _ratio(fp, n_normal),
            "miss_rate": _ratio(fn, n_anomalous),
            "chosen": chosen,
        }
    )
    return ThresholdTable.validate(rows)


def _ratio(numerator: NDArray[np.int64], denominator: NDArray[np.int64] | int) -> NDArray[np.float64]:
    below = np.broadcast_to(np.asarray(denominator, dtype=np.float64), numerator.shape)
    return np.divide(numerator, below, out=np.full(numerator.shape, np.nan), where=below > 0)
