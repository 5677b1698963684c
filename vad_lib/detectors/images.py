"""Image files as batches for a detector: decoded ahead of use, grouped by shape, one bad file never in the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from vad_lib.augmentation import Augmentation
from vad_lib.errors import UnreadableImageError, VadError
from vad_lib.images.decoding import decode_image
from vad_lib.preprocessing import Preprocessing

READERS = 2
"""Threads that decode; decoders release the interpreter. More than two slow the network down on small machines."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """Images of one shape: ``indices`` into the dataset, and ``images`` float32 (N, 3, H, W) in 0..1."""

    indices: list[int]
    images: torch.Tensor


class ImageDataset(Dataset[torch.Tensor]):
    """Prepared images of files, decoded when asked for.

    Args:
        files: absolute paths.
        preprocessing: brings each image to its size.
        shapes: (height, width) of each file in pixels, to group by shape without opening anything.
        is_anomalous: true labels, or None where they are not known.
        augmentation: for training images; None for all others.
        sha256: of the files' bytes when they were checked, where that is known.

    Attributes:
        unreadable: reasons by index, of files that could not be read when their turn came; they are left out.
        epoch: which pass this is; augmentation draws anew in each.
    """

    def __init__(
        self,
        files: Sequence[Path],
        preprocessing: Preprocessing,
        *,
        shapes: Sequence[tuple[int, int]],
        is_anomalous: Sequence[bool] | None = None,
        augmentation: Augmentation | None = None,
        sha256: Sequence[str] | None = None,
    ) -> None:
        self.files = list(files)
        self.sha256 = None if sha256 is None else list(sha256)
        self.preprocessing = preprocessing
        self.augmentation = augmentation if augmentation is not None and augmentation.changes_images else None
        self.is_anomalous = None if is_anomalous is None else np.asarray(is_anomalous, dtype=bool)
        self.prepared_shapes = [preprocessing.shape_for(height, width) for height, width in shapes]
        self.unreadable: dict[int, str] = {}
        self.epoch = 0

    @classmethod
    def from_rows(
        cls, rows: pd.DataFrame, preprocessing: Preprocessing, augmentation: Augmentation | None = None
    ) -> ImageDataset:
        """Build from validated rows (``tables.ValidatedRows``)."""
        labels = rows["is_anomalous"]
        return cls(
            [Path(file) for file in rows["file"]],
            preprocessing,
            shapes=list(zip(rows["height"].astype(int), rows["width"].astype(int), strict=True)),
            is_anomalous=None if labels.isna().any() else labels.astype(bool).tolist(),
            augmentation=augmentation,
            sha256=rows["sha256"].tolist(),
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return one prepared image, float32 (3, H, W) in 0..1.

        Raises:
            UnreadableImageError: the file is gone or damaged, or too long and thin for the image size.
        """
        file = self.files[index]
        decoded = decode_image(file)
        try:
            image = self.preprocessing.prepare(decoded.pixels)
        except VadError as error:
            raise UnreadableImageError(file, str(error)) from error
        return image if self.augmentation is None else self.augmentation.apply(image, index=index, epoch=self.epoch)

    def batches(self, batch_size: int, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield all readable images once, in batches of equal shape, read ahead in the background.

        Args:
            batch_size: most images in a batch.
            order: indices in the order wanted; as they stand by default. Grouping by shape may delay an image.
        """
        indices = range(len(self)) if order is None else order
        loader: Iterable[list[Batch]] = DataLoader(
            _WithReasons(self),
            batch_sampler=group_by_shape(indices, self.prepared_shapes, batch_size),
            collate_fn=_collate,
            # The loader draws a seed for worker processes at its start; there are none, and the global state of the
            # generator must not depend on how often images are read.
            generator=torch.Generator(),
        )
        for batches in read_ahead(loader):
            yield from batches


class _WithReasons(Dataset[tuple[int, torch.Tensor | None]]):
    """Reads a batch with several threads and notes what could not be read."""

    def __init__(self, images: ImageDataset) -> None:
        self.images = images
        self.pool = ThreadPoolExecutor(READERS, thread_name_prefix="vad-read")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor | None]:
        try:
            return index, self.images[index]
        except UnreadableImageError as error:
            self.images.unreadable[index] = error.reason
            return index, None

    def __getitems__(self, indices: list[int]) -> list[tuple[int, torch.Tensor | None]]:
        return list(self.pool.map(self.__getitem__, indices))


def _collate(items: list[tuple[int, torch.Tensor | None]]) -> list[Batch]:
    """Stack; images whose file changed its size since it was checked fall into a batch of their own."""
    by_shape: dict[tuple[int, ...], list[tuple[int, torch.Tensor]]] = {}
    for index, image in items:
        if image is not None:
            by_shape.setdefault(tuple(image.shape), []).append((index, image))
    return [
        Batch([index for index, _ in group], torch.stack([image for _, image in group])) for group in by_shape.values()
    ]


def group_by_shape(indices: Iterable[int], shapes: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Group indices into batches of one shape, each as early as it is full, the rest at the end.

    >>> group_by_shape(range(5), [(1, 1), (2, 2), (1, 1), (1, 1), (2, 2)], 2)
    [[0, 2], [1, 4], [3]]
    """
    waiting: dict[tuple[int, int], list[int]] = {}
    batches = []
    for index in indices:
        group = waiting.setdefault(shapes[index], [])
        group.append(index)
        if len(group) == batch_size:
            batches.append(waiting.pop(shapes[index]))
    return [*batches, *waiting.values()]


def read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items of an iterable, the next one being made in a thread while this one is used."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="vad-ahead") as pool:
        source = iter(items)
        following = pool.submit(next, source, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, source, end)
            yield item  # type: ignore[misc]
