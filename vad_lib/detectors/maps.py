"""From numbers of patches to maps of pixels: enlarged, blurred, or compared with a normal and an abnormal vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

SIGMA = 4
"""Of the blur of maps, in pixels; anomalib's default, and that of AnomalyCLIP's authors."""
TEMPERATURE = 0.07
"""Of the softmax over normal and abnormal, as CLIP was trained."""


class MapMaker(nn.Module):
    """Patch distances to a map: enlarged to the image by nearest neighbours, then blurred with sigma 4.

    As anomalib's ``AnomalyMapGenerator``; its 33 x 33 kernel is the product of two lines, which take a tenth of the
    time.
    """

    line: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        reach = int(4.0 * SIGMA + 0.5)
        weights = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2.0 * SIGMA**2))
        self.register_buffer("line", weights / weights.sum(), persistent=False)

    def forward(self, distances: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Return (N, H, W) for distances (N, rows, columns); H and W are larger than 16."""
        reach = len(self.line) // 2
        large = functional.interpolate(distances[:, None], size=size)
        padded = functional.pad(large, (reach, reach, reach, reach), mode="reflect")
        across = functional.conv2d(padded, self.line.view(1, 1, 1, -1))
        return functional.conv2d(across, self.line.view(1, 1, -1, 1))[:, 0]


class Blur(nn.Module):
    """A gaussian blur of maps (N, H, W) as ``scipy.ndimage.gaussian_filter`` does it, the border mirrored."""

    line: torch.Tensor

    def __init__(self, sigma: float = SIGMA) -> None:
        super().__init__()
        self.reach = int(4.0 * sigma + 0.5)
        weights = torch.exp(-0.5 * (torch.arange(-self.reach, self.reach + 1).double() / sigma) ** 2)
        self.register_buffer("line", (weights / weights.sum()).float(), persistent=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return maps of the same size."""
        wide = maps[:, self._mirrored(maps.shape[1])][:, :, self._mirrored(maps.shape[2])][:, None]
        across = functional.conv2d(wide, self.line.view(1, 1, 1, -1))
        return functional.conv2d(across, self.line.view(1, 1, -1, 1))[:, 0]

    def _mirrored(self, length: int) -> torch.Tensor:
        place = torch.arange(-self.reach, length + self.reach, device=self.line.device) % (2 * length)
        return torch.minimum(place, 2 * length - 1 - place)


def abnormal_maps(
    patches: Sequence[torch.Tensor], vectors: Sequence[torch.Tensor], size: tuple[int, int]
) -> list[torch.Tensor]:
    """Return, for each level, the probability that each pixel is abnormal, (N, H, W).

    Args:
        patches: (N, C, rows, columns) for each level.
        vectors: (2, C) for each level, normal and abnormal.
        size: (H, W).
    """
    maps = []
    for level, pair in zip(patches, vectors, strict=True):
        cosine = torch.einsum("nchw,kc->nkhw", functional.normalize(level, dim=1), functional.normalize(pair))
        abnormal = (cosine / TEMPERATURE).softmax(dim=1)[:, 1:]
        maps.append(functional.interpolate(abnormal, size=size, mode="bilinear", align_corners=False)[:, 0])
    return maps
