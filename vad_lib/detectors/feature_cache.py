"""Features of images on disk, by content, so that a retrain extracts only what is new.

An entry is what a frozen backbone makes of one image: float32, exactly the bits that were computed. Its name is the
sha256 of the image file's bytes; its folder is a digest of everything else that the bits depend on (weights, layers,
preparation of the image, versions, kind of processor, threads). A file that was changed, or another plan, has
other names, so nothing is ever stale; it only grows old.

The cache is shared by all lines of a home. Above its limit the entries that were not used for longest go. What one
training is going to use is not pushed out by it: of a set that is larger than the cache, the part that fits stays,
and is there the next time. Layers of 256 x 256 pixels take .75 MiB an image with resnet18 (layer2, layer3), 3 MiB with
wide_resnet50_2.

An entry is written aside and renamed, without waiting for the disk; a checksum tells entries that a power cut damaged,
and they are written anew. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
import zlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vad_lib.atomic_files import write_whole
from vad_lib.settings import settings

if TYPE_CHECKING:
    from vad_lib.detectors.images import ImageDataset
    from vad_lib.encoders.weight_file import BackboneWeights

SUFFIX = ".safetensors"
FEATURES_VERSION = 1
"""Raise it with every change of decoding, preparation or a backbone of our own that moves a feature by a bit."""
LIBRARIES = ("torch", "timm", "pillow", "numpy")
"""Whose versions may move a feature by a bit: networks, decoding, and preparation are theirs."""
LEFT_BEHIND_SECONDS = 3600
"""Age from which a half-written file is of a process that died."""


class FeatureCache:
    """A folder of features with a limit.

    Args:
        folder: made where absent.
        limit_bytes: most bytes of all entries; nothing is kept where it is 0.

    Attributes:
        hits: images whose features were found.
        misses: images whose features were not found, or damaged.
        left_out: features that were not kept because the cache is full of what this training uses.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.hits = self.misses = self.left_out = 0
        self._lock = threading.Lock()
        self._context = ""
        self._used: set[Path] = set()
        self._total = 0
        self._oldest: list[tuple[float, int, Path]] = []

    @classmethod
    def from_environment(cls, folder: Path) -> FeatureCache | None:
        """Return the cache with the limit of ``VAD_FEATURE_CACHE_GIB``; None where that is 0.

        Raises:
            InputError: it is not a number of at least 0.
        """
        limit = settings().feature_cache_gib
        return cls(folder, int(limit * 2**30)) if limit else None

    def begin(self, facts: dict[str, Any], device: torch.device, wanted: Sequence[str] = ()) -> None:
        """Begin a training: count from 0, look at what is there, and read and write under these facts.

        Args:
            facts: everything that features depend on beside the image file, JSON-ready.
            device: where they are computed.
            wanted: sha256 of the files that it will read: these entries make room for no other.
        """
        everything = {
            **facts,
            "features": FEATURES_VERSION,
            "libraries": {name: version(name) for name in LIBRARIES},
            "device": device.type,
            "processor": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        }
        self._context = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]
        self.hits = self.misses = self.left_out = 0
        self._used = {self._file(sha256) for sha256 in wanted}
        entries = self._look()
        self._total = sum(size for _, size, _ in entries)
        self._oldest = sorted(entries, reverse=True)

    def read(self, sha256: str) -> list[torch.Tensor] | None:
        """Return the features of an image, on the CPU; None where they are not there or damaged. Threads may call it.

        Args:
            sha256: of the file's bytes.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        file = self._file(sha256)
        try:
            data = file.read_bytes()
            if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
                raise ValueError("damaged")
            tensors = load(data[:-4])
            os.utime(file)
        except (OSError, ValueError, SafetensorError):
            with self._lock:
                self.misses += 1
            return None
        with self._lock:
            self._used.add(file)
            self.hits += 1
        return [tensors[name] for name in sorted(tensors)]

    def write(self, sha256: str, features: list[torch.Tensor]) -> None:
        """Keep the features of an image; silently not, where there is no room or the disk refuses.

        Args:
            sha256: of the file's bytes.
            features: at most 100 tensors, returned by ``read`` in this order.
        """
        from safetensors.torch import save

        data = save({f"{number:02d}": tensor.cpu().contiguous() for number, tensor in enumerate(features)})
        data += zlib.crc32(data).to_bytes(4, "big")
        if not self._make_room(len(data)):
            self.left_out += 1
            return
        file = self._file(sha256)
        with contextlib.suppress(OSError):  # a full disk must not stop a training
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, data, durable=False)
            self._used.add(file)
            self._total += len(data)

    def _file(self, sha256: str) -> Path:
        return self.folder / self._context / sha256[:2] / (sha256 + SUFFIX)

    def _look(self) -> list[tuple[float, int, Path]]:
        """Return (time of last use, bytes, file) of all entries; what dead processes left behind is removed."""
        entries = []
        for place, _, names in os.walk(self.folder):
            for name in names:
                file = Path(place, name)
                with contextlib.suppress(OSError):  # another process may remove it meanwhile
                    status = file.stat()
                    if name.endswith(SUFFIX):
                        entries.append((status.st_mtime, status.st_size, file))
                    elif time.time() - status.st_mtime > LEFT_BEHIND_SECONDS:
                        file.unlink()
        return entries

    def _make_room(self, size: int) -> bool:
        while self._total + size > self.limit_bytes and self._oldest:
            _, freed, file = self._oldest.pop()
            if file in self._used:
                continue
            with contextlib.suppress(OSError):
                file.unlink()
            self._total -= freed
        return self._total + size <= self.limit_bytes


def begin_cache(
    cache: FeatureCache | None,
    images: ImageDataset,
    facts: dict[str, Any],
    weights: BackboneWeights,
    device: torch.device,
) -> FeatureCache | None:
    """Begin a cache for a fit, or return None where it would be of no use: augmented images, random weights.

    Args:
        cache: or None.
        images: that the fit reads.
        facts: what features depend on beside the images, their preparation and the machine; JSON-ready.
        weights: of the backbone.
        device: where features are computed.
    """
    if cache is None or images.augmentation is not None or not weights.sha256:
        return None
    cache.begin({**facts, "preprocessing": images.preprocessing.to_json()}, device, images.sha256 or ())
    return cache


def cache_numbers(cache: FeatureCache | None) -> dict[str, float]:
    """Return what a fit took from the cache and what it extracted, for its report; nothing without a cache."""
    if cache is None:
        return {}
    return {"features_from_cache": float(cache.hits), "features_extracted": float(cache.misses)}
