"""The pure decision which new files are complete: what was seen in, what is to be done out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vad_lib.ingest.scan import FileSeen, FileVersion
from vad_lib.ingest.watch import Sorted, sort_out

NOW = 1_800_000_000.0
SETTLE = 2.0


def _seen(path: str, age: float = 60.0, size: int = 5, rule: str = "") -> FileSeen:
    return FileSeen(FileVersion(path, size, int((NOW - age) * 1e9), 1, 1), rule, rule and "a reason")


def _sort(
    files: Sequence[FileSeen],
    before: Sorted | None = None,
    *,
    now: float = NOW,
    is_whole: Callable[[FileVersion], bool] = lambda version: False,
    most: int = 100,
) -> Sorted:
    return sort_out(
        files,
        before=before.writing if before else {},
        now=now,
        settle_seconds=SETTLE,
        is_whole=is_whole,
        most=most,
    )


def _paths(versions: Sequence[FileVersion]) -> list[str]:
    return [version.path for version in versions]


def test_complete_images_come_oldest_first_and_not_more_than_wanted() -> None:
    found = _sort([_seen(f"{i}.png", age=10.0 + i) for i in range(6)], most=4)
    assert _paths(found.complete) == ["5.png", "4.png", "3.png", "2.png"]
    assert found.more


def test_a_file_touched_a_moment_ago_is_left_alone_and_told_about() -> None:
    found = _sort([_seen("a.png", age=0.5)])
    assert (found.complete, list(found.writing)) == ([], ["a.png"])


@pytest.mark.spec("I1.01")
def test_a_young_file_is_taken_where_it_is_whole_and_one_refused_by_name_still_waits() -> None:
    files = [_seen("a.png", age=0.1), _seen("b.png", age=0.1), _seen("c.txt", age=0.1, rule="not_an_image")]
    found = _sort(files, is_whole=lambda version: version.path != "b.png")
    assert _paths(found.complete) == ["a.png"]
    assert (found.refused, sorted(found.writing)) == ([], ["b.png", "c.txt"])


def test_files_refused_by_their_kind_are_no_images_to_inspect() -> None:
    found = _sort([_seen("a.txt", rule="not_an_image")])
    assert (found.complete, [seen.version.path for seen in found.refused]) == ([], ["a.txt"])


def test_a_file_from_the_future_is_taken_when_it_stood_still_between_two_looks() -> None:
    file = _seen("a.png", age=-3600)
    first = _sort([file])
    assert first.complete == []
    second = _sort([file], first, now=NOW + 1)
    assert second.complete == []
    assert _paths(_sort([file], second, now=NOW + 2).complete) == ["a.png"]


def test_a_file_from_the_future_that_grows_is_not_taken() -> None:
    first = _sort([_seen("a.png", age=-3600)])
    second = _sort([_seen("a.png", age=-3600, size=6)], first, now=NOW + 2)
    assert second.complete == []
    assert second.writing["a.png"][1] == NOW + 2


def test_a_clock_that_was_set_back_does_not_make_a_file_wait_for_ever() -> None:
    file = _seen("a.png", age=-3600)
    second = _sort([file], _sort([file]), now=NOW - 1800)
    assert _paths(_sort([file], second, now=NOW - 1798).complete) == ["a.png"]


@given(
    st.lists(
        st.builds(
            _seen,
            path=st.text("ab", min_size=1, max_size=4),
            age=st.floats(-10, 10),
            rule=st.sampled_from(["", "not_an_image"]),
        ),
        unique_by=lambda seen: seen.version.path,
    ),
    st.integers(1, 3),
)
@pytest.mark.spec("I1.06")
def test_sooner_or_later_each_file_is_complete_or_refused_once(files: list[FileSeen], most: int) -> None:
    waiting = list(files)
    before: Sorted | None = None
    taken: list[FileVersion] = []
    for look in range(60):
        found = _sort(waiting, before, now=NOW + look, most=most)
        taken += found.complete + [seen.version for seen in found.refused]
        waiting = [seen for seen in waiting if seen.version not in taken]
        before = found
        if not waiting:
            break
    assert sorted(taken) == sorted(seen.version for seen in files)
    assert len(set(taken)) == len(taken)
