"""One door to image encoders: an image becomes one vector, and a vector for each of its patches.

A detector that works with any encoder asks for nothing else. ``create_encoder`` makes one from the weights that were
found; which library is behind it is said by the weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from vad_lib.encoders.build import Normalise, create_backbone, layer_names
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


class TimmEncoder(Encoder):
    """Any network of timm: the vector of an image is the mean of its patches, layer by layer, each of length 1."""

    def __init__(self, weights: BackboneWeights, layers: Sequence[str]) -> None:
        super().__init__(weights)
        self.normalise = Normalise(weights)
        self.network = create_backbone(weights, layers)

    def forward(self, images: torch.Tensor) -> Embedding:
        """See ``Encoder.forward``."""
        try:
            patches = tuple(self.network(self.normalise(images)))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise PlanError(
                f"The encoder {self.weights.name} cannot take images of {images.shape[2]} x {images.shape[3]} pixels "
                f"({error}). Change img_size, or take another encoder."
            ) from error
        means = [functional.normalize(layer.mean(dim=(2, 3)), dim=1) for layer in patches]
        return Embedding(torch.cat(means, dim=1), patches)


def default_layers(weights: BackboneWeights) -> tuple[str, ...]:
    """Return the layers to take where a plan names none: the sidecar's, else those around the middle.

    The first layers see edges only and the last one knows what an image shows rather than what it looks like.
    """
    if weights.layers:
        return weights.layers
    names = layer_names(weights)
    if len(names) < 6:  # a convolutional network's stages
        return tuple(names[-3:-1] or names)
    return tuple(names[len(names) * quarter // 4] for quarter in (1, 2, 3))


def create_encoder(weights: BackboneWeights, layers: Sequence[str] = ()) -> Encoder:
    """Return the encoder that these weights are of.

    Args:
        weights: what ``resolve_backbone_weights`` found.
        layers: whose patches are wanted; ``default_layers`` where empty.

    Raises:
        PlanError: there is no such layer; lists those that there are.
        ModelFormatError: the file lacks weights that these layers need, or has them in other shapes.
    """
    return TimmEncoder(weights, tuple(layers) or default_layers(weights))
