"""Adding rows to a memory bank: the laws of a continued selection."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vad_lib.detectors.k_centre_greedy import select_k_centres
from vad_lib.detectors.patchcore.extension import select_new_rows
from vad_lib.detectors.patchcore.nearest import MemoryBank

VALUES = st.integers(-8, 8).map(float)


def points(least: int, most: int) -> st.SearchStrategy[torch.Tensor]:
    shape = st.tuples(st.integers(least, most), st.just(3))
    return arrays.arrays(np.float32, shape, elements=VALUES).map(torch.from_numpy)


def distances(rows: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    return torch.cdist(queries, rows, compute_mode="donot_use_mm_for_euclid_dist").min(1).values


@given(rows=points(1, 12), picks=st.lists(st.integers(0, 11), max_size=20), radius=st.floats(0, 5))
@settings(deadline=None)
def test_patches_that_the_bank_holds_add_no_row(rows: torch.Tensor, picks: list[int], radius: float) -> None:
    patches = rows[[pick % len(rows) for pick in picks]]
    added = select_new_rows(MemoryBank(rows), patches, radius, 100)
    assert (len(added.rows), added.farther, added.left_radius) == (0, 0, 0.0)


@given(rows=points(1, 12), patches=points(0, 30), radius=st.floats(0, 6), most=st.integers(0, 30))
@settings(deadline=None)
@pytest.mark.spec("X1.01")
def test_what_is_added_covers_the_patches_and_no_distance_grows(
    rows: torch.Tensor, patches: torch.Tensor, radius: float, most: int
) -> None:
    added = select_new_rows(MemoryBank(rows), patches, radius, most)
    extended = torch.cat([rows, added.rows])
    assert len(added.rows) <= min(most, added.farther)
    if len(patches):
        before, after = distances(rows, patches), distances(extended, patches)
        assert bool((after <= before).all())
        assert added.farther == int((before > radius).sum())
        assert float(after.max()) - 1e-5 <= added.left_radius <= float(before.max()) + 1e-5
        if len(added.rows) < most:
            assert added.left_radius <= radius


def test_the_selection_goes_on_as_one_over_all_patches_would() -> None:
    draw = torch.Generator().manual_seed(3)
    patches = torch.randn(200, 8, generator=draw)
    whole = select_k_centres(patches, 60, 0)
    bank = MemoryBank(patches[whole[:40]])
    added = select_new_rows(bank, patches, 0.0, 20)
    assert added.rows.equal(patches[whole[40:]])
