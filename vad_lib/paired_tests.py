"""Whether two detectors, or two versions of one, differ on the same images by more than chance explains."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from vad_lib.thresholds import as_flags, as_scores


class PairedDifference(NamedTuple):
    """A difference of two figures on the same images, its interval, and the probability of one so large by chance."""

    difference: float
    low: float
    high: float
    p: float


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided mid-p of McNemar's test.

    M. Fagerland, S. Lydersen, P. Laake, "The McNemar test for binary matched-pairs data", BMC Medical Research
    Methodology 13, 2013: the exact test is too careful with few pairs, the mid-p is not.

    Args:
        only_first: images that only the first one judges rightly.
        only_second: images that only the second one judges rightly.

    Returns:
        The probability, in 0..1, of numbers so uneven where both are right equally often; 1 where there are none.

    >>> round(mcnemar(1, 7), 4)
    0.0391
    """
    from scipy.stats import binom

    pairs, fewer = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0
    return float(2 * binom.cdf(fewer, pairs, 0.5) - binom.pmf(fewer, pairs, 0.5))


def wilson(count: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share, which holds the true share as often as it says on average.

    E. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927. The interval of
    ``metrics.interval`` (Clopper and Pearson) is wider, since it holds it at least as often.

    Args:
        count: in 0..``of``.
        of: at least 1.
        confidence: in 0..1.

    >>> [round(share, 4) for share in wilson(81, 263)]
    [0.2553, 0.3662]
    """
    from scipy.stats import norm

    square = float(norm.ppf((1 + confidence) / 2)) ** 2
    middle = (count + square / 2) / (of + square)
    reach = math.sqrt(square * (count * (of - count) / of + square / 4)) / (of + square)
    return (0.0 if count == 0 else middle - reach), (1.0 if count == of else middle + reach)


def newcombe(both: int, only_first: int, only_second: int, neither: int, confidence: float = 0.95) -> PairedDifference:
    """Return the share of images that the first one judges rightly minus that of the second, on the same images.

    R. Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data",
    Statistics in Medicine 17, 1998, method 10. ``p`` is that of ``mcnemar``.

    Args:
        both: images that both judge rightly.
        only_first: images that only the first one judges rightly.
        only_second: images that only the second one judges rightly.
        neither: images that none of them judges rightly.
        confidence: of the interval, in 0..1.

    Raises:
        ValueError: there is no image.
    """
    images = both + only_first + only_second + neither
    if not images:
        raise ValueError("at least one image is needed")
    first, second = both + only_first, both + only_second
    share, other = first / images, second / images
    (low, high), (other_low, other_high) = wilson(first, images, confidence), wilson(second, images, confidence)
    product = float(both * neither - only_first * only_second)
    if product > 0:  # corrected for continuity, so that the interval is not too narrow
        product = max(product - images / 2, 0.0)
    scale = math.sqrt(first * (images - first) * second * (images - second))
    phi = product / scale if scale else 0.0

    def reach(mine: float, others: float) -> float:
        return math.sqrt(max(0.0, mine**2 - 2 * phi * mine * others + others**2))

    return PairedDifference(
        share - other,
        share - other - reach(share - low, other_high - other),
        share - other + reach(high - share, other - other_low),
        mcnemar(only_first, only_second),
    )


def delong(is_anomalous: ArrayLike, first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> PairedDifference:
    """Return the AUROC of the first scores minus that of the second, on the same images.

    E. DeLong, D. DeLong, D. Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
    characteristic curves", Biometrics 44, 1988. Where both order the images alike, the difference is 0 and p is 1.

    Args:
        is_anomalous: shape (N,), with both classes.
        first: scores, shape (N,).
        second: scores, shape (N,).
        confidence: of the interval, in 0..1.

    Raises:
        ValueError: a class is absent, or the lengths differ.
    """
    from scipy.stats import norm

    one, other = as_scores(first), as_scores(second)
    flags = as_flags(is_anomalous, len(one))
    if len(one) != len(other):
        raise ValueError(f"{len(one)} scores beside {len(other)}: both have to be of the same images")
    if flags.all() or not flags.any():
        raise ValueError("both normal and anomalous images are needed")
    of_defects, of_normal = zip(_placements(one, flags), _placements(other, flags), strict=True)
    difference = float(of_defects[0].mean() - of_defects[1].mean())
    variance = sum(
        float((places[0] - places[1]).var(ddof=1)) / len(places[0]) if len(places[0]) > 1 else 0.0
        for places in (of_defects, of_normal)
    )
    error = math.sqrt(variance)
    deviate = float(norm.ppf((1 + confidence) / 2))
    if error == 0:
        return PairedDifference(difference, difference, difference, 0.0 if difference else 1.0)
    p = float(2 * norm.sf(abs(difference) / error))
    return PairedDifference(difference, difference - deviate * error, difference + deviate * error, p)


def _placements(
    scores: npt.NDArray[np.float64], flags: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return for each anomalous score the share of normal ones below it, and for each normal one that of anomalous ones
    above it; equal scores count a half."""
    from scipy.stats import rankdata

    defects, normal = scores[flags], scores[~flags]
    ranks = rankdata(scores)
    below = (ranks[flags] - rankdata(defects)) / len(normal)
    above = 1 - (ranks[~flags] - rankdata(normal)) / len(defects)
    return below, above
