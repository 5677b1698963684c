"""What a detector is, in the words of scikit-learn: ``fit``, ``score``, ``save``, ``load``, and declared facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from vad_lib.progress import Progress, silent

if TYPE_CHECKING:
    import torch

    from vad_lib.backbones.weights import BackboneWeights
    from vad_lib.detectors.images import ImageDataset


@dataclass(frozen=True)
class DetectorFacts:
    """What the rest of the system must know of a kind of detector.

    Attributes:
        name: as in the plan's ``model_name``.
        needs_training: False for a detector that works without a fit.
        makes_maps: True where ``score`` returns a map for each image.
        fixed_input_size: (height, width) where it takes one size only, else None.
        normals_only: True where it is fitted on normal images alone.
        needs_epochs: True where ``max_epochs`` and ``monitor_metric`` have an effect.
    """

    name: str
    needs_training: bool
    makes_maps: bool
    fixed_input_size: tuple[int, int] | None
    normals_only: bool
    needs_epochs: bool


@dataclass(frozen=True)
class Scores:
    """Raw results of N images; larger is more anomalous.

    Attributes:
        scores: float32 (N,).
        maps: float32 (N, H, W) at the size of the input, or None where the detector makes none.
    """

    scores: npt.NDArray[np.float32]
    maps: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images.

    Attributes:
        number: from 1.
        loss: mean training loss.
        metric: the monitored metric after this epoch; larger is better, except for ``loss``.
        best: True where it was the best so far.
        seconds: of this epoch, validation included.
    """

    number: int
    loss: float
    metric: float
    best: bool
    seconds: float


@dataclass(frozen=True)
class FitReport:
    """What happened in a fit.

    Attributes:
        epochs: empty for a detector without epochs.
        monitor: the metric that decided; it may differ from the plan's where validation has one class only.
        stopped_early: True where it ended before ``max_epochs``.
        notices: what the user should know.
        numbers: counts and sizes worth showing, such as 'memory_bank_rows'.
    """

    epochs: tuple[Epoch, ...] = ()
    monitor: str = ""
    stopped_early: bool = False
    notices: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)


class Detector(Protocol):
    """A fitted or unfitted detector.

    ``score`` gives an image the same bits whatever else is in the batch (on the CPU), so the lane that an image takes
    and the batch size do not change its result.
    """

    facts: DetectorFacts
    report: FitReport
    weights: BackboneWeights

    def fit(self, images: ImageDataset, *, validation: ImageDataset | None = None, progress: Progress = silent) -> Self:
        """Learn what normal is.

        Args:
            images: normal training images, augmented where the plan asks for it.
            validation: images with labels, to choose the best epoch; never learnt from.
            progress: told of every step; an exception raised in it stops the fit.
        """
        ...

    def score(self, batch: torch.Tensor, *, with_maps: bool = True) -> Scores:
        """Score images, float32 (N, 3, H, W) in 0..1."""
        ...

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return every tensor that scoring needs, backbone included."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what ``registry.detector_from_description`` needs beside the tensors; plain JSON."""
        ...

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` and ``detector.json``."""
        ...


def require_batch(batch: torch.Tensor) -> None:
    """Check the form of a batch.

    Raises:
        ValueError: not float32 (N, 3, H, W).
    """
    if batch.ndim != 4 or batch.shape[1] != 3 or not batch.is_floating_point():
        raise ValueError(f"A batch is float32 (N, 3, height, width) in 0..1, not {batch.dtype} {tuple(batch.shape)}.")


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Put scores of images of one shape together, in order."""
    scores = np.concatenate([part.scores for part in parts]) if parts else np.empty(0, np.float32)
    maps = [part.maps for part in parts if part.maps is not None]
    return Scores(scores, np.concatenate(maps) if maps else None)
