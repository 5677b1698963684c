"""PatchCore as networks that torch's exporter can trace: the whole of it, and the part before the search.

Normalisation is inside, so the input is what ``Preprocessing.prepare`` gives.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from vad_lib.detectors.maps import MapMaker
from vad_lib.detectors.patchcore.nearest import MemoryBank
from vad_lib.detectors.patchcore.network import NUM_NEIGHBOURS, PatchEmbedder, cosine_distances, top_percent


class PatchCoreGraph(nn.Module):
    """PatchCore, fitted: float32 (N, 3, H, W) in 0..1 to scores (N,) and maps (N, H, W)."""

    rows: torch.Tensor
    half_norms: torch.Tensor

    def __init__(self, embedder: PatchEmbedder, map_maker: MapMaker, bank: MemoryBank) -> None:
        super().__init__()
        self.embedder = embedder
        self.map_maker = map_maker
        self.register_buffer("rows", bank.rows)
        self.register_buffer("half_norms", bank.half_norms)
        self.neighbours = min(NUM_NEIGHBOURS, len(bank.rows))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding, (rows, columns) = self.embedder.embed(images)
        nearest = self._order_key(embedding).argmin(2)
        distances = torch.linalg.vector_norm(embedding - self.rows[nearest], dim=2)
        size = (images.shape[2], images.shape[3])
        if self.embedder.cosine:
            distances = cosine_distances(distances)
            return top_percent(distances), self.map_maker(distances.unflatten(1, (rows, columns)), size)
        score, worst = distances.max(1)
        # of each image, its worst patch and the row nearest to that
        patch = embedding.gather(1, worst[:, None, None].expand(-1, 1, embedding.shape[2]))
        row = self.rows[nearest.gather(1, worst[:, None])[:, 0]]
        support = self._order_key(row).topk(self.neighbours, dim=1, largest=False).indices
        to_support = torch.linalg.vector_norm(patch - self.rows[support], dim=2)
        weight = 1.0 - functional.softmax(to_support, dim=1)[:, 0]
        maps = self.map_maker(distances.unflatten(1, (rows, columns)), size)
        return weight * score, maps

    def _order_key(self, queries: torch.Tensor) -> torch.Tensor:
        return self.half_norms - queries @ self.rows.T


class PatchEmbedding(nn.Module):
    """PatchCore up to the patches: (1, 3, H, W) to (1, rows, columns, D)."""

    def __init__(self, embedder: PatchEmbedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        embedding, grid = self.embedder.embed(images)
        found: torch.Tensor = embedding.unflatten(1, grid)
        return found
