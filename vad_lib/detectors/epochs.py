"""Which epoch is the best one, and when to stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vad_lib.detectors.base import Epoch

PATIENCE = 3
"""Epochs without a better metric after which a fit ends; anomalib's examples take the same."""


def monitored_value(metric: str, loss: float, scores: npt.NDArray[np.float32], labels: npt.NDArray[np.bool_]) -> float:
    """Return the value of the monitored metric.

    Args:
        metric: 'loss' (the training loss), 'image_AUROC' or 'image_F1Score' (the largest F1 over all thresholds).
        loss: mean training loss of the epoch.
        scores: of the validation images (N,).
        labels: True where anomalous (N,); both classes must occur, except for 'loss'.
    """
    from sklearn.metrics import precision_recall_curve, roc_auc_score

    if metric == "loss":
        return loss
    if metric == "image_AUROC":
        return float(roc_auc_score(labels, scores))
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


@dataclass
class BestEpoch:
    """Keeps count of the best epoch.

    An epoch is better where its metric is, or where the metric is equal and its loss smaller: with few validation
    images an AUROC is soon at 1, and goes on to mean something only through the loss. Patience counts the metric alone.
    """

    metric: str
    patience: int = PATIENCE
    best: Epoch | None = None
    _reached: float = float("-inf")
    _waited: int = 0

    def is_better(self, value: float, loss: float) -> bool:
        """Tell whether an epoch with these results is the best so far, and count it."""
        good = -value if self.metric == "loss" else value
        if good > self._reached:
            self._reached, self._waited = good, 0
            return True
        self._waited += 1
        return good == self._reached and (self.best is None or loss < self.best.loss)

    @property
    def should_stop(self) -> bool:
        """True where the metric has not become better for ``patience`` epochs."""
        return self._waited >= self.patience
