"""Exact nearest neighbours in the memory bank, with the bank's norms computed once."""

from __future__ import annotations

import torch

QUERIES = 256
"""Queries compared with the bank at once: 256 against 20,000 rows are 20 MiB."""


class MemoryBank:
    """Normal patches, and the search for those nearest to new ones.

    The nearest rows are found by a matrix product (|b|^2 - 2 q.b orders rows as their distance does); the distances
    returned are then computed by subtraction, so they have no cancellation error where a query is close to a row.

    Args:
        rows: float32 (M, D), M >= 1.
    """

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows
        self.half_norms = rows.square().sum(1).mul_(0.5)

    def nearest(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distances and indices of the nearest row, each (N,), for queries (N, D)."""
        found = torch.cat([self._order_key(part).min(1).indices for part in queries.split(QUERIES)])
        return torch.linalg.vector_norm(queries - self.rows[found], dim=1), found

    def nearest_rows(self, queries: torch.Tensor, count: int) -> torch.Tensor:
        """Return the indices (N, count) of the nearest rows, nearest first; at most as many as there are rows."""
        return self._order_key(queries).topk(min(count, len(self.rows)), largest=False, dim=1).indices

    def _order_key(self, queries: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.half_norms, queries, self.rows.T, alpha=-1.0)
