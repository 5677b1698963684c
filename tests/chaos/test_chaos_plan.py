"""What a seed means."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.chaos.input_files import content_of, sha256_of, write_input_file
from benchmarks.chaos.plan import (
    BAD,
    COPY,
    DUPLICATE,
    FULL,
    GOOD,
    LATER,
    OTHER_TYPE,
    REPLACEMENT,
    SMALL,
    TRAILER,
    TWO_MACHINES,
    WAYS,
    InputFile,
    plan_chaos,
)
from vad_lib.errors import UnreadableImageError
from vad_lib.images.decoding import decode_bytes

SEEDS = st.integers(0, 2**32)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_the_same_seed_is_the_same_chaos_test_and_has_every_fault_that_was_asked_for(seed: int) -> None:
    plan = plan_chaos(seed, FULL)
    assert plan == plan_chaos(seed, FULL)
    assert Counter(fault.kind for fault in plan.faults) == dict(FULL.faults)
    assert [fault.after for fault in plan.faults] == sorted(fault.after for fault in plan.faults)
    assert all(0 < fault.after < FULL.files for fault in plan.faults)
    assert len(plan.files) == FULL.files


def test_another_seed_is_another_chaos_test() -> None:
    assert len({plan_chaos(seed, SMALL).faults for seed in range(50)}) == 50


@given(SEEDS)
@settings(max_examples=3, deadline=None)
def test_a_duplicate_has_the_content_of_an_earlier_image_of_its_line_and_no_other_file_has(seed: int) -> None:
    plan = plan_chaos(seed, SMALL)
    seen: dict[str, set[str]] = {line: set() for line in SMALL.lines}
    for file in plan.files:
        sha = sha256_of(seed, file)
        assert (sha in seen[file.line]) == (file.kind == DUPLICATE) or file.kind == "empty"
        seen[file.line].add(sha)


@pytest.mark.parametrize("kind", [GOOD, *BAD])
def test_good_files_can_be_read_and_bad_ones_cannot(kind: str) -> None:
    for content in (6, 7):
        file = InputFile(8, "caps", "8.png", kind, "copy", content, 0.0)
        data = content_of(1, file)
        if kind in (GOOD, DUPLICATE):
            assert decode_bytes(data, Path("8.png")).pixels.shape == (64, 64, 3)
        elif kind != OTHER_TYPE:
            with pytest.raises(UnreadableImageError):
                decode_bytes(data, Path("8.png"))


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_arriving_ends_with_the_whole_file_and_nothing_beside_it(way: str, tmp_path: Path) -> None:
    watch_folder, outside = tmp_path / "watch", tmp_path / "outside"
    outside.mkdir()
    file = InputFile(3, "caps", "a/b/00003.png", GOOD, way, 3, 0.0)
    write_input_file(1, file, watch_folder, outside)
    assert (watch_folder / file.path).read_bytes() == content_of(1, file)
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [watch_folder / file.path]


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_what_comes_later_comes_to_the_path_of_one_good_image_before_it(seed: int) -> None:
    for shape in (SMALL, TWO_MACHINES):
        plan = plan_chaos(seed, shape)
        by_path: dict[tuple[str, str], list[InputFile]] = {}
        for file in plan.files:
            by_path.setdefault((file.line, file.path), []).append(file)
        for files in by_path.values():
            assert [file.kind in LATER for file in files] in ([False], [False, True])
            assert len(files) == 1 or files[0].kind == GOOD


def test_a_replacement_differs_from_the_image_before_only_in_what_it_holds(tmp_path: Path) -> None:
    before = InputFile(3, "caps", "a.png", GOOD, COPY, 3, 0.0)
    later = InputFile(9, "caps", "a.png", REPLACEMENT, REPLACEMENT, 4019, 0.0)
    write_input_file(1, before, tmp_path, tmp_path)
    facts = (tmp_path / "a.png").stat()
    write_input_file(1, later, tmp_path, tmp_path)
    now = (tmp_path / "a.png").stat()
    assert (now.st_size, now.st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    assert (tmp_path / "a.png").read_bytes() == content_of(1, later) != content_of(1, before)


def test_a_trailer_follows_the_image_that_was_there(tmp_path: Path) -> None:
    before = InputFile(3, "caps", "a.png", GOOD, COPY, 3, 0.0)
    later = InputFile(9, "caps", "a.png", TRAILER, TRAILER, 3, 0.0)
    write_input_file(1, before, tmp_path, tmp_path)
    write_input_file(1, later, tmp_path, tmp_path)
    assert (tmp_path / "a.png").read_bytes() == content_of(1, later)
    assert content_of(1, later).startswith(content_of(1, before))
