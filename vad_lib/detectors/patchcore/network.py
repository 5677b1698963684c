"""The part of PatchCore that turns images into patch embeddings, and patch distances into scores and maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from vad_lib.detectors.patchcore.nearest import Farthest, MemoryBank
from vad_lib.encoders.build import Normalise, create_backbone
from vad_lib.encoders.precision import in_own_precision
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import PlanError

NUM_NEIGHBOURS = 9
"""b of the paper: neighbours of the nearest row that the image score is weighed with; anomalib's default."""


class PatchEmbedder(nn.Module):
    """Images to patch embeddings, one image at a time on the CPU.

    Features of each layer are averaged over 3 x 3, enlarged to the size of the shallowest layer and put together, as in
    anomalib's ``PatchcoreModel``. A test holds the two equal; going without its import starts an inspection 3 s sooner.
    The shallowest layer sets the resolution of the patches, in whatever order the plan names the layers.

    With ``cosine`` patches are compared by their direction alone, as anomalib's ``AnomalyDINOModel`` does: nothing is
    averaged, since a patch of a transformer has seen its neighbours, and each patch is brought to length 1. Half the
    square of the distance of two such patches is one less their cosine.

    One image at a time costs nothing on the CPU (measured: 38 ms an image alone, 41 in batches of 8, resnet18 at 256
    pixels, one thread), and makes the result of an image independent of its neighbours to the last bit.

    Raises:
        PlanError: the backbone has no such layer; lists those it has.
        ModelFormatError: the file lacks weights that these layers need.
    """

    def __init__(self, weights: BackboneWeights, layers: Sequence[str], *, cosine: bool = False) -> None:
        super().__init__()
        self.weights = weights
        self.cosine = cosine
        self.backbone = create_backbone(weights, layers)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)
        self.normalise = Normalise(weights)

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Return embeddings (N, patches, D) of images (N, 3, H, W), and the (rows, columns) of patches."""
        size = 1 if images.device.type == "cpu" else len(images)
        parts = [self.embed(part) for part in images.split(size)]
        return torch.cat([embedding for embedding, _ in parts]), parts[0][1]

    def embed(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """As ``forward``, all images at once."""
        return self.join_layers(self.layer_features(images))

    @in_own_precision
    def layer_features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return what the backbone gives, each layer (N, C, h, w), shallowest first."""
        return list(self.backbone(self.normalise(images)))

    def patches_of(self, height: int, width: int, device: torch.device) -> tuple[int, int]:
        """Return how many patches an image of a size has, and their channels.

        Raises:
            PlanError: the backbone cannot take images of this size.
        """
        try:
            vectors, _ = self(torch.zeros((1, 3, height, width), device=device))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise PlanError(
                f"The backbone {self.weights.name} cannot take images of {height} x {width} pixels ({error}). Change "
                "img_size, or take another backbone."
            ) from error
        return vectors.shape[1], vectors.shape[2]

    def join_layers(self, features: list[torch.Tensor]) -> tuple[torch.Tensor, tuple[int, int]]:
        """Turn what ``layer_features`` returned into what ``embed`` returns."""
        pooled = features if self.cosine else [self.pool(feature) for feature in features]
        grid = (pooled[0].shape[2], pooled[0].shape[3])
        enlarged = [functional.interpolate(feature, size=grid, mode="bilinear") for feature in pooled[1:]]
        patches = torch.cat([pooled[0], *enlarged], 1).flatten(2).transpose(1, 2)
        return (functional.normalize(patches, dim=2) if self.cosine else patches), grid


def cosine_distances(distances: torch.Tensor) -> torch.Tensor:
    """Return one less the cosine, 0..2, for distances of vectors of length 1; any shape."""
    return distances.square() / 2


def top_percent(distances: torch.Tensor) -> torch.Tensor:
    """Return the mean of the largest hundredth of distances (N, patches), at least of one; (N,).

    Paper: Damm et al., "AnomalyDINO: Boosting Patch-based Few-shot Anomaly Detection with DINOv2", equation 4,
    https://arxiv.org/abs/2405.14529
    """
    return distances.topk(max(1, distances.shape[1] // 100), dim=1).values.mean(1)


def image_score(bank: MemoryBank, patches: torch.Tensor, worst: Farthest) -> torch.Tensor:
    """Return the score () of one image: the largest patch distance, weighed by how common its neighbourhood is.

    Args:
        bank: the memory.
        patches: (patches, D) of the image.
        worst: of these patches.

    Paper: Roth et al., equations 6 and 7, https://arxiv.org/abs/2106.08265; computed as anomalib does.
    """
    support = bank.nearest_rows(bank.rows[worst.row][None], NUM_NEIGHBOURS)[0]
    to_support = torch.linalg.vector_norm(patches[worst.query] - bank.rows[support], dim=1)
    return (1.0 - functional.softmax(to_support, dim=0)[0]) * worst.distance
