"""The pure decision: what was seen in, what is to be done out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vad_lib.landing.deciding import Decision, Limits, OpenBatch, RunState, decide_batch
from vad_lib.landing.scanning import FileKey, FileSeen, Scan

NOW = 1_800_000_000.0
FOLDER = Path("/inbox")
LIMITS = Limits(settle_seconds=2.0, max_batch=4, max_active=2, attempts=3, retry_seconds=10.0)


def _seen(path: str, age: float = 60.0, size: int = 5, rule: str = "") -> FileSeen:
    return FileSeen(path, size, int((NOW - age) * 1e9), rule, rule and "a reason")


def _batch(
    *,
    n: int = 4,
    pending: int | None = None,
    begun: int = 0,
    attempt: int = 1,
    generation: int = 0,
    asked: float = 1000.0,
    run: RunState | None = None,
) -> OpenBatch:
    keys = tuple(FileKey(f"{i}.png", 5, i) for i in range(n))
    return OpenBatch("b", attempt, generation, keys, n if pending is None else pending, begun, NOW - asked, run)


def _decide(
    files: Sequence[FileSeen] = (),
    *,
    known: frozenset[FileKey] = frozenset(),
    batches: Sequence[OpenBatch] = (),
    previous: dict[str, list[float]] | None = None,
    now: float = NOW,
    error: str = "",
) -> Decision:
    return decide_batch(
        "line",
        Scan(FOLDER, tuple(files), error=error),
        known=known,
        open_batches=batches,
        previous_look=previous or {},
        now=now,
        limits=LIMITS,
    )


def test_complete_new_images_become_one_batch_oldest_first_and_bounded() -> None:
    files = [_seen(f"{i}.png", age=10.0 + i) for i in range(6)]
    (batch,) = _decide(files).new
    assert {key.path for key in batch.keys} == {"2.png", "3.png", "4.png", "5.png"}


def test_a_file_touched_a_moment_ago_is_left_alone_and_told_about() -> None:
    decision = _decide([_seen("a.png", age=0.5)])
    assert decision.new == ()
    assert "1 still being written" in decision.message


def test_a_young_file_is_taken_where_it_is_whole_and_one_refused_by_name_still_waits() -> None:
    files = [_seen("a.png", age=0.1), _seen("b.png", age=0.1), _seen("c.txt", age=0.1, rule="not_an_image")]
    decision = decide_batch(
        "line",
        Scan(FOLDER, tuple(files)),
        known=frozenset(),
        open_batches=(),
        previous_look={},
        now=NOW,
        limits=LIMITS,
        is_whole=lambda seen: seen.path != "b.png",
    )
    (batch,) = decision.new
    assert {key.path for key in batch.keys} == {"a.png"}
    assert (decision.writing, decision.refuse) == (2, ())


@pytest.mark.parametrize(("asked", "repeated"), [(1.0, False), (19.0, False), (21.0, True)])
def test_a_request_that_may_be_on_its_way_is_not_repeated_yet(asked: float, repeated: bool) -> None:
    decision = decide_batch(
        "line",
        Scan(FOLDER),
        known=frozenset(),
        open_batches=[_batch(asked=asked)],
        previous_look={},
        now=NOW,
        limits=Limits(repeat_seconds=20.0),
    )
    assert bool(decision.repeat) == repeated
    assert decision.again == ()


def test_a_file_from_the_future_is_taken_when_it_stood_still_between_two_looks() -> None:
    file = _seen("a.png", age=-3600)
    first = _decide([file])
    assert first.new == ()
    assert _decide([file], previous=first.waiting, now=NOW + 1).new == ()
    assert len(_decide([file], previous=first.waiting, now=NOW + 2).new) == 1


def test_a_file_from_the_future_that_grows_is_not_taken() -> None:
    first = _decide([_seen("a.png", age=-3600)])
    second = _decide([_seen("a.png", age=-3600, size=6)], previous=first.waiting, now=NOW + 2)
    assert second.new == ()
    assert second.waiting["a.png"][2] == NOW + 2


def test_a_clock_that_was_set_back_does_not_make_a_file_wait_for_ever() -> None:
    file = _seen("a.png", age=-3600)
    first = _decide([file], now=NOW)
    second = _decide([file], previous=first.waiting, now=NOW - 1800)
    assert len(_decide([file], previous=second.waiting, now=NOW - 1798).new) == 1


def test_a_failed_read_keeps_everything_as_it_was() -> None:
    decision = _decide(error="Stale file handle", previous={"a.png": [5, 7, 3.0]})
    assert decision.waiting == {"a.png": [5, 7, 3.0]}
    assert "Stale file handle" in decision.message
    assert "nothing is concluded" in decision.message


def test_known_files_are_not_taken_again_but_a_changed_file_is() -> None:
    old, changed = _seen("a.png"), _seen("a.png", size=6)
    assert _decide([old], known=frozenset({old.key})).new == ()
    assert _decide([changed], known=frozenset({old.key})).new[0].keys == (changed.key,)


def test_files_refused_by_their_kind_start_no_batch() -> None:
    decision = _decide([_seen("a.txt", rule="not_an_image")])
    assert decision.new == ()
    assert [seen.path for seen in decision.refuse] == ["a.txt"]


def test_a_line_with_enough_at_work_forms_no_new_batch_and_says_what_waits() -> None:
    at_work = [_batch(run=RunState("active"))] * 2
    decision = _decide([_seen("new.png")], batches=at_work)
    assert decision.new == ()
    assert "1 more complete images wait" in decision.message


def test_a_request_whose_run_was_never_seen_is_made_again_under_the_same_key() -> None:
    decision = _decide(batches=[_batch(attempt=2, run=None)])
    assert [request.run_key for request in decision.repeat] == ["b.2"]
    assert decision.again == ()


@pytest.mark.parametrize("run", [RunState("active"), RunState("failed", will_retry=True)])
def test_a_run_that_goes_on_is_waited_for(run: RunState) -> None:
    decision = _decide(batches=[_batch(run=run)])
    assert (decision.again, decision.repeat, decision.halve, decision.close) == ((), (), (), ())


def test_a_finished_batch_is_closed() -> None:
    assert _decide(batches=[_batch(pending=0, run=RunState("succeeded"))]).close == (("b", ""),)


def test_a_run_that_succeeded_but_left_something_is_followed_by_another() -> None:
    (request,) = _decide(batches=[_batch(pending=1, run=RunState("succeeded"))]).again
    assert request.attempt == 2


@pytest.mark.parametrize(
    ("attempt", "asked", "asked_again"),
    [
        (1, 0.0, True),  # the second attempt follows at once
        (2, 5.0, False),  # the third after ten seconds
        (2, 11.0, True),
    ],
)
def test_a_failed_run_is_followed_by_another_after_a_growing_wait(
    attempt: int, asked: float, asked_again: bool
) -> None:
    decision = _decide(batches=[_batch(attempt=attempt, asked=asked, begun=1, run=RunState("failed"))])
    assert bool(decision.again) is asked_again


def test_a_batch_whose_runs_keep_dying_is_halved_and_its_halves_hold_all_of_it() -> None:
    batch = _batch(n=5, attempt=3, begun=2, run=RunState("failed"))
    ((parent, first, second),) = _decide(batches=[batch]).halve
    assert parent == "b"
    assert sorted((*first.keys, *second.keys)) == sorted(batch.keys)
    assert first.keys
    assert second.keys
    assert first.batch_id != second.batch_id


def test_a_half_is_halved_again_after_one_failure() -> None:
    assert _decide(batches=[_batch(n=2, begun=1, generation=1, run=RunState("failed"))]).halve


def test_a_single_image_is_not_halved_but_tried_until_the_inspection_gives_it_up() -> None:
    decision = _decide(batches=[_batch(n=1, begun=1, attempt=3, generation=4, run=RunState("failed"))])
    assert [request.attempt for request in decision.again] == [4]


def test_runs_that_fail_before_they_touch_an_image_never_halve_a_batch() -> None:
    for attempt in (3, 10, 100, 1000):
        decision = _decide(batches=[_batch(attempt=attempt, run=RunState("failed"))])
        assert decision.halve == ()
        assert [request.attempt for request in decision.again] == [attempt + 1]


def test_during_an_outage_no_more_batches_are_formed_than_may_be_at_work() -> None:
    stuck = [_batch(attempt=9, asked=1.0, run=RunState("failed"))] * 2
    assert _decide([_seen("new.png")], batches=stuck).new == ()


def test_a_batch_with_all_results_that_no_run_can_report_is_closed_with_a_note() -> None:
    ((_, note),) = _decide(batches=[_batch(n=1, pending=0, attempt=3, run=RunState("failed"))]).close
    assert "no run could report it" in note


def test_what_is_remembered_stays_small_whatever_lands() -> None:
    decision = _decide([_seen(f"{i}.png", age=-60) for i in range(10_000)])
    assert len(decision.waiting) == 2000
    assert _decide([_seen(f"{i}.png", age=1) for i in range(10_000)]).waiting == {}


_files = st.lists(
    st.builds(
        _seen,
        path=st.text("abc/", min_size=1, max_size=4),
        age=st.floats(-10, 100),
        size=st.integers(0, 3),
        rule=st.sampled_from(["", "", "", "not_an_image"]),
    ),
    max_size=30,
    unique_by=lambda seen: seen.path,
)


@given(files=_files, share=st.floats(0, 1))
def test_every_file_is_in_exactly_one_place(files: list[FileSeen], share: float) -> None:
    """Known, still being written, refused now, in the new batch, or waiting for later: never two, none lost."""
    known = frozenset(seen.key for seen in files[: int(share * len(files))])
    decision = _decide(files, known=known)
    taken = {key for batch in decision.new for key in batch.keys}
    refused = {seen.key for seen in decision.refuse}
    assert not taken & refused
    assert not (taken | refused) & known
    complete = {s.key for s in files if s.key not in known and NOW - s.mtime_ns / 1e9 >= LIMITS.settle_seconds}
    assert taken | refused <= complete
    images = {s.key for s in files if not s.rule} & complete
    assert len(taken) == min(len(images), LIMITS.max_batch)
    assert len(refused) == min(len(complete - images), LIMITS.max_batch)


@given(files=_files)
def test_what_was_taken_up_is_not_taken_up_again(files: list[FileSeen]) -> None:
    known: frozenset[FileKey] = frozenset()
    for _ in range(20):
        decision = _decide(files, known=known)
        taken = {key for batch in decision.new for key in batch.keys} | {seen.key for seen in decision.refuse}
        assert not taken & known
        if not taken:
            break
        known |= taken
    assert known == {s.key for s in files if NOW - s.mtime_ns / 1e9 >= LIMITS.settle_seconds}
