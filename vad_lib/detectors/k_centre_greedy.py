"""Greedy k-centre selection, exact and fast: the coreset of PatchCore.

The greedy rule takes, step by step, the point that is farthest from all points taken so far. Done plainly, each step
measures the distance of every point to the newest centre. But a point's distance to the nearest centre never grows, so
an old value is an upper bound, and only points whose bound reaches the top matter. They are brought up to date in
blocks by matrix products against all centres that they have not seen yet.

The selection is the same, in the same order, as that of anomalib's ``KCenterGreedy``, ties included: a matrix product
in float32 only says which centres can be nearest, within a proven bound of its rounding, and the distances that are
compared come from the same subtraction and norm that anomalib uses.

Paper: Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach",
https://arxiv.org/abs/1708.00489
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from vad_lib.progress import Progress, ProgressMeter, silent
from vad_lib.quietness import quiet

POOL = 512
"""Points among which the next centres are looked for; measured as good for 50,000 to 300,000 points."""
BLOCK = 4096
"""Points brought up to date at once."""
CENTRES = 2048
"""Centres that a block is compared with at once: the product of the two is the memory that is used, 32 MiB."""
UNIT_ROUNDOFF = 2.0**-24


def coreset_indices(
    embedding: torch.Tensor, sampling_ratio: float, progress: Progress = silent, *, most: int | None = None
) -> torch.Tensor:
    """Choose the coreset of an embedding as anomalib does.

    Points are projected by anomalib's sparse random projection (eps 0.9), then selected from a random start. Both draw
    from torch's and numpy's global generators: call inside ``randomness.seeded``.

    Args:
        embedding: float32 (N, D).
        sampling_ratio: 0 < ratio <= 1; ``int(N * ratio)`` rows are chosen, at least one.
        progress: told of every block of choices.
        most: rows are chosen at the most: the first ones of what would be chosen without a limit.

    Returns:
        int64 (K,), in order of selection.
    """
    count = max(1, int(embedding.shape[0] * sampling_ratio))
    count = count if most is None else min(count, most)
    points = random_projection(embedding.shape[0], embedding.shape[1], embedding.device)(embedding)
    start = int(torch.randint(high=embedding.shape[0], size=(1,), device=points.device))
    return select_k_centres(points, count, start, progress)


def random_projection(points: int, channels: int, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """Draw anomalib's sparse random projection (eps 0.9) for so many points, from the global generators.

    Returns:
        A function from (N, ``channels``) to (N, fewer); see ``bank_plan.projected_channels``.
    """
    with quiet():  # it imports what its own libraries call deprecated
        from anomalib.models.components.dimensionality_reduction import SparseRandomProjection

    # Only the shape is looked at, and one value can have any.
    shape_only = torch.zeros((), device=device).expand(points, channels)
    return SparseRandomProjection(eps=0.9).fit(shape_only).transform


def select_k_centres(points: torch.Tensor, count: int, start: int, progress: Progress = silent) -> torch.Tensor:
    """Select ``count`` points greedily, each the farthest from those before it; the lowest index wins a tie.

    Args:
        points: float32 (N, D).
        count: 1 to N. Fewer are returned where all other points are copies of chosen ones.
        start: index of the first.

    Returns:
        int64 (K,), in order of selection, on the device of ``points``.
    """
    return select_with_radius(points, count, start, progress)[0]


def select_with_radius(
    points: torch.Tensor, count: int, start: int, progress: Progress = silent
) -> tuple[torch.Tensor, float]:
    """Select as ``select_k_centres`` does and return the covering radius too.

    Returns:
        int64 (K,), and the largest distance of any point to its nearest chosen one.
    """
    selection = _Selection(points, count, start)
    meter = ProgressMeter(progress, "Choosing the memory bank", count, "patches")
    meter.advance()
    while selection.taken < count:
        before = selection.taken
        if not selection.advance():
            break
        meter.advance(selection.taken - before)
    return selection.order[: selection.taken], selection.radius()


class _Selection:
    """The state of one selection.

    ``bound[i]`` is the distance of point i to the nearest of the first ``seen[i]`` centres.
    """

    def __init__(self, points: torch.Tensor, count: int, start: int) -> None:
        self.points = points
        self.count = count
        size = points.shape[0]
        self.order = torch.empty(count, dtype=torch.long, device=points.device)
        self.order[0] = start
        self.taken = 1
        self.seen = torch.ones(size, dtype=torch.int32, device=points.device)
        self.bound = torch.cat([_distance(rows, points[start]) for rows in points.split(BLOCK * 8)])
        self.bound[start] = 0.0
        # Centred values are smaller, and so is the rounding of their products.
        self.mean = points.mean(0)
        self.centred = torch.empty((count, points.shape[1]), dtype=points.dtype, device=points.device)
        self.centred_norm = torch.empty(count, dtype=points.dtype, device=points.device)
        self.centred_until = 0

    def advance(self) -> bool:
        """Take one or more centres; False where every point is a copy of a centre."""
        pool, ceiling = self._fresh_pool()
        rows = self.points[pool]
        bound = self.bound[pool]
        while self.taken < self.count:
            value, position = torch.max(bound, dim=0)
            farthest = float(value)
            if farthest <= 0.0 and ceiling <= 0.0:
                return False
            if farthest <= ceiling:
                break
            self.order[self.taken] = pool[position]
            self.taken += 1
            bound = torch.minimum(bound, _distance(rows, rows[position]))
            bound[position] = 0.0
        self.bound[pool] = bound
        self.seen[pool] = self.taken
        return True

    def radius(self) -> float:
        """Return the largest distance of any point to its nearest centre."""
        pool, _ = self._fresh_pool()
        return max(0.0, float(self.bound[pool].max()))

    def _fresh_pool(self) -> tuple[torch.Tensor, float]:
        """Return points, in order of index, of which the farthest is farther than any other point can be.

        The second value bounds the others; -1 where there are none.
        """
        size = POOL
        total = self.points.shape[0]
        while True:
            values, indices = torch.topk(self.bound, min(max(size + 1, BLOCK), total))
            stale = indices[self.seen[indices] < self.taken]
            pool = indices[:size]
            ceiling = float(values[size]) if total > size else -1.0
            if not (self.seen[pool] < self.taken).any():
                if float(values[0]) > ceiling or float(values[0]) <= 0.0:
                    return pool.sort().values, ceiling
                size *= 2  # more points at the same distance than the pool holds
                continue
            self._refresh(stale)

    def _refresh(self, indices: torch.Tensor) -> None:
        """Bring points up to date with all centres taken so far."""
        self._centre_up_to(self.taken)
        seen = self.seen[indices]
        by_age = seen.argsort()
        for chosen in by_age.split(BLOCK // 4):
            rows = indices[chosen]
            bound = self.bound[rows]
            values = self.points[rows]
            centred = values - self.mean
            norm = centred.square().sum(1)
            for first in range(int(seen[chosen[0]]), self.taken, CENTRES):
                bound = self._nearest_of(values, centred, norm, bound, first, min(first + CENTRES, self.taken))
            self.bound[rows] = bound
            self.seen[rows] = self.taken

    def _nearest_of(
        self,
        values: torch.Tensor,
        centred: torch.Tensor,
        norm: torch.Tensor,
        bound: torch.Tensor,
        first: int,
        last: int,
    ) -> torch.Tensor:
        """Return the smaller of ``bound`` and the exact distance to the nearest of the centres first..last."""
        centre_norm = self.centred_norm[first:last]
        square = torch.addmm(centre_norm, centred, self.centred[first:last].T, alpha=-2.0).add_(norm[:, None])
        # |computed - true| of a product of D terms is at most D u |x| |c| <= D u (|x|^2 + |c|^2) / 2; the factor 4
        # covers the norms, the centring and the exact form's own rounding as well.
        error = 4.0 * (centred.shape[1] + 8) * UNIT_ROUNDOFF * (norm + centre_norm.max())
        limit = torch.minimum(square.min(1).values + 2.0 * error, bound.square() + error)
        row, centre = torch.nonzero(square <= limit[:, None], as_tuple=True)
        for part in torch.arange(row.shape[0], device=row.device).split(BLOCK * 4):
            exact = _distance(values[row[part]], self.points[self.order[first + centre[part]]])
            bound = bound.scatter_reduce(0, row[part], exact, reduce="amin")
        return bound

    def _centre_up_to(self, taken: int) -> None:
        new = slice(self.centred_until, taken)
        self.centred[new] = self.points[self.order[new]] - self.mean
        self.centred_norm[new] = self.centred[new].square().sum(1)
        self.centred_until = taken


def _distance(rows: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Return Euclidean distances (N,) by the very operations that anomalib uses."""
    return torch.linalg.norm(rows - centre, ord=2, dim=1)
