"""Who has which file in hand, and what becomes of it when they are not heard of any more."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from inspection_rig import Rig, dead_worker, worker_elsewhere
from sqlalchemy import text

from vad_lib.errors import InputError
from vad_lib.images.decoding import DecodedImage
from vad_lib.ingest import Arrival, FileVersion
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import Actor, newest_changes
from vad_lib.inspection_db.laws import check_database
from vad_lib.queue import (
    LEASE_SECONDS,
    Done,
    Later,
    Prediction,
    Refused,
    expire,
    finish,
    kept_leases,
    lease,
    leases,
    new_worker,
    pause_line,
    pauses,
    queue_facts,
    register,
    renew,
    resume_line,
)
from vad_lib.queue.leases import PATIENCE_SECONDS, SUSPECT


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds by which the database's clock is ahead."""
    ahead = [0.0]
    clock = InspectionDatabase.clock

    def moved(self: InspectionDatabase, connection: object) -> datetime:
        return clock(self, connection) + timedelta(seconds=ahead[0])  # type: ignore[arg-type]

    monkeypatch.setattr(InspectionDatabase, "clock", moved)
    return ahead


def add(rig: Rig, count: int, line: str = "bottles", start: int = 0) -> None:
    versions = [FileVersion(f"{i}.png", 5, 1, i, 1) for i in range(start, start + count)]
    register(rig.db, line, rig.inbox, [Arrival(version, time.time()) for version in versions])


def take(rig: Rig, worker: str, count: int, line: str = "bottles") -> list[str]:
    return [each.version.path for each in lease(rig.db, line, worker, count).files]


def done(file_id: int, sha: str) -> Done:
    image = DecodedImage(None, 1, 1, 1, sha, "L")  # type: ignore[arg-type]
    return Done(file_id, image, Prediction(sha, "1", "/x", 1.0, 0.2, 0.3, "OK", 2.0, "t", 0.5, 0.1))


def _deliveries(rig: Rig) -> list[int]:
    return rig.db.incoming_files("bottles")["deliveries"].tolist()


@pytest.mark.spec("Q1.02")
def test_files_are_taken_oldest_first_and_each_by_one_worker(rig: Rig) -> None:
    add(rig, 5)
    add(rig, 2, "caps")
    first, second = new_worker(), new_worker()
    assert take(rig, first, 2) == ["0.png", "1.png"]
    assert take(rig, second, 2) == ["2.png", "3.png"]
    assert take(rig, first, 9) == ["4.png"]
    assert take(rig, second, 9) == []
    assert take(rig, second, 9, "caps") == ["0.png", "1.png"]
    facts = queue_facts(rig.db)["bottles"]
    assert (facts.pending, facts.leased, facts.unleased_seconds) == (5, 5, None)


def test_a_worker_learns_whether_more_waits(rig: Rig) -> None:
    add(rig, 3)
    assert lease(rig.db, "bottles", new_worker(), 2).more
    assert not lease(rig.db, "bottles", new_worker(), 2).more
    add(rig, 2, start=3)
    take(rig, dead_worker(), 9)
    expire(rig.db)
    add(rig, 1, start=5)
    # What a dead worker had comes last and alone, and is not forgotten behind a small chunk.
    found = [lease(rig.db, "bottles", new_worker(), 9) for _ in range(4)]
    assert [[each.version.path for each in taken.files] for taken in found] == [["5.png"], ["3.png"], ["4.png"], []]
    assert [taken.more for taken in found] == [True, True, False, False]


@pytest.mark.spec("Q1.03")
def test_a_death_on_this_machine_is_seen_at_once_and_counts_as_one_delivery(rig: Rig) -> None:
    add(rig, 4)
    assert take(rig, new_worker(), 2) == ["0.png", "1.png"]
    assert take(rig, dead_worker(), 2) == ["2.png", "3.png"]
    assert expire(rig.db) == 2
    assert expire(rig.db) == 0
    assert _deliveries(rig) == [0, 0, 1, 1]
    assert take(rig, new_worker(), 9) == ["2.png"]
    assert take(rig, new_worker(), 9) == ["3.png"]


@pytest.mark.spec("Q1.03")
def test_a_death_on_another_machine_is_seen_when_its_lease_has_run_out(rig: Rig, later: list[float]) -> None:
    add(rig, 2)
    take(rig, worker_elsewhere(), 2)
    later[0] = LEASE_SECONDS - 5
    assert expire(rig.db) == 0
    later[0] = LEASE_SECONDS + 1
    assert expire(rig.db) == 2
    assert _deliveries(rig) == [1, 1]


