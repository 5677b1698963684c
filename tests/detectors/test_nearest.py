"""The search in the memory bank: exact, also where most rows are ruled out in bfloat16 first."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vad_lib.detectors.patchcore.nearest import MemoryBank
from vad_lib.detectors.patchcore.screening import Screen


def cloud(seed: int, rows: int, width: int, spread: float, offset: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a bank and 40 queries: strangers, near copies of rows, and rows themselves; ``offset`` in spreads."""
    draw = torch.Generator().manual_seed(seed)
    offset *= spread
    bank = torch.randn(rows, width, generator=draw) * spread + offset
    picked = bank[torch.randint(rows, (30,), generator=draw)]
    near = picked[:20] + 1e-3 * spread * torch.randn(20, width, generator=draw)
    strange = torch.randn(10, width, generator=draw) * 2 * spread + offset
    return bank, torch.cat([strange, near, picked[20:]])


clouds = st.builds(
    cloud,
    seed=st.integers(0, 1000),
    rows=st.sampled_from([16, 17, 250, 1100]),
    width=st.sampled_from([1, 7, 64, 200]),
    spread=st.sampled_from([1e-3, 1.0, 50.0]),
    offset=st.sampled_from([0.0, 1.0, -30.0]),
)


@given(clouds)
@settings(max_examples=60, deadline=None)
def test_the_bounds_hold_what_is_true(given_cloud: tuple[torch.Tensor, torch.Tensor]) -> None:
    rows, queries = given_cloud
    true = (torch.cdist(queries.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist") ** 2 / 2).amin(1)
    for terms in (1, 2):
        low, high = Screen(rows, terms).bounds(queries)
        assert (low.double() <= true).all()
        assert (true <= high.double()).all()


@given(clouds)
@settings(max_examples=60, deadline=None)
def test_ruling_rows_out_first_changes_no_answer(given_cloud: tuple[torch.Tensor, torch.Tensor]) -> None:
    rows, queries = given_cloud
    exact = torch.cdist(queries.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distances, found = MemoryBank(rows, screened=True).nearest(queries)
    # Rows are told apart as far as float32 does that: what is lost in |b|^2 - 2 q.b is a share of the norms.
    resolution = 1e-3 * float(rows.norm(dim=1).max())
    assert ((distances.double() - exact.amin(1)).abs() <= 1e-6 * exact.amin(1) + 1e-3 * resolution).all()
    assert torch.allclose(distances, torch.linalg.vector_norm(queries - rows[found], dim=1), rtol=1e-6)
    for way in (False, True):
        worst = MemoryBank(rows, screened=way).farthest(queries)
        assert abs(float(worst.distance) - float(exact.amin(1).max())) <= resolution
        assert torch.allclose(
            worst.distance, torch.linalg.vector_norm(queries[worst.query] - rows[worst.row]), rtol=1e-6
        )


def test_the_farthest_patch_has_the_same_bits_whichever_search_has_found_the_distances() -> None:
    draw = torch.Generator().manual_seed(3)
    rows, queries = torch.rand(2000, 48, generator=draw), torch.rand(300, 48, generator=draw)
    full, screened = (MemoryBank(rows, screened=way) for way in (False, True))
    found = [
        full.farthest(queries),
        screened.farthest(queries),
        full.farthest_of(queries, full.nearest(queries)[0]),
        screened.farthest_of(queries, screened.nearest(queries)[0]),
    ]
    assert all(torch.equal(each, first) for one in found for each, first in zip(one, found[0], strict=True))


def test_patches_that_are_all_alike_are_searched_in_full() -> None:
    rows, queries = torch.ones(2000, 16), torch.full((50, 16), 1.5)
    bank = MemoryBank(rows, screened=True)
    assert len(Screen(rows, 2).candidates(queries)[0]) == 2000 * 50
    distances, _ = bank.nearest(queries)
    assert distances.tolist() == [2.0] * 50
    assert bank.farthest(queries).distance == 2.0


@pytest.mark.parametrize("rows", [1, 15])
def test_a_bank_of_a_few_rows_is_searched_in_full(rows: int) -> None:
    bank = MemoryBank(torch.arange(rows * 3.0).view(rows, 3), screened=True)
    distances, found = bank.nearest(torch.zeros(2, 3))
    assert found.tolist() == [0, 0]
    assert distances.tolist() == pytest.approx([5**0.5] * 2)
