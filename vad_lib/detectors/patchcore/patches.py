"""The patches of many images, read as they are needed and never kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from vad_lib.detectors.feature_cache import FeatureCache
from vad_lib.detectors.images import Batch, ImageDataset
from vad_lib.detectors.patchcore.network import PatchEmbedder
from vad_lib.progress import ProgressMeter


class PatchSource:
    """Patches of the images of a dataset.

    Args:
        images: the training images.
        embedder: turns them into patches.
        device: where it computes.
        batch_size: images read at once; no effect on any patch.
        cache: of features that were extracted before, begun for these images; none by default.

    Attributes:
        total: patches of all images, by the sizes that they had when they were checked.
        channels: of a patch.
    """

    def __init__(
        self,
        images: ImageDataset,
        embedder: PatchEmbedder,
        device: torch.device,
        batch_size: int,
        cache: FeatureCache | None = None,
    ) -> None:
        self.images = images
        self.embedder = embedder
        self.device = device
        self.batch_size = batch_size
        self.cache = cache
        forms = {shape: embedder.patches_of(*shape, device) for shape in set(images.prepared_shapes)}
        self._counts = {shape: count for shape, (count, _) in forms.items()}
        self.total = self.patches_of(range(len(images)))
        self.channels = next(iter(forms.values()))[1] if forms else 0

    def each(self, indices: Sequence[int], meter: ProgressMeter) -> Iterator[torch.Tensor]:
        """Yield the patches (P, D) of each readable image; the others are noted in ``images.unreadable``."""
        if self.cache is None:
            for batch in self.images.batches(self.batch_size, indices):
                yield from self.embedder(batch.images.to(self.device))[0]
                meter.advance(len(batch.indices))
            return
        for batch in self.images.batches(self.batch_size, indices, known=self.cache.read):
            features = {**batch.known, **self._extract(batch, self.cache)}
            for index in batch.order:
                layers = [layer.to(self.device)[None] for layer in features[index]]
                yield self.embedder.join_layers(layers)[0][0]
            meter.advance(len(batch.order))

    @torch.inference_mode()
    def _extract(self, batch: Batch, cache: FeatureCache) -> dict[int, list[torch.Tensor]]:
        """Return the features of the decoded images by index, and keep them."""
        found = {}
        size = 1 if self.device.type == "cpu" else max(1, len(batch.images))
        parts = [self.embedder.layer_features(part.to(self.device)) for part in batch.images.split(size)]
        each = [list(layers) for part in parts for layers in zip(*part, strict=True)] if batch.indices else []
        for index, sha256, layers in zip(batch.indices, batch.sha256, each, strict=True):
            cache.write(sha256, layers)
            found[index] = layers
        return found

    def gather(self, indices: Sequence[int], room: int, meter: ProgressMeter) -> torch.Tensor:
        """Return the patches of images in one piece of memory that is allocated once.

        Args:
            indices: of the images, in the order wanted.
            room: rows to allocate. An image that changed its size since it was checked may bring more than was counted;
                what is beyond the room is left out.
            meter: advanced by each image.

        Returns:
            float32 (N, D) on the device, N <= ``room``.
        """
        found = torch.empty((room, self.channels), device=self.device)
        filled = 0
        for vectors in self.each(indices, meter):
            taken = vectors[: room - filled]
            found[filled : filled + len(taken)] = taken
            filled += len(taken)
        return found[:filled]

    def patches_of(self, indices: Sequence[int]) -> int:
        """Return how many patches images have, by the sizes that they had when they were checked."""
        return sum(self._counts[self.images.prepared_shapes[index]] for index in indices)