@pytest.mark.spec("Q1.04")
def test_a_worker_that_renews_keeps_what_it_has(rig: Rig, later: list[float]) -> None:
    add(rig, 2)
    lives, died = worker_elsewhere(), worker_elsewhere()
    take(rig, lives, 1)
    take(rig, died, 1)
    later[0] = LEASE_SECONDS - 5
    renew(rig.db, lives)
    later[0] = LEASE_SECONDS + 5
    assert expire(rig.db) == 1
    assert rig.file("0.png").leased_by == lives


def test_leases_are_renewed_while_a_run_works(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.3)
    add(rig, 1)
    worker = worker_elsewhere()
    with kept_leases(rig.db, worker):
        take(rig, worker, 1)
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            assert expire(rig.db) == 0
            time.sleep(0.05)
    time.sleep(0.4)
    assert expire(rig.db) == 1


@pytest.mark.spec("Q1.04")
def test_the_finish_of_a_lost_lease_is_passed_over(rig: Rig, later: list[float]) -> None:
    add(rig, 2)
    slow, quick = worker_elsewhere(), new_worker()
    held = lease(rig.db, "bottles", slow, 2).files
    later[0] = LEASE_SECONDS + 1
    expire(rig.db)
    (taken,) = lease(rig.db, "bottles", quick, 9).files
    late = [done(held[0].file_id, "a" * 64), Refused(held[1].file_id, "unreadable_image", "a reason")]
    assert finish(rig.db, "bottles", slow, late, source="batch") == []
    assert rig.db.count_predictions("bottles") == 0
    assert rig.db.file_counts("bottles") == {"pending": 2, "done": 0, "refused": 0}
    (decision,) = finish(rig.db, "bottles", quick, [done(taken.file_id, "a" * 64)], source="batch")
    assert (decision.path, decision.state, decision.predicted) == ("0.png", "done", "OK")
    # Once decided, nothing changes it.
    assert finish(rig.db, "bottles", quick, [Refused(taken.file_id, "x", "y")], source="batch") == []
    assert rig.states()["0.png"] == "done"
    assert check_database(rig.db.engine) == []


def test_what_is_put_off_is_not_offered_before_and_blames_only_where_it_says_so(rig: Rig, later: list[float]) -> None:
    add(rig, 2)
    worker = new_worker()
    first, second = lease(rig.db, "bottles", worker, 2).files
    finish(
        rig.db,
        "bottles",
        worker,
        [Later(first.file_id, 30.0, "busy"), Later(second.file_id, 60.0, "I/O error", blamed=True)],
        source="batch",
    )
    assert _deliveries(rig) == [0, 1]
    assert rig.file("1.png").reason == "I/O error"
    assert take(rig, worker, 9) == []
    facts = queue_facts(rig.db)["bottles"]
    assert (facts.pending, facts.later, facts.unleased_seconds) == (2, 2, None)
    later[0] = 31
    assert take(rig, worker, 9) == ["0.png"]
    later[0] = 61
    (again,) = lease(rig.db, "bottles", new_worker(), 9).files
    assert (again.version.path, again.deliveries, again.trouble) == ("1.png", 1, "I/O error")


def test_of_one_path_no_version_is_offered_while_a_worker_has_an_earlier_one(rig: Rig) -> None:
    versions = [FileVersion("cam.png", 5, 1, number, number) for number in range(3)]
    register(rig.db, "bottles", rig.inbox, [Arrival(versions[0], 0.0)])
    worker = new_worker()
    (first,) = lease(rig.db, "bottles", worker, 9).files
    register(rig.db, "bottles", rig.inbox, [Arrival(version, 0.0) for version in versions[1:]])
    register(rig.db, "bottles", rig.inbox, [Arrival(FileVersion("other.png", 5, 1, 9, 9), 0.0)])
    assert take(rig, new_worker(), 9) == ["other.png"]
    finish(rig.db, "bottles", worker, [done(first.file_id, "a" * 64)], source="batch")
    assert take(rig, worker, 9) == ["cam.png", "cam.png"]


@pytest.mark.spec("Q1.06")
def test_a_suspect_is_in_hand_with_no_other_file_of_its_process_and_other_processes_go_on(rig: Rig) -> None:
    add(rig, 4)
    with rig.db.writing() as connection:
        connection.execute(text(f"UPDATE incoming_files SET deliveries = {SUSPECT} WHERE path = '0.png'"))
    worker, other = new_worker(), new_worker()
    assert take(rig, worker, 2) == ["1.png", "2.png"]
    held = rig.db.incoming_files("bottles").query("leased_by == @worker")["file_id"]
    assert take(rig, other, 1) == ["3.png"]
    assert take(rig, worker, 9) == []  # not beside what it has
    finish(rig.db, "bottles", worker, [Later(int(number), 0.0, "") for number in held], source="online")
    assert take(rig, worker, 2) == ["1.png", "2.png"]
    finish(rig.db, "bottles", worker, [done(int(n), f"{n:064}") for n in held], source="online")
    assert take(rig, worker, 9) == ["0.png"]
    add(rig, 2, start=4)
    add(rig, 2, "caps")
    assert take(rig, worker, 9) == take(rig, worker, 9, "caps") == []  # nothing beside it
    assert take(rig, other, 9) == ["4.png", "5.png"]


