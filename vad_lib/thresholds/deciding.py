"""The one decision, and how sure it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vad_lib.tables import NG, OK


def decide(p: ArrayLike, inference_threshold: float = 0.5) -> NDArray[np.str_]:
    """Return 'NG' where ``p >= inference_threshold``, else 'OK'. Validation, inference and re-scoring all ask here.

    Args:
        p: calibrated scores in (0, 1), any shape.
        inference_threshold: on p; 0.5 is the trained threshold, 0 makes everything NG and 1 everything OK.

    Raises:
        ValueError: a score is missing, or the threshold is not in 0..1.

    >>> decide([0.2, 0.5, 0.9]).tolist()
    ['OK', 'NG', 'NG']
    """
    values = np.asarray(p, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("cannot decide on a missing score")
    if not 0 <= inference_threshold <= 1:
        raise ValueError(
            f"inference_threshold is {inference_threshold}: it is on the calibrated score, between 0 and 1"
        )
    return np.where(values >= inference_threshold, NG, OK)


def certainty(p: ArrayLike) -> NDArray[np.float64]:
    """Return 1 - H2(p): one minus the Shannon entropy, base 2, of the distribution (p, 1 - p); in 0..1.

    >>> certainty([0.5, 0.9, 1.0]).round(3).tolist()
    [0.0, 0.531, 1.0]
    """
    from scipy.special import entr

    values = np.asarray(p, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p must lie between 0 and 1")
    result: NDArray[np.float64] = np.clip(1 - (entr(values) + entr(1 - values)) / np.log(2), 0, 1)
    return result
