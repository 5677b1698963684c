"""Image files as batches for a detector: decoded ahead of use, grouped by shape, one bad file never in the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from vad_lib.images.decoding import decode_bytes
from vad_lib.images.paths import read_regular_file
from vad_lib.preprocessing import Preprocessing

READERS = 2
"""Threads that decode; decoders release the interpreter. More than two slow the network down on small machines."""

Item = TypeVar("Item")


Known = Callable[[str], "list[torch.Tensor] | None"]
"""From the sha256 of a file's bytes to the features of its image, or None where they are not known."""


@dataclass(frozen=True)
class Batch:
    """Images of one shape, or what is known of them already.

    Attributes:
        indices: into the dataset, of ``images``.
        images: float32 (N, 3, H, W) in 0..1.
        sha256: of the files' bytes.
        known: features by index, of images that were not decoded because their features are known.
        order: indices of both, in the order asked for.
    """

    indices: list[int]
    images: torch.Tensor
    sha256: list[str]
    known: dict[int, list[torch.Tensor]]
    order: list[int]


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
        return self.read(index)[0]

    def read(self, index: int) -> tuple[torch.Tensor, str]:
        """Return one prepared image as ``[index]`` does, and the sha256 of its file's bytes: one read gives both."""
        return self._prepare(index, read_regular_file(self.files[index]))

    def read_unless_known(self, index: int, known: Known) -> tuple[torch.Tensor | None, str, list[torch.Tensor] | None]:
        """Return image, sha256 and None, or, without decoding, None, sha256 and the features that are known."""
        data = read_regular_file(self.files[index])
        sha256 = hashlib.sha256(data).hexdigest()
        features = known(sha256)
        if features is not None:
            return None, sha256, features
        return *self._prepare(index, data, sha256), None

    def _prepare(self, index: int, data: bytes, sha256: str | None = None) -> tuple[torch.Tensor, str]:
        file = self.files[index]
        decoded = decode_bytes(data, file, sha256=sha256)
        try:
            image = self.preprocessing.prepare(decoded.values)
        except VadError as error:
            raise UnreadableImageError(file, str(error)) from error
        if self.augmentation is not None:
            image = self.augmentation.apply(image, index=index, epoch=self.epoch)
        return image, decoded.sha256

    def batches(
        self, batch_size: int, order: Sequence[int] | None = None, known: Known | None = None
    ) -> Iterator[Batch]:
        """Yield all readable images once, in batches of equal shape, read ahead in the background.

        Args:
            batch_size: most images in a batch.
            order: indices in the order wanted; as they stand by default. Grouping by shape may delay an image.
            known: asked before an image is decoded, in the reading threads; must not be given with augmentation.
        """
        indices = range(len(self)) if order is None else order
        reader = _WithReasons(self, known)
        loader: Iterable[list[Batch]] = DataLoader(
            reader,
            batch_sampler=group_by_shape(indices, self.prepared_shapes, batch_size),
            collate_fn=self._collate,
            # The loader draws a seed for worker processes at its start; there are none, and the global state of the
            # generator must not depend on how often images are read.
            generator=torch.Generator(),
        )
        try:
            for batches in read_ahead(loader):
                yield from batches
        finally:
            reader.pool.shutdown(wait=False, cancel_futures=True)

    def _collate(self, items: list[_Item]) -> list[Batch]:
        """Stack; images whose file changed its size since it was checked fall into a batch of their own."""
        by_shape: dict[tuple[int, ...], list[_Item]] = {}
        for item in items:
            if item.image is not None:
                by_shape.setdefault(tuple(item.image.shape), []).append(item)
            elif item.features is not None:
                by_shape.setdefault((3, *self.prepared_shapes[item.index]), []).append(item)
        return [_batch_of(group, shape) for shape, group in by_shape.items()]


@dataclass(frozen=True)
class _Item:
    """One image: decoded, or known, or neither where it cannot be read."""

    index: int
    image: torch.Tensor | None = None
    sha256: str = ""
    features: list[torch.Tensor] | None = None


class _WithReasons(Dataset[_Item]):
    """Reads a batch with several threads and notes what could not be read."""

    def __init__(self, images: ImageDataset, known: Known | None) -> None:
        self.images = images
        self.known = known
        self.pool = ThreadPoolExecutor(READERS, thread_name_prefix="vad-read")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> _Item:
        try:
            if self.known is None:
                return _Item(index, *self.images.read(index))
            return _Item(index, *self.images.read_unless_known(index, self.known))
        except UnreadableImageError as error:
            self.images.unreadable[index] = error.reason
            return _Item(index)

    def __getitems__(self, indices: list[int]) -> list[_Item]:
        return list(self.pool.map(self.__getitem__, indices))


def _batch_of(items: list[_Item], shape: tuple[int, ...]) -> Batch:
    decoded = [(item, item.image) for item in items if item.image is not None]
    return Batch(
        indices=[item.index for item, _ in decoded],
        images=torch.stack([image for _, image in decoded]) if decoded else torch.empty((0, *shape)),
        sha256=[item.sha256 for item, _ in decoded],
        known={item.index: item.features for item in items if item.features is not None},
        order=[item.index for item in items],
    )


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
