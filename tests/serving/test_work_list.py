"""Which line is worked on next: none waits for another."""

from __future__ import annotations

import threading
import time

import pytest

from vad_lib.serving.work_list import WorkList


def _take_in_thread(work: WorkList) -> tuple[threading.Thread, list[str | None]]:
    taken: list[str | None] = []
    thread = threading.Thread(target=lambda: taken.append(work.take()), daemon=True)
    thread.start()
    return thread, taken


@pytest.mark.spec("S1.10")
def test_lines_come_in_turn_and_each_once() -> None:
    work = WorkList(9)
    for line in ("a", "b", "a", "c"):
        work.offer(line)
    assert [work.take() for _ in range(3)] == ["a", "b", "c"]


def test_who_waits_is_woken_by_an_offer_and_let_go_by_the_end() -> None:
    work = WorkList()
    (first, taken), (second, other) = _take_in_thread(work), _take_in_thread(work)
    work.offer("a")
    deadline = time.monotonic() + 5
    while not taken + other:
        assert time.monotonic() < deadline, "nobody was woken"
        time.sleep(0.01)
    assert taken + other == ["a"]
    work.close()
    for thread in (first, second):
        thread.join(5)
        assert not thread.is_alive()
    assert sorted(taken + other, key=str) == [None, "a"]


def test_a_line_that_rests_is_given_out_afterwards_to_whoever_waits() -> None:
    """Also to one who began to wait before it was told to rest, and while all others are busy."""
    work = WorkList()
    thread, taken = _take_in_thread(work)
    time.sleep(0.05)
    work.pause("a", 0.2)
    work.offer("a")
    time.sleep(0.05)
    assert taken == []
    thread.join(5)
    assert taken == ["a"]


def test_a_line_is_never_with_more_workers_than_it_may() -> None:
    work = WorkList(2)
    for _ in range(2):
        work.offer("a")
        assert work.take() == "a"
    work.offer("a")
    work.offer("b")
    assert work.take() == "b"
    thread, taken = _take_in_thread(work)
    time.sleep(0.05)
    assert taken == []
    work.done("a")
    thread.join(5)
    assert taken == ["a"]
