"""What a detector says its fit will take, and the means to find out: some of the line's own images, timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from vad_lib.errors import InputError
from vad_lib.machine import size_text

if TYPE_CHECKING:
    import torch

    from vad_lib.detectors.images import ImageDataset

PROBE_IMAGES = 16
"""Images that are tried before a fit."""
PROBE_BATCH = 4
PLAIN_SIDE = 256
"""Pixels of a side of the plain image that is timed where there are no images."""


class Part(BaseModel):
    """One part of the work."""

    model_config = ConfigDict(frozen=True)

    name: str
    seconds: float = Field(ge=0)
    least_seconds: float = Field(ge=0, description="Where it may end early; else the same.")

    @classmethod
    def of(cls, name: str, seconds: float) -> Part:
        """Return a part that cannot end early."""
        return cls(name=name, seconds=seconds, least_seconds=seconds)


class Size(BaseModel):
    """A size that a detector knows before its fit and after it, such as the rows of its memory."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="For a tracker: a word, such as bank_rows.")
    label: str = Field(description="For people.")
    value: float = Field(ge=0)


class FitForecast(BaseModel):
    """What a fit is expected to take, and the speed of what comes out."""

    model_config = ConfigDict(frozen=True)

    parts: tuple[Part, ...] = Field(description="Of the fit.")
    ms_per_image: float = Field(ge=0, description="To decode and score one image, one after the other.")
    peak_memory_bytes: int = Field(ge=0, description="Resident memory of the whole process at its peak.")
    model_bytes: int = Field(ge=0, description="Of the fitted model on disk.")
    method: str = Field(default="", description="How it will be fitted, in a word, where the detector has a choice.")
    sizes: tuple[Size, ...] = Field(default=(), description="Of what it will learn; see ``Detector.sizes``.")
    notes: tuple[tuple[str, str], ...] = Field(default=(), description="What else a person should see: what, value.")
    problems: tuple[str, ...] = Field(default=(), description="Why it cannot be done; empty where it can.")
    advice: tuple[str, ...] = Field(default=(), description="What would fit, where it cannot be done.")


def memory_problems(what: str, expected: int, memory_bytes: int) -> tuple[str, ...]:
    """Return the sentence that says that memory does not suffice, or nothing where it does.

    Args:
        what: needs memory for what, as 'PatchCore needs about {} of memory for 5 patches'; {} becomes the size.
        expected: bytes at the peak.
        memory_bytes: that the process may grow to.
    """
    if expected <= memory_bytes:
        return ()
    return (f"{what.format(size_text(expected))}, and the machine has {size_text(memory_bytes)} left.",)


def spread_evenly(positions: Sequence[int], most: int) -> list[int]:
    """Return ``most`` of the positions, evenly spread over them, or all where there are fewer."""
    places = np.linspace(0, len(positions) - 1, min(most, len(positions))).round().astype(int)
    return [positions[place] for place in places]


def sample_of(images: ImageDataset, count: int = PROBE_IMAGES) -> ImageDataset:
    """Return up to ``count`` of the images, evenly spread over all of them, prepared in the same way."""
    from vad_lib.detectors.images import ImageDataset

    chosen = spread_evenly(range(len(images)), count)
    labels = images.is_anomalous
    return ImageDataset(
        [images.files[index] for index in chosen],
        images.preprocessing,
        # shapes after preparation are not changed by preparing once more
        shapes=[images.prepared_shapes[index] for index in chosen],
        is_anomalous=None if labels is None else labels[chosen].tolist(),
        augmentation=images.augmentation,
    )


def seconds_of(device: torch.device, work: Callable[[], object], times: int = 3) -> float:
    """Return the least of several times, the first of which only warms up."""
    found = []
    for _ in range(times + 1):
        start = time.perf_counter()
        work()
        finish(device)
        found.append(time.perf_counter() - start)
    return min(found[1:])


def seconds_an_image(
    images: ImageDataset,
    device: torch.device,
    work: Callable[[torch.Tensor], object],
    batch_size: int = PROBE_BATCH,
    forget: Callable[[], object] = lambda: None,
) -> float:
    """Return the time of reading and ``work`` per image, overlapped as in a fit, after a first batch to warm up.

    Args:
        images: a sample; where it has none, ``work`` is timed with a plain grey image, without the reading.
        device: where ``work`` computes.
        work: done with each batch on that device.
        batch_size: images at once.
        forget: called after the first batch, whose results do not count.

    Raises:
        InputError: none of the images can be read.
    """
    if not len(images):
        import torch

        plain = torch.full((1, 3, *images.preprocessing.shape_for(PLAIN_SIDE, PLAIN_SIDE)), 0.5, device=device)
        return seconds_of(device, lambda: work(plain), 1)
    for batch in images.batches(1):
        work(batch.images.to(device))
        break
    forget()
    finish(device)
    start, done = time.perf_counter(), 0
    for batch in images.batches(batch_size):
        work(batch.images.to(device))
        done += len(batch.indices)
    finish(device)
    if not done:
        raise InputError(f"None of {len(images)} training images that were tried can be read.")
    return (time.perf_counter() - start) / done


def finish(device: torch.device) -> None:
    """Wait for a GPU, which is told what to do long before it has done it."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
