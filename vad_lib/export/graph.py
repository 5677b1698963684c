"""The whole detector as one traceable network: images in, raw scores and maps out.

What ``score`` of a detector does in several steps, for torch's exporter: backbone, patch embedding, nearest neighbour,
weighing and map of PatchCore; backbone, flows and map of FastFlow. Normalisation is inside, so the input is what
``Preprocessing.prepare`` gives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional

from vad_lib.errors import ModelFormatError

if TYPE_CHECKING:
    from vad_lib.detectors.base import Detector
    from vad_lib.detectors.fastflow.detector import FastFlow
    from vad_lib.detectors.patchcore.detector import PatchCore


class PatchCoreGraph(nn.Module):
    """PatchCore, fitted: float32 (N, 3, H, W) in 0..1 to scores (N,) and maps (N, H, W)."""

    rows: torch.Tensor
    half_norms: torch.Tensor

    def __init__(self, detector: PatchCore) -> None:
        super().__init__()
        from vad_lib.detectors.patchcore.network import NUM_NEIGHBOURS

        if detector.bank_ is None:
            raise ModelFormatError("This PatchCore has no memory yet: fit or load it first.")
        self.embedder = detector.embedder
        self.map_maker = detector.map_maker
        self.register_buffer("rows", detector.bank_.rows)
        self.register_buffer("half_norms", detector.bank_.half_norms)
        self.neighbours = min(NUM_NEIGHBOURS, len(detector.bank_.rows))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding, (rows, columns) = self.embedder.embed(images)
        nearest = self._order_key(embedding).argmin(2)
        distances = torch.linalg.vector_norm(embedding - self.rows[nearest], dim=2)
        score, worst = distances.max(1)
        # of each image, its worst patch and the row nearest to that
        patch = embedding.gather(1, worst[:, None, None].expand(-1, 1, embedding.shape[2]))
        row = self.rows[nearest.gather(1, worst[:, None])[:, 0]]
        support = self._order_key(row).topk(self.neighbours, dim=1, largest=False).indices
        to_support = torch.linalg.vector_norm(patch - self.rows[support], dim=2)
        weight = 1.0 - functional.softmax(to_support, dim=1)[:, 0]
        maps = self.map_maker(distances.unflatten(1, (rows, columns)), (images.shape[2], images.shape[3]))
        return weight * score, maps

    def _order_key(self, queries: torch.Tensor) -> torch.Tensor:
        return self.half_norms - queries @ self.rows.T


class FastFlowGraph(nn.Module):
    """FastFlow, fitted: float32 (N, 3, H, W) in 0..1 to scores (N,) and maps (N, H, W)."""

    def __init__(self, detector: FastFlow) -> None:
        super().__init__()
        if not detector.fitted_:
            raise ModelFormatError("This FastFlow has not been fitted: fit or load it first.")
        self.network = detector.network.eval()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, _ = self.network.flow(self.network.features_together(images))
        maps = self.network.map_maker(hidden)[:, 0]
        return maps.amax((1, 2)), maps


def whole_detector(detector: Detector) -> nn.Module:
    """Return a fitted detector as one network, (N, 3, H, W) to (N,) and (N, H, W), on the CPU and without gradients.

    The detector's own tensors are used, not copies.

    Raises:
        ModelFormatError: it is not fitted, or of a kind that has no such network.
    """
    name = detector.facts.name
    if name == "patchcore":
        graph: nn.Module = PatchCoreGraph(cast(Any, detector))
    elif name == "fastflow":
        graph = FastFlowGraph(cast(Any, detector))
    else:
        raise ModelFormatError(f"The detector {name!r} cannot be exported; patchcore and fastflow can.")
    return graph.eval().requires_grad_(False)
