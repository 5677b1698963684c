"""The network: patches of a frozen encoder, an image decoder, a memory, and the one map that is made of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vad_lib.detectors.maps import Blur, abnormal_maps
from vad_lib.encoders.protocol import Encoder

Patches = Sequence[torch.Tensor]
"""(N, C, rows, columns) for each level; levels may differ in C, rows and columns."""


class ImageDecoder(nn.Module):
    """A linear layer for each level, whose results are compared with one vector for normal and one for abnormal.

    Args:
        channels: of each level.
        vectors: (2, D), where the vectors start; normal first.
        learnt: whether the vectors are learnt too. Vectors that come from texts stay as they are.
    """

    def __init__(self, channels: Sequence[int], vectors: torch.Tensor, *, learnt: bool) -> None:
        super().__init__()
        self.levels = nn.ModuleList(StandardisedLinear(count, vectors.shape[1]) for count in channels)
        self.vectors = nn.Parameter(vectors.clone(), requires_grad=learnt)

    def forward(self, patches: Patches, size: tuple[int, int]) -> list[torch.Tensor]:
        """Return, for each level, the probability that each pixel is abnormal, (N, H, W)."""
        projected = [level(one) for level, one in zip(self.levels, patches, strict=True)]
        return abnormal_maps(projected, [self.vectors] * len(projected), size)


class StandardisedLinear(nn.Module):
    """A linear layer over the channels of (N, C, rows, columns), each channel brought to mean 0 and deviation 1 before.

    Mean and deviation are those of normal patches and no part of what is learnt: channels of a convolutional network
    differ by orders of magnitude.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, width)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return (N, width, rows, columns)."""
        rows = (patches.movedim(1, -1) - self.mean) / self.deviation
        projected: torch.Tensor = self.linear(rows)
        return projected.movedim(-1, 1)


class Memory(nn.Module):
    """Patches of normal images, each of length 1.

    Args:
        rows: float32 (n, C) for each level.
    """

    def __init__(self, rows: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.rows = nn.ParameterList(nn.Parameter(level, requires_grad=False) for level in rows)

    def forward(self, patches: Patches, size: tuple[int, int]) -> torch.Tensor:
        """Return one minus the mean over levels of the largest cosine similarity, (N, H, W)."""
        found = []
        for level, rows in zip(patches, self.rows, strict=True):
            cosine = torch.einsum("nchw,rc->nrhw", functional.normalize(level, dim=1), rows)
            nearest = cosine.amax(dim=1, keepdim=True)
            found.append(functional.interpolate(nearest, size=size, mode="bilinear", align_corners=False)[:, 0])
        return 1.0 - torch.stack(found).mean(0)


class MapNetwork(nn.Module):
    """Images (N, 3, H, W) in 0..1 to scores (N,) and maps (N, H, W), both 0..1 and abnormal from 0.5 on.

    Each part's map is blurred; the mean of the parts, each in units of its own spread, goes through a logistic curve.
    ``calibrate`` sets the spread and the curve.

    Args:
        encoder: frozen.
        decoder: None where the memory alone decides.
        memory: None where the decoder alone decides.
    """

    centre: torch.Tensor
    spread: torch.Tensor
    slope: torch.Tensor
    offset: torch.Tensor

    def __init__(self, encoder: Encoder, decoder: ImageDecoder | None, memory: Memory | None) -> None:
        super().__init__()
        self.encoder, self.decoder, self.memory = encoder, decoder, memory
        self.blur = Blur()
        parts = sum(part is not None for part in (decoder, memory))
        self.register_buffer("centre", torch.zeros(parts))
        self.register_buffer("spread", torch.ones(parts))
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        fused = self.fuse(self.part_maps(self.encoder(images).patches, (images.shape[2], images.shape[3])))
        maps = torch.sigmoid(self.slope * fused + self.offset)
        return maps.amax(dim=(1, 2)), maps

    def part_maps(self, patches: Patches, size: tuple[int, int]) -> torch.Tensor:
        """Return the blurred map of each part, (parts, N, H, W)."""
        found = []
        if self.decoder is not None:
            found.append(torch.stack(self.decoder(patches, size)).mean(0))
        if self.memory is not None:
            found.append(self.memory(patches, size))
        return torch.stack([self.blur(one) for one in found])

    def fuse(self, parts: torch.Tensor) -> torch.Tensor:
        """Return the mean (N, H, W) of the parts' maps (parts, N, H, W), each in units of its own spread."""
        return ((parts - self.centre.view(-1, 1, 1, 1)) / self.spread.view(-1, 1, 1, 1)).mean(0)

    def set_calibration(self, **values: Any) -> None:
        """Set some of ``centre``, ``spread``, ``slope`` and ``offset``."""
        for name, value in values.items():
            getattr(self, name).copy_(torch.as_tensor(value))


def logistic_curve(normal: torch.Tensor, damaged: torch.Tensor) -> tuple[float, float]:
    """Return slope and offset of the curve that gives 0.5 where normal (n,) and damaged (m,) are equally probable.

    Both classes weigh the same, whatever their numbers. The slope is never falling: where the damaged ones are not
    above the normal ones, the curve is nearly flat, and crosses 0.5 midway.

    Paper: Platt, "Probabilistic Outputs for Support Vector Machines" (1999).
    """
    from sklearn.linear_model import LogisticRegression

    values = torch.cat([normal, damaged]).double().numpy()[:, None]
    labels = [0] * len(normal) + [1] * len(damaged)
    found = LogisticRegression(class_weight="balanced").fit(values, labels)
    slope, offset = float(found.coef_[0, 0]), float(found.intercept_[0])
    if slope < LEAST_SLOPE:
        return LEAST_SLOPE, -LEAST_SLOPE * float(normal.mean() + damaged.mean()) / 2
    return slope, offset


LEAST_SLOPE = 0.1
