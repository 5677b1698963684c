"""From images to the vectors that a head judges: one for the whole image, or one for each patch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from vad_lib.encoders.encoder import Embedding, Encoder


class Features(nn.Module):
    """The vectors of images from one or several encoders.

    Args:
        encoders: their vectors are put together, each encoder's with the same weight.
        patch_level: whether the patches are wanted, or the whole image.
    """

    def __init__(self, encoders: Sequence[Encoder], patch_level: bool) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.patch_level = patch_level

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return float32 (N, D) of images (N, 3, H, W), or (N, rows, columns, D) on patch level."""
        found: list[Embedding] = [encoder(images) for encoder in self.encoders]
        if self.patch_level:
            return join_patches([layer for embedding in found for layer in embedding.patches])
        if len(found) == 1:
            return found[0].vectors
        joined = torch.cat([functional.normalize(embedding.vectors, dim=1) for embedding in found], dim=1)
        return joined / len(found) ** 0.5


def join_patches(layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Put layers (N, C, rows, columns) together as (N, rows, columns, D), on the grid of the finest one.

    Each layer is given length 1, so that none outweighs the others; the whole vector has length 1 too.
    """
    size = max((layer.shape[2], layer.shape[3]) for layer in layers)
    enlarged = [
        layer if layer.shape[2:] == size else functional.interpolate(layer, size=size, mode="bilinear")
        for layer in layers
    ]
    joined = torch.cat([functional.normalize(layer, dim=1) for layer in enlarged], dim=1) / len(layers) ** 0.5
    return joined.permute(0, 2, 3, 1)
