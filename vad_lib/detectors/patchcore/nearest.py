"""Exact nearest neighbours in the memory bank, with the bank's norms computed once."""

from __future__ import annotations

from typing import NamedTuple

import torch

from vad_lib.detectors.patchcore.screening import GROUP, Screen, is_worthwhile

QUERIES = 256
"""Queries compared with the bank at once: 256 against 20,000 rows are 20 MiB."""
MOST_CANDIDATES = 32
"""Candidates for each query above which the full search is faster: patches that are all alike, for instance."""
BY_SUBTRACTION = "donot_use_mm_for_euclid_dist"
RIM = 1e-4
"""Share of the largest distance by which another patch may lie closer and still be looked at exactly."""
MOST_EXACT = 8
"""Patches at the rim that are looked at: more of them are copies of one another."""
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

    Where that is measured to be faster on this machine, most rows are ruled out in bfloat16 first (``screening``). The
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
            return self.farthest_of(queries, self._nearest(queries)[0])
        low, high = self._screen(1).bounds(queries)
        places = (high >= low.max()).nonzero()[:, 0]
        found = self.farthest_of(queries[places], self._nearest(queries[places])[0])
        return found._replace(query=places[found.query])

    def farthest_of(self, queries: torch.Tensor, distances: torch.Tensor) -> Farthest:
        """Return the same where the distances (N,) to the nearest rows are known.

        The few queries that may be the one are compared with all rows by subtraction, so that the answer has the same
        bits whichever search has found the distances.
        """
        places = (distances >= distances.max() * (1 - RIM)).nonzero()[:MOST_EXACT, 0]
        # one at a time: torch computes several by other arithmetic
        exact = [
            torch.cdist(queries[place][None], self.rows, compute_mode=BY_SUBTRACTION)[0].min(0) for place in places
        ]
        worst = torch.stack([found.values for found in exact]).argmax()
        return Farthest(places[worst], exact[worst].values, exact[worst].indices)

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
