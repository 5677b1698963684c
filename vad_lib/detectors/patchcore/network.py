"""The part of PatchCore that turns images into patch embeddings, and patch distances into scores and maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vad_lib.backbones.build import Normalise, create_backbone, layer_index, load_weights
from vad_lib.backbones.weights import BackboneWeights
from vad_lib.detectors.patchcore.nearest import MemoryBank

NUM_NEIGHBOURS = 9
"""b of the paper: neighbours of the nearest row that the image score is weighed with; anomalib's default."""


def create_network(weights: BackboneWeights, layers: Sequence[str]) -> Any:
    """Return anomalib's ``PatchcoreModel`` with local weights in its feature extractor.

    The shallowest layer sets the resolution of the patches, in whatever order the plan names the layers.

    Raises:
        PlanError: the backbone has no such layer; lists those it has.
        ModelFormatError: the file lacks weights that these layers need.
    """
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    by_depth = sorted(layers, key=lambda layer: layer_index(weights, layer))
    model = PatchcoreModel(layers=by_depth, backbone=weights.name, pre_trained=False, num_neighbors=NUM_NEIGHBOURS)
    extractor = model.feature_extractor
    if extractor._uses_intermediates:  # transformers: anomalib builds the whole network
        if weights.file is not None:
            load_weights(extractor.feature_extractor, weights)
    else:
        extractor.feature_extractor = create_backbone(weights, by_depth)
        if weights.file is None and weights.source == "random":
            extractor.feature_extractor.eval()
    return model.eval()


class PatchEmbedder(nn.Module):
    """Images to patch embeddings by anomalib's own layers, one image at a time on the CPU.

    One at a time costs nothing there (measured: 38 ms an image alone, 41 in batches of 8, resnet18 at 256 pixels, one
    thread), and makes the result of an image independent of its neighbours to the last bit.
    """

    def __init__(self, weights: BackboneWeights, layers: Sequence[str]) -> None:
        super().__init__()
        self.model = create_network(weights, layers)
        self.normalise = Normalise(weights)

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Return embeddings (N, patches, D) of images (N, 3, H, W), and the (rows, columns) of patches."""
        size = 1 if images.device.type == "cpu" else len(images)
        embeddings = []
        grid = (0, 0)
        for part in images.split(size):
            features = self.model.feature_extractor(self.normalise(part))
            pooled = {layer: self.model.feature_pooler(feature) for layer, feature in features.items()}
            embedding = self.model.generate_embedding(pooled)
            grid = (embedding.shape[2], embedding.shape[3])
            embeddings.append(embedding.flatten(2).transpose(1, 2))
        return torch.cat(embeddings), grid


class MapMaker(nn.Module):
    """Patch distances to a map: enlarged to the image by nearest neighbours, then blurred with sigma 4.

    As anomalib's ``AnomalyMapGenerator``; its 33 x 33 kernel is the product of two lines, which take a tenth of the
    time.
    """

    line: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        from anomalib.models.image.patchcore.anomaly_map import AnomalyMapGenerator

        kernel = AnomalyMapGenerator().blur.kernel[0, 0]
        self.register_buffer("line", kernel.sum(0).contiguous(), persistent=False)

    def forward(self, distances: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Return (N, H, W) for distances (N, rows, columns)."""
        reach = len(self.line) // 2
        large = functional.interpolate(distances[:, None], size=size)
        padded = functional.pad(large, (reach, reach, reach, reach), mode="reflect")
        across = functional.conv2d(padded, self.line.view(1, 1, 1, -1))
        return functional.conv2d(across, self.line.view(1, 1, -1, 1))[:, 0]


def image_scores(
    bank: MemoryBank, embeddings: torch.Tensor, distances: torch.Tensor, nearest: torch.Tensor
) -> torch.Tensor:
    """Return image scores (N,): the largest patch distance, weighed by how common its neighbourhood is.

    Args:
        bank: the memory.
        embeddings: (N, patches, D).
        distances: (N, patches), to the nearest row.
        nearest: (N, patches), index of that row.

    Paper: Roth et al., equations 6 and 7, https://arxiv.org/abs/2106.08265; computed as anomalib does.
    """
    image = torch.arange(len(distances), device=distances.device)
    worst = distances.argmax(1)
    score = distances[image, worst]
    support = bank.nearest_rows(bank.rows[nearest[image, worst]], NUM_NEIGHBOURS)
    to_support = torch.linalg.vector_norm(embeddings[image, worst][:, None, :] - bank.rows[support], dim=2)
    weight = 1.0 - functional.softmax(to_support, dim=1)[:, 0]
    return weight * score
