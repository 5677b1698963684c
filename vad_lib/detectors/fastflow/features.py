"""Features of frozen backbones, computed once where they fit in memory, else anew in each epoch: the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from vad_lib.detectors.fastflow.network import FlowNetwork
from vad_lib.detectors.feature_cache import FeatureCache
from vad_lib.detectors.images import Batch, ImageDataset, group_by_shape
from vad_lib.progress import ProgressMeter

FEATURE_BUDGET = 2**30
"""Bytes that kept features may take; 256 x 256 pixels are 1.8 MB an image with resnet18, 7.3 with wide_resnet50_2."""


class FeatureSource:
    """Batches of features of a set of images.

    Features are kept in memory where the images are not augmented and all of them fit in ``budget``. Each image goes
    through the backbone alone (on the CPU), so kept features and new ones are equal whatever the batches are. Where
    they are not kept, a few batches are in memory at a time, whatever the number of images.

    Args:
        images: to extract features of.
        network: with the backbone.
        device: where it computes.
        batch_size: images at once.
        budget: bytes for features that are kept in memory between epochs.
        cache: of features that were extracted before, begun for these images; none by default.

    Attributes:
        keeps: whether features are kept.
    """

    def __init__(
        self,
        images: ImageDataset,
        network: FlowNetwork,
        device: torch.device,
        batch_size: int,
        budget: int,
        cache: FeatureCache | None = None,
    ) -> None:
        self.images = images
        self.network = network
        self.device = device
        self.batch_size = batch_size
        self.cache = cache
        self.needs = _bytes_an_image(images, network, device) * len(images)
        self.keeps = images.augmentation is None and self.needs <= budget
        self._kept: dict[int, list[torch.Tensor]] = {}

    def prepare(self, meter: ProgressMeter) -> None:
        """Compute the features that are kept."""
        if not self.keeps:
            return
        for indices, features in self._extracted(range(len(self.images))):
            for index, *levels in zip(indices, *features, strict=True):
                self._kept[index] = [level.clone() for level in levels]
            meter.advance(len(indices))

    def batches(self, order: Sequence[int]) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """Yield (indices, features) of all readable images in an order."""
        if not self.keeps:
            yield from self._extracted(order)
            return
        readable = [index for index in order if index in self._kept]
        for indices in group_by_shape(readable, self.images.prepared_shapes, self.batch_size):
            levels = zip(*(self._kept[index] for index in indices), strict=True)
            yield indices, [torch.stack(level) for level in levels]

    def _extracted(self, order: Sequence[int]) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        if self.cache is None:
            for batch in self.images.batches(self.batch_size, order):
                yield batch.indices, self.network.features(batch.images.to(self.device))
            return
        for batch in self.images.batches(self.batch_size, order, known=self.cache.read):
            found = {**batch.known, **self._extract(batch, self.cache)}
            levels = zip(*(found[index] for index in batch.order), strict=True)
            yield batch.order, [torch.stack([one.to(self.device) for one in level]) for level in levels]

    def _extract(self, batch: Batch, cache: FeatureCache) -> dict[int, list[torch.Tensor]]:
        """Return the features of the decoded images by index, and keep them."""
        if not batch.indices:
            return {}
        levels = self.network.features(batch.images.to(self.device))
        found = {index: list(one) for index, *one in zip(batch.indices, *levels, strict=True)}
        for index, sha256 in zip(batch.indices, batch.sha256, strict=True):
            cache.write(sha256, found[index])
        return found


def _bytes_an_image(images: ImageDataset, network: FlowNetwork, device: torch.device) -> int:
    if not len(images):
        return 0
    levels = network.features(torch.zeros((1, 3, *images.prepared_shapes[0]), device=device))
    return sum(level.numel() * level.element_size() for level in levels)
