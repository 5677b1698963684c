"""Ticks over a real folder and a real database."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select, text

from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.schema import batches
from vad_lib.landing import LandingTick, Limits, RunState, plan_landing_tick
from vad_lib.landing.reporting import queue_facts

NOW = time.time()


@pytest.fixture
def db(tmp_path: Path) -> InspectionDatabase:
    return InspectionDatabase(f"sqlite:///{tmp_path}/db/inspection.db")


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def _land(inbox: Path, *names: str, content: bytes = b"x", age: float = 60.0) -> None:
    for name in names:
        (inbox / name).write_bytes(content)
        os.utime(inbox / name, (NOW - age, NOW - age))


def _tick(db: InspectionDatabase, inbox: Path, run: RunState | None = None, **more: object) -> LandingTick:
    return plan_landing_tick(db, "line", inbox, run_state=lambda _: run, now=NOW, **more)  # type: ignore[arg-type]


def test_new_images_become_one_request_with_the_tags_that_find_its_run(db: InspectionDatabase, inbox: Path) -> None:
    _land(inbox, "a.png", "b.png", "c.txt")
    tick = _tick(db, inbox)
    (request,) = tick.requests
    assert request.count == 2
    assert request.tags["vad/batch_key"] == request.run_key == f"{request.batch_id}.1"
    assert tick.refused == 1
    assert "not an image format" in tick.message
    assert db.landing_counts("line") == {"pending": 2, "done": 0, "refused": 1}
    # What was refused by its kind is reported by the run of the batch.
    assert set(db.landings("line")["batch_id"]) == {request.batch_id}
    assert db.kept_aside("line")["path"].tolist() == ["c.txt"]


def test_a_tick_that_died_after_writing_is_made_good_by_the_next(db: InspectionDatabase, inbox: Path) -> None:
    _land(inbox, "a.png")
    lost = _tick(db, inbox)
    assert _tick(db, inbox).requests == lost.requests
    assert _tick(db, inbox, RunState("active")).requests == ()


def test_of_two_ticks_that_would_repeat_a_request_at_the_same_time_one_does(
    db: InspectionDatabase, inbox: Path
) -> None:
    limits = Limits(repeat_seconds=60.0)
    _land(inbox, "a.png")
    (lost,) = _tick(db, inbox, limits=limits).requests
    others: list[LandingTick] = []

    def look(seconds: float, run_state: Callable[[str], RunState | None] = lambda _: None) -> LandingTick:
        return plan_landing_tick(db, "line", inbox, run_state=run_state, now=NOW + seconds, limits=limits)

    def meanwhile(key: str) -> None:
        others.append(look(70.0))

    tick = look(70.5, meanwhile)
    assert [*tick.requests, *others[0].requests] == [lost]
    # What was repeated is on its way for as long as what was asked for at first.
    assert look(129.0).requests == ()
    assert look(131.0).requests == (lost,)


def test_a_failed_read_is_not_an_empty_folder(db: InspectionDatabase, inbox: Path) -> None:
    _land(inbox, "a.png")
    _tick(db, inbox)
    inbox.rename(inbox.with_name("away"))
    tick = _tick(db, inbox, RunState("active"))
    assert tick.error
    assert "cannot read" in tick.message.lower()
    assert db.landing_counts("line")["pending"] == 1


def test_the_folder_may_be_moved_without_anything_being_new(db: InspectionDatabase, inbox: Path) -> None:
    _land(inbox, "a.png")
    _tick(db, inbox)
    moved = shutil.move(inbox, inbox.with_name("elsewhere"))
    assert "Nothing new among 1 files" in _tick(db, Path(moved), RunState("active")).message


@pytest.mark.parametrize("most_looked_up", [0, 100])
def test_few_files_are_looked_up_by_path_and_many_all_at_once(
    db: InspectionDatabase, inbox: Path, monkeypatch: pytest.MonkeyPatch, most_looked_up: int
) -> None:
    monkeypatch.setattr("vad_lib.landing.ticking.MOST_LOOKED_UP", most_looked_up)
    _land(inbox, "a.png", "b.png", "c.txt")
    _tick(db, inbox)
    (inbox / "a.png").unlink()
    _land(inbox, "d.png")
    tick = _tick(db, inbox, max_active=9)
    assert tick.requests[-1].count == 1
    assert tick.refused == 0
    assert sorted(db.landings("line")["path"]) == ["a.png", "b.png", "c.txt", "d.png"]


def test_the_same_file_written_anew_is_a_new_landing(db: InspectionDatabase, inbox: Path) -> None:
    _land(inbox, "a.png")
    first = _tick(db, inbox)
    _land(inbox, "a.png", content=b"longer")
    second = _tick(db, inbox, RunState("active"))
    assert {request.batch_id for request in second.requests}.isdisjoint(r.batch_id for r in first.requests)
    assert len(db.landings("line")) == 2


def test_two_ticks_at_the_same_time_take_each_file_up_once(db: InspectionDatabase, inbox: Path) -> None:
    _land(inbox, *(f"{i}.png" for i in range(40)))
    ticks: list[LandingTick] = []

    def look() -> None:
        ticks.append(_tick(InspectionDatabase(db.url), inbox, RunState("active"), max_batch=10, max_active=9))

    for _ in range(3):
        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    landed = db.landings("line")
    assert landed["path"].is_unique
    assert sum(request.count for tick in ticks for request in tick.requests) == len(landed)


def test_halving_keeps_every_landing_in_exactly_one_open_batch(db: InspectionDatabase, inbox: Path) -> None:
    _land(inbox, *(f"{i}.png" for i in range(5)), "note.txt")
    _tick(db, inbox)
    with db.writing() as connection:
        connection.execute(text("UPDATE landings SET begun = 1 WHERE state = 'pending'"))
        connection.execute(text("UPDATE batches SET attempt = 3"))
    tick = _tick(db, inbox, RunState("failed"))
    assert sorted(request.count for request in tick.requests) == [2, 3]
    with db.reading() as connection:
        open_ids = set(connection.execute(select(batches.c.batch_id).where(batches.c.state == "open")).scalars())
    landed = db.landings("line")
    assert len(landed) == 6
    assert set(landed["batch_id"]) == open_ids == {request.batch_id for request in tick.requests}
    assert db.batches("line").query("state == 'closed'")["note"].tolist() == ["halved, because its runs kept failing"]


def test_what_waits_can_be_asked_for(db: InspectionDatabase, inbox: Path) -> None:
    _land(inbox, "a.png")
    _tick(db, inbox)
    assert queue_facts(db, "line", now=NOW + 7) == {
        "pending": 1.0,
        "batches": 1.0,
        "oldest_seconds": pytest.approx(7, abs=0.01),
    }
    assert queue_facts(db, "other")["oldest_seconds"] == 0.0


def test_lines_know_nothing_of_each_other(db: InspectionDatabase, inbox: Path) -> None:
    _land(inbox, "a.png")
    assert _tick(db, inbox).requests
    other = plan_landing_tick(db, "other", inbox, run_state=lambda _: None, now=NOW)
    assert other.requests[0].batch_id != _tick(db, inbox).requests[0].batch_id


def test_the_database_is_in_wal_mode_and_checks_what_refers_to_what(db: InspectionDatabase) -> None:
    with db.reading() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"


def test_many_processes_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def open_it() -> None:
        try:
            InspectionDatabase(f"sqlite:///{tmp_path}/new.db")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.slow
def test_a_tick_with_100_000_known_files_takes_about_a_second(db: InspectionDatabase, inbox: Path) -> None:
    for folder in range(100):
        (inbox / f"{folder}").mkdir()
        _land(inbox / f"{folder}", *(f"{i}.png" for i in range(1000)))
    _tick(db, inbox, max_batch=10**6)
    with db.writing() as connection:
        connection.execute(text("UPDATE landings SET state = 'done', sha256 = ''"))
        connection.execute(text("UPDATE batches SET state = 'closed'"))
    started = time.perf_counter()
    assert "Nothing new among 100000 files" in _tick(db, inbox).message
    assert time.perf_counter() - started < 3.0, "0.7 s on an idle machine"
