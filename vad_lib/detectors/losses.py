"""The losses of maps that are learnt from masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

FOCUS, SMOOTH = 2.0, 1e-5
"""Gamma of the focal loss, and what keeps its logarithm finite."""


def local_loss(abnormal: Sequence[torch.Tensor], masks: torch.Tensor) -> torch.Tensor:
    """Return focal loss and both dice losses, summed over levels.

    Args:
        abnormal: probabilities (N, H, W) for each level.
        masks: bool (N, H, W).
    """
    truth = masks.float()
    total = torch.zeros((), device=truth.device)
    for level in abnormal:
        right = torch.where(masks, level, 1 - level)
        # one-hot labels are smoothed a little, as the authors do
        right = (1 - SMOOTH) * right + SMOOTH * (1 - right) + SMOOTH
        focal = -((1 - right) ** FOCUS * right.log()).mean()
        total = total + focal + _dice(level, truth) + _dice(1 - level, 1 - truth)
    return total


def _dice(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    overlap, both = (found * truth).flatten(1).sum(1), (found + truth).flatten(1).sum(1)
    return 1 - ((2 * overlap + 1) / (both + 1)).mean()
