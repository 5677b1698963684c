"""What a seed means."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.storm.landing import content_of, land, sha256_of_drop
from benchmarks.storm.plan import BAD, DUPLICATE, FULL, GOOD, OTHER_TYPE, SMALL, WAYS, Drop, plan_storm
from vad_lib.errors import UnreadableImageError
from vad_lib.images.decoding import decode_bytes

SEEDS = st.integers(0, 2**32)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_the_same_seed_is_the_same_storm_and_has_every_fault_that_was_asked_for(seed: int) -> None:
    plan = plan_storm(seed, FULL)
    assert plan == plan_storm(seed, FULL)
    assert Counter(fault.kind for fault in plan.faults) == dict(FULL.faults)
    assert [fault.after for fault in plan.faults] == sorted(fault.after for fault in plan.faults)
    assert all(0 < fault.after < FULL.files for fault in plan.faults)
    assert len({drop.path for drop in plan.drops}) == len(plan.drops) == FULL.files


def test_another_seed_is_another_storm() -> None:
    assert len({plan_storm(seed, SMALL).faults for seed in range(50)}) == 50


@given(SEEDS)
@settings(max_examples=3, deadline=None)
def test_a_duplicate_has_the_content_of_an_earlier_image_of_its_line_and_no_other_file_has(seed: int) -> None:
    plan = plan_storm(seed, SMALL)
    seen: dict[str, set[str]] = {line: set() for line in SMALL.lines}
    for drop in plan.drops:
        sha = sha256_of_drop(seed, drop)
        assert (sha in seen[drop.line]) == (drop.kind == DUPLICATE) or drop.kind == "empty"
        seen[drop.line].add(sha)


@pytest.mark.parametrize("kind", [GOOD, *BAD])
def test_good_files_can_be_read_and_bad_ones_cannot(kind: str) -> None:
    for content in (6, 7):
        drop = Drop(8, "caps", "8.png", kind, "copy", content, 0.0)
        data = content_of(1, drop)
        if kind in (GOOD, DUPLICATE):
            assert decode_bytes(data, Path("8.png")).pixels.shape == (64, 64, 3)
        elif kind != OTHER_TYPE:
            with pytest.raises(UnreadableImageError):
                decode_bytes(data, Path("8.png"))


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_landing_ends_with_the_whole_file_and_nothing_beside_it(way: str, tmp_path: Path) -> None:
    inbox, outside = tmp_path / "inbox", tmp_path / "outside"
    outside.mkdir()
    drop = Drop(3, "caps", "a/b/00003.png", GOOD, way, 3, 0.0)
    land(1, drop, inbox, outside)
    assert (inbox / drop.path).read_bytes() == content_of(1, drop)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [inbox / drop.path]
