"""One door to image encoders: an image becomes one vector, and a vector for each of its patches.

A detector that works with any encoder asks for nothing else. ``create_encoder`` makes one from the weights that were
found; which library is behind it is said by the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from vad_lib.encoders.build import Normalise, create_backbone, layer_names
from vad_lib.encoders.precision import in_own_precision
from vad_lib.encoders.protocol import Embedding, Encoder
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import PlanError


class TimmEncoder(Encoder):
    """Any network of timm: the vector of an image is the mean of its patches, layer by layer, each of length 1."""

    def __init__(self, weights: BackboneWeights, layers: Sequence[str]) -> None:
        super().__init__(weights)
        self.normalise = Normalise(weights)
        self.network = create_backbone(weights, layers)

    def forward(self, images: torch.Tensor) -> Embedding:
        """See ``Encoder.forward``."""
        try:
            patches = self._layers(images)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise PlanError(
                f"The encoder {self.weights.name} cannot take images of {images.shape[2]} x {images.shape[3]} pixels "
                f"({error}). Change img_size, or take another encoder."
            ) from error
        means = [functional.normalize(layer.mean(dim=(2, 3)), dim=1) for layer in patches]
        return Embedding(torch.cat(means, dim=1), patches)

    @in_own_precision
    def _layers(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.network(self.normalise(images)))


def default_layers(weights: BackboneWeights) -> tuple[str, ...]:
    """Return the layers to take where a plan names none: the sidecar's, else those around the middle.

    The first layers see edges only and the last one knows what an image shows rather than what it looks like.
    """
    if weights.layers:
        return weights.layers
    names = encoder_layers(weights)
    if len(names) < 6:  # a convolutional network's stages
        return tuple(names[-3:-1] or names)
    return tuple(names[len(names) * quarter // 4] for quarter in (1, 2, 3))


def encoder_layers(weights: BackboneWeights) -> list[str]:
    """Return the names of the layers whose patches can be taken, shallowest first.

    Raises:
        PlanError: no features can be taken from this architecture.
    """
    if weights.library == "open_clip":
        from vad_lib.encoders.clip import clip_layer_names

        return clip_layer_names(weights)
    return layer_names(weights)


def create_encoder(weights: BackboneWeights, layers: Sequence[str] = (), *, text: bool = True) -> Encoder:
    """Return the encoder that these weights are of.

    Args:
        weights: what ``resolve_backbone_weights`` found.
        layers: whose patches are wanted; ``default_layers`` where empty.
        text: whether a text tower, where the weights have one, is built too.

    Raises:
        PlanError: there is no such layer; lists those that there are.
        ModelFormatError: the file lacks weights that these layers need, or has them in other shapes.
    """
    chosen = tuple(layers) or default_layers(weights)
    if weights.library == "open_clip":
        from vad_lib.encoders.clip import OpenClipEncoder

        return OpenClipEncoder(weights, chosen, text=text)
    return TimmEncoder(weights, chosen)