def test_a_file_that_was_not_finished_waits_for_the_others_only_for_a_while(rig: Rig, later: list[float]) -> None:
    add(rig, 1)
    take(rig, dead_worker(), 1)
    expire(rig.db)
    add(rig, 4, start=1)
    worker = new_worker()
    assert take(rig, worker, 2) == ["1.png", "2.png"]
    later[0] = PATIENCE_SECONDS + 1
    assert take(rig, worker, 2) == ["0.png"], "though others still wait"
    assert take(rig, worker, 2) == ["3.png", "4.png"]


def test_names_of_workers_tell_their_process_and_differ(tmp_path: Path) -> None:
    from vad_lib.processes import is_dead

    assert len({new_worker() for _ in range(100)}) == 100
    assert not is_dead(new_worker())
    assert is_dead(dead_worker())
    assert not is_dead(worker_elsewhere())


@pytest.mark.spec("Q1.02")
def test_many_workers_at_once_never_have_the_same_file(rig: Rig) -> None:
    """Threads with their own connections, several of one worker's name; some of them die."""
    add(rig, 200)
    add(rig, 60, "caps")
    url = rig.db.engine.url.render_as_string(hide_password=False)
    taken: list[tuple[str, int]] = []
    errors: list[BaseException] = []
    barrier = threading.Barrier(6)
    shared = new_worker()

    def work(number: int) -> None:
        db, worker = InspectionDatabase(url), shared if number < 2 else new_worker()
        try:
            barrier.wait(30)
            idle, deadline = 0, time.monotonic() + 100
            while idle < 3:
                assert time.monotonic() < deadline, "files are leased for ever"
                expire(db)
                renew(db, worker)
                found = 0
                for line in ("bottles", "caps"):
                    files, _ = lease(db, line, worker, 7)
                    taken.extend((line, each.file_id) for each in files)
                    decided = finish(
                        db, line, worker, [done(each.file_id, f"{each.file_id:064}") for each in files], source="batch"
                    )
                    assert len(decided) == len(files)
                    found += len(files)
                idle = 0 if found else idle + 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert len(taken) == len(set(taken)) == 260
    for line, count in (("bottles", 200), ("caps", 60)):
        predicted = rig.db.predictions(line)
        assert (len(predicted), predicted["sha256"].is_unique) == (count, True)
        # Whoever reads up to some number misses nothing below it later.
        assert predicted["created_at"].is_monotonic_increasing
    assert check_database(rig.db.engine) == []


def test_predictions_of_a_line_become_visible_in_the_order_of_their_numbers(rig: Rig) -> None:
    add(rig, 120)
    url = rig.db.engine.url.render_as_string(hide_password=False)
    over = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        db, worker = InspectionDatabase(url), new_worker()
        deadline = time.monotonic() + 100
        try:
            while files := lease(db, "bottles", worker, 3).files:
                assert time.monotonic() < deadline, "files are leased for ever"
                finish(
                    db, "bottles", worker, [done(each.file_id, f"{each.file_id:064}") for each in files], source="batch"
                )
        except BaseException as error:
            errors.append(error)

    seen: set[int] = set()

    def watch() -> None:
        try:
            while not over.is_set():
                numbers = set(rig.db.predictions("bottles")["prediction_id"].tolist())
                late = {number for number in numbers - seen if seen and number < max(seen)}
                assert not late, "a reader that had read further would have missed them"
                seen.update(numbers)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    reader = threading.Thread(target=watch)
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join(120)
    over.set()
    reader.join(60)
    assert errors == []
    assert rig.db.count_predictions("bottles") == 120


def test_a_paused_line_keeps_its_files_and_gets_them_when_it_goes_on(rig: Rig) -> None:
    add(rig, 2)
    add(rig, 1, "caps")
    pause_line(rig.db, "bottles", Actor("Kim", "approver"), "the lamp is broken")
    pause_line(rig.db, "bottles", Actor("Lee"), "said again")
    assert pauses(rig.db)["bottles"].reason == "the lamp is broken"
    assert (take(rig, new_worker(), 9), take(rig, new_worker(), 9, "caps")) == ([], ["0.png"])
    resume_line(rig.db, "bottles", Actor("Lee"))
    resume_line(rig.db, "bottles", Actor("Lee"))
    assert take(rig, new_worker(), 9) == ["0.png", "1.png"]
    assert list(newest_changes(rig.db, "bottles")["action"]) == ["resume", "pause"]
    with pytest.raises(InputError, match="why the line is paused"):
        pause_line(rig.db, "bottles", Actor("Kim"), " ")
