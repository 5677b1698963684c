"""Adding rows to a memory bank: the greedy k-centre selection, continued from the rows that are there.

A patch nearer to the bank than the radius that the bank covers its training patches with says nothing new; it is left
out. Of the others the farthest is taken, then the farthest from all that are there now, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vad_lib.detectors.patchcore.nearest import MemoryBank


@dataclass(frozen=True)
class NewRows:
    """Rows to add to a bank.

    Attributes:
        rows: (K, D), in order of selection; K may be 0.
        farther: patches that were farther from the bank than the radius.
        left_radius: no new patch is farther than this from the extended bank.
    """

    rows: torch.Tensor
    farther: int
    left_radius: float


def select_new_rows(bank: MemoryBank, patches: torch.Tensor, radius: float, most: int) -> NewRows:
    """Select what a bank lacks.

    Args:
        bank: the memory.
        patches: of the new images, (N, D).
        radius: a patch at this distance from the bank, or nearer, is covered.
        most: rows to add at the most.
    """
    distance = bank.nearest(patches)[0] if len(patches) else patches.new_zeros(0)
    covered = float(distance[distance <= radius].max()) if bool((distance <= radius).any()) else 0.0
    open_ = distance > radius
    points, distance = patches[open_], distance[open_]
    farther = len(points)
    chosen: list[torch.Tensor] = []
    while len(chosen) < most and len(points):
        centre = points[distance.argmax()]
        chosen.append(centre)
        distance = torch.minimum(distance, torch.linalg.vector_norm(points - centre, dim=1))
        still = distance > radius
        if not bool(still.all()):
            covered = max(covered, float(distance[~still].max()))
            points, distance = points[still], distance[still]
    left = max(covered, float(distance.max()) if len(distance) else 0.0)
    rows = torch.stack(chosen) if chosen else patches[:0]
    return NewRows(rows, farther, left)
