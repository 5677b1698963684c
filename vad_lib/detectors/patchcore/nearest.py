"""Exact nearest neighbours in the memory bank, with the bank's norms computed once."""

from __future__ import annotations

from typing import NamedTuple

import torch

from vad_lib.detectors.patchcore.screening import GROUP, Screen, is_worthwhile

QUERIES = 256
"""Queries compared with the bank at once: 256 against 20,000 rows are 20 MiB."""
MOST_CANDIDATES = 32
"""Candidates for each query above which the full search is faster: patches that are all alike, for instance."""
LARGEST_FINE_SCREEN = 100_000
"""Rows above which no second, finer copy of the bank is made for maps: it takes more memory than the bank."""


class Farthest(NamedTuple):
    """The query whose nearest row is farthest: its index, the distance, and the index of that row; each ()."""

    query: torch.Tensor
    distance: torch.Tensor
    row: torch.Tensor


class MemoryBank:
    """Normal patches, and the search for those nearest to new ones.

    The nearest rows are found by a matrix product (|b|^2 - 2 q.b orders rows as their distance does); the distances
    returned are then computed by subtraction, so they have no cancellation error where a query is close to a row.

    Where the processor multiplies bfloat16 in tiles, most rows are ruled out with these first (``screening``). The
    answers are the same; ``screened`` switches it off.

    Args:
        rows: float32 (M, D), M >= 1.
        screened: whether rows are ruled out first; where that is faster, by default.
    """

    def __init__(self, rows: torch.Tensor, *, screened: bool | None = None) -> None:
        self.rows = rows
        self.half_norms = rows.square().sum(1).mul_(0.5)
        self.screened = is_worthwhile(rows) if screened is None else screened and len(rows) >= GROUP
        self._screens: dict[int, Screen] = {}

    def nearest(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distances and indices of the nearest row, each (N,), for queries (N, D)."""
        if not self.screened or len(self.rows) > LARGEST_FINE_SCREEN:
            return self._nearest(queries)
        parts = [self._nearest_of_candidates(part) for part in queries.split(self._screen(2).chunk(len(queries)))]
        return torch.cat([distance for distance, _ in parts]), torch.cat([row for _, row in parts])

    def farthest(self, queries: torch.Tensor) -> Farthest:
        """Return the query, of (N, D), whose nearest row is farthest; the first one where several are."""
        if not self.screened:
            return self.farthest_of(*self._nearest(queries))
        low, high = self._screen(1).bounds(queries)
        places = (high >= low.max()).nonzero()[:, 0]
        found = self.farthest_of(*self._nearest(queries[places]))
        return found._replace(query=places[found.query])

    @staticmethod
    def farthest_of(distances: torch.Tensor, rows: torch.Tensor) -> Farthest:
        """Return the same from what ``nearest`` gave."""
        worst = distances.argmax()
        return Farthest(worst, distances[worst], rows[worst])

    def nearest_rows(self, queries: torch.Tensor, count: int) -> torch.Tensor:
        """Return the indices (N, count) of the nearest rows, nearest first; at most as many as there are rows."""
        return self._order_key(queries).topk(min(count, len(self.rows)), largest=False, dim=1).indices

    def _nearest(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = torch.cat([self._order_key(part).min(1).indices for part in queries.split(QUERIES)])
        return torch.linalg.vector_norm(queries - self.rows[found], dim=1), found

    def _nearest_of_candidates(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        query, row = self._screen(2).candidates(queries)
        if len(query) > MOST_CANDIDATES * len(queries):
            return self._nearest(queries)
        distances = torch.linalg.vector_norm(queries[query] - self.rows[row], dim=1)
        least = distances.new_full((len(queries),), torch.inf).scatter_reduce_(0, query, distances, "amin")
        # of several rows at the least distance the first, as the full search takes it
        best = torch.where(distances == least[query], row, len(self.rows))
        return least, row.new_full((len(queries),), len(self.rows)).scatter_reduce_(0, query, best, "amin")

    def _screen(self, terms: int) -> Screen:
        if terms not in self._screens:
            self._screens[terms] = Screen(self.rows, terms)
        return self._screens[terms]

    def _order_key(self, queries: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.half_norms, queries, self.rows.T, alpha=-1.0)
