"""What every image encoder is to a detector: images in, one vector for each image and for each of its patches out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import PlanError


@dataclass(frozen=True)
class Embedding:
    """What an encoder makes of N images.

    Attributes:
        vectors: float32 (N, D), one for each whole image; not normalised.
        patches: one float32 (N, C, rows, columns) for each chosen layer, shallowest first; layers may differ in C, rows
            and columns.
    """

    vectors: torch.Tensor
    patches: tuple[torch.Tensor, ...]


class Encoder(nn.Module, ABC):
    """A frozen image encoder, perhaps with a text encoder beside it.

    Args:
        weights: with the encoder's name, sha256, mean, deviation and licence.
    """

    def __init__(self, weights: BackboneWeights) -> None:
        super().__init__()
        self.weights = weights

    @abstractmethod
    def forward(self, images: torch.Tensor) -> Embedding:
        """Encode images, float32 (N, 3, H, W) in 0..1; they are normalised here.

        Raises:
            PlanError: the encoder cannot take images of this size.
        """

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Return one vector for each text, float32 (M, D), in the space of ``Embedding.vectors``; each of length 1.

        Raises:
            PlanError: the encoder has no text tower.
        """
        raise PlanError(
            f"The encoder {self.weights.name} has no text tower. Take a CLIP or SigLIP folder, or a detector that "
            "needs no texts."
        )
