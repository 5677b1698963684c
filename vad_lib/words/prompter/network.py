"""From an image to the vectors that stand in a prompt: a frozen encoder, an image decoder, and a small network."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from vad_lib.detectors.anomalygpt.network import ImageDecoder
from vad_lib.encoders.protocol import Encoder

PLACES_A_SIDE = 3
"""The last convolution leaves 3 x 3 vectors: one for each of the nine places of the image."""
BASE_VECTORS = 9
"""Vectors that are learnt and do not depend on the image."""
STAGES = 5
"""Times that the map is halved, from 224 pixels to 7."""
FIRST_CHANNELS = 8
"""Of the first stage; each further one has twice as many."""


class MapPrompter(nn.Module):
    """Maps to vectors of the width of a language model's words.

    Each stage is a 3 x 3 convolution, ReLU and 2 x 2 maximum; it halves the map, down to 7 x 7. One convolution more
    makes 3 x 3 vectors of that, and learnable base vectors stand behind them.

    Args:
        width: numbers in a vector of the language model.
        scale: spread of the numbers in its vectors of words; the vectors made here start with about the same.
        stages: the map has ``7 * 2**stages`` pixels a side.
        base: vectors that do not depend on the map.
    """

    scale: torch.Tensor

    def __init__(self, width: int, scale: float = 1.0, stages: int = STAGES, base: int = BASE_VECTORS) -> None:
        super().__init__()
        self.stages_count, self.side = stages, 7 * 2**stages
        channels = [1, *(FIRST_CHANNELS * 2**stage for stage in range(stages))]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.stages = nn.Sequential(*layers)
        self.last = nn.Conv2d(channels[-1], width, 7 - PLACES_A_SIDE + 1)
        self.base = nn.Parameter(torch.randn(base, width))
        self.register_buffer("scale", torch.tensor(scale))

    @property
    def count(self) -> int:
        """Vectors that an image gets."""
        return PLACES_A_SIDE**2 + len(self.base)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return (N, count, width) for maps (N, H, W) in 0..1 of any size."""
        sized = functional.interpolate(maps[:, None], (self.side, self.side), mode="bilinear", align_corners=False)
        places = self.last(self.stages(sized)).flatten(2).transpose(1, 2)
        return self.scale * torch.cat([places, self.base.expand(len(maps), -1, -1)], dim=1)


class PromptNetwork(nn.Module):
    """All that stands before the language model.

    Args:
        encoder: frozen.
        decoder: of the encoder's patches; it learns.
        prompter: of the decoder's maps; it learns.
    """

    def __init__(self, encoder: Encoder, decoder: ImageDecoder, prompter: MapPrompter) -> None:
        super().__init__()
        self.encoder, self.decoder, self.prompter = encoder, decoder, prompter

    def learnt(self) -> list[nn.Parameter]:
        """Return the parameters of decoder and prompter that learn."""
        parts = (*self.decoder.parameters(), *self.prompter.parameters())
        return [one for one in parts if one.requires_grad]

    def forward(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the map of each level (N, H, W) in 0..1, and the vectors (N, count, width), of images (N, 3, H, W)."""
        with torch.no_grad():
            patches = self.encoder(images).patches
        levels = self.decoder(patches, (images.shape[2], images.shape[3]))
        return levels, self.prompter(torch.stack(levels).mean(0))
