"""A few seconds of the real work, timed: some of the line's own images through the real detector."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from vad_lib.detectors.base import Detector
    from vad_lib.detectors.fastflow.detector import FastFlow
    from vad_lib.detectors.images import ImageDataset
    from vad_lib.detectors.patchcore.detector import PatchCore

PROBE_IMAGES = 16
SELECTION_POINTS = 16_384
"""Patches that a small selection is timed on."""
LEAST_CENTRES = 200
SEARCH_ROWS = 8_192
"""Most rows of the bank that scoring is timed with; the search takes time in proportion to the rows."""


@dataclass(frozen=True)
class PatchCoreProbe:
    """Seconds: to read an image and take it through the network; to choose ``centres`` of ``points``; to search."""

    feature_seconds: float
    selection_seconds: float
    points: int
    centres: int
    search_seconds_per_row: float


@dataclass(frozen=True)
class FastFlowProbe:
    """Seconds an image: through reading and network; in an epoch; to score; and the bytes of its kept features."""

    feature_seconds: float
    epoch_seconds: float
    score_seconds: float
    keeps_features: bool
    feature_bytes: int


def sample_of(images: ImageDataset, count: int) -> ImageDataset:
    """Return up to ``count`` of the images, evenly spread over all of them, prepared in the same way."""
    from vad_lib.detectors.images import ImageDataset

    chosen = sorted(set(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int).tolist()))
    sample = ImageDataset(
        [images.files[index] for index in chosen],
        images.preprocessing,
        # shapes after preparation are not changed by preparing once more
        shapes=[images.prepared_shapes[index] for index in chosen],
        augmentation=images.augmentation,
    )
    return sample


def probe_patchcore(detector: PatchCore, images: ImageDataset, ratio: float, rows: int) -> PatchCoreProbe:
    """Time the parts of a fit and of scoring.

    Args:
        detector: unfitted; its network is used, and its bank is left as it is.
        images: a sample.
        ratio: share of the patches that the fit keeps.
        rows: of the bank that the fit will choose.
    """
    import torch

    from vad_lib.detectors.patchcore.k_centre_greedy import coreset_indices
    from vad_lib.detectors.patchcore.nearest import MemoryBank
    from vad_lib.randomness import seeded

    kept: list[torch.Tensor] = []

    def embed(batch: torch.Tensor) -> None:
        patches = detector.embedder(batch)[0].flatten(0, 1)
        # no more than will be used: the patches of a dozen large images are gigabytes
        if (room := SELECTION_POINTS - sum(map(len, kept))) > 0:
            kept.append(patches[:room].clone())

    feature_seconds = _seconds_an_image(images, detector, embed, forget=kept.clear)
    points = torch.cat(kept)
    centres = int(min(max(len(points) * ratio, LEAST_CENTRES), max(1, len(points) // 2)))
    with seeded(detector.seed):
        coreset_indices(points[:LEAST_CENTRES], 0.1)  # imports what it needs
        _finish(detector)
        start = time.perf_counter()
        coreset_indices(points, centres / len(points))
        _finish(detector)
        selection_seconds = time.perf_counter() - start
    some = min(rows, SEARCH_ROWS)
    bank_before = detector.bank_
    detector.bank_ = MemoryBank(points[torch.arange(some, device=points.device) % len(points)].contiguous())
    batch = next(iter(images.batches(detector.batch_size))).images.to(detector.device)
    scoring = _seconds_of(detector, lambda: detector.score(batch, with_maps=False)) / len(batch)
    embedding = _seconds_of(detector, lambda: detector.embedder(batch)) / len(batch)
    detector.bank_ = bank_before
    search_seconds = max(0.0, scoring - embedding) / some
    return PatchCoreProbe(feature_seconds, selection_seconds, len(points), centres, search_seconds)


def probe_fastflow(detector: FastFlow, images: ImageDataset, keeps_features: bool, feature_bytes: int) -> FastFlowProbe:
    """Time the parts of a fit and of scoring; the detector is fitted on the sample and must not be used afterwards."""
    feature_seconds = _seconds_an_image(images, detector, detector.network.features)
    detector.max_epochs = 2  # the first one is slower: memory is taken, kernels are chosen
    detector.monitor_metric = "loss"
    detector.feature_budget = detector.feature_budget if keeps_features else 0
    report = detector.fit(images).report
    epoch_seconds = report.epochs[-1].seconds / len(images)
    score_seconds = _seconds_an_image(images, detector, lambda batch: detector.score(batch, with_maps=False))
    return FastFlowProbe(feature_seconds, epoch_seconds, score_seconds, keeps_features, feature_bytes)


def _finish(detector: Detector) -> None:
    """Wait for a GPU, which is told what to do long before it has done it."""
    import torch

    if torch.cuda.is_available() and detector.device.type == "cuda":  # type: ignore[attr-defined]
        torch.cuda.synchronize()


def _seconds_of(detector: Detector, work: Callable[[], object], times: int = 3) -> float:
    """Return the least of several times, the first of which only warms up."""
    found = []
    for _ in range(times + 1):
        start = time.perf_counter()
        work()
        _finish(detector)
        found.append(time.perf_counter() - start)
    return min(found[1:])


def _seconds_an_image(
    images: ImageDataset,
    detector: Detector,
    work: Callable[[torch.Tensor], object],
    forget: Callable[[], object] = lambda: None,
) -> float:
    """Return the time of reading and ``work`` per image, overlapped as in a fit, after a first batch to warm up.

    Raises:
        InputError: none of the images can be read.
    """
    from vad_lib.errors import InputError

    batch_size: int = detector.batch_size  # type: ignore[attr-defined]
    device: torch.device = detector.device  # type: ignore[attr-defined]
    for batch in images.batches(1):
        work(batch.images.to(device))
        break
    forget()
    _finish(detector)
    start, done = time.perf_counter(), 0
    for batch in images.batches(batch_size):
        work(batch.images.to(device))
        done += len(batch.indices)
    _finish(detector)
    if not done:
        raise InputError(f"None of {len(images)} training images that were tried can be read.")
    return (time.perf_counter() - start) / done
