"""Registering files: each version once, whoever sees it."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest
from brightness_model import write_image
from inspection_rig import Rig, register_what_is_there

from vad_lib.ingest import Arrival, FileVersion
from vad_lib.inspection.quarantine import keep_files_refused_by_name
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.laws import check_database
from vad_lib.inspection_db.schema import notifications
from vad_lib.lines import Home
from vad_lib.queue import known_versions, queue_facts, register, registration
from vad_lib.queue.outbox import open_sinks


def _versions(count: int) -> list[FileVersion]:
    return [FileVersion(f"{i}.png", 5, 1, i, 1) for i in range(count)]


@pytest.mark.spec("Q1.11")
def test_images_wait_and_other_files_are_refused_told_and_quarantined(rig: Rig) -> None:
    open_sinks(rig.db, {"bottles": ["webhook", "file"]})
    write_image(rig.inbox / "a.png", 50)
    write_image(rig.inbox / "b.png", 60)
    (rig.inbox / "c.txt").write_text("a note")
    (rig.inbox / "out.png").symlink_to("/etc/hostname")
    assert rig.register() == 4
    assert rig.states() == {"a.png": "pending", "b.png": "pending", "c.txt": "not_an_image", "out.png": "leaves_folder"}
    assert Path(rig.file("c.txt").quarantine_file).read_text() == "a note"
    assert rig.file("out.png").quarantine_note == "not copied: a symbolic link that leaves the folder"
    told = rig.db.table(notifications.select())
    assert sorted(told["sink"]) == ["file", "file", "webhook", "webhook"]
    assert set(told["file_id"]) == {rig.file("c.txt").file_id, rig.file("out.png").file_id}


@pytest.mark.spec("Q1.01")
def test_registering_again_changes_nothing(rig: Rig) -> None:
    open_sinks(rig.db, {"bottles": ["file"]})
    write_image(rig.inbox / "a.png", 50)
    (rig.inbox / "c.txt").write_text("a note")
    rig.inspect()
    before = rig.db.incoming_files("bottles")
    version = FileVersion.of("a.png", (rig.inbox / "a.png").stat())
    register(rig.db, "bottles", rig.inbox, [Arrival(version, time.time())])
    assert rig.register() == 0
    assert rig.db.incoming_files("bottles").equals(before)
    assert len(rig.db.table(notifications.select())) == 2


def test_the_folder_may_be_moved_without_anything_being_new(rig: Rig) -> None:
    write_image(rig.inbox / "a.png", 50)
    rig.register()
    moved = Path(shutil.move(rig.inbox, rig.line.folder / "elsewhere"))
    assert register_what_is_there(rig.db, rig.line, moved) == 0


def test_lines_know_nothing_of_each_other(rig: Rig) -> None:
    write_image(rig.inbox / "a.png", 50)
    rig.register()
    other = Home(rig.line.folder.parent.parent).line("caps")
    assert register_what_is_there(rig.db, other, rig.inbox) == 1
    rig.work()
    assert rig.db.file_counts("caps") == {"pending": 1, "done": 0, "refused": 0}


@pytest.mark.parametrize("most_looked_up", [0, 100])
def test_few_versions_are_looked_up_by_key_and_many_all_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, most_looked_up: int
) -> None:
    monkeypatch.setattr(registration, "MOST_LOOKED_UP", most_looked_up)
    versions = _versions(40)
    register(rig.db, "bottles", rig.inbox, [Arrival(version, 0.0) for version in versions[:30]])
    changed = versions[0]._replace(ctime_ns=2)
    assert known_versions(rig.db, "bottles", [*versions[25:], changed]) >= set(versions[25:30])
    assert not known_versions(rig.db, "bottles", [*versions[25:], changed]) & {*versions[30:], changed}
    assert known_versions(rig.db, "caps", versions) == set()


def test_decided_versions_can_be_told_from_those_that_wait(rig: Rig) -> None:
    write_image(rig.inbox / "a.png", 50)
    rig.inspect()
    write_image(rig.inbox / "b.png", 60)
    rig.register()
    versions = [FileVersion.of(name, (rig.inbox / name).stat()) for name in ("a.png", "b.png")]
    assert known_versions(rig.db, "bottles", versions) == set(versions)
    assert known_versions(rig.db, "bottles", versions, decided=True) == {versions[0]}


@pytest.mark.spec("Q1.01")
def test_several_services_that_register_the_same_files_at_once_register_each_once(rig: Rig) -> None:
    """No deadlock, whichever order they see them in."""
    open_sinks(rig.db, {"bottles": ["file"]})
    for i in range(60):
        write_image(rig.inbox / f"{i}.png", 50, nonce=i)
        (rig.inbox / f"{i}.txt").write_text("note")
    errors: list[BaseException] = []
    barrier = threading.Barrier(4)

    def see(number: int) -> None:
        try:
            db = InspectionDatabase(rig.db.engine.url.render_as_string(hide_password=False))
            barrier.wait(30)
            versions = [
                FileVersion.of(file.name, file.stat()) for file in sorted(rig.inbox.iterdir(), reverse=bool(number % 2))
            ]
            arrivals = [Arrival(version, time.time()) for version in versions if version.path.endswith("png")]
            for start in range(0, 60, 20):
                register(db, "bottles", rig.inbox, arrivals[start : start + 20])
            register_what_is_there(db, rig.line)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=see, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    files = rig.db.incoming_files("bottles")
    assert len(files) == 120
    assert files["path"].is_unique
    assert len(rig.db.table(notifications.select())) == 60
    keep_files_refused_by_name(rig.db, rig.line)  # some are copied at a time
    assert rig.db.refused("bottles")["quarantine_file"].notna().all()
    assert check_database(rig.db.engine) == []


def test_what_waits_can_be_asked_for(rig: Rig) -> None:
    assert queue_facts(rig.db) == {}
    register(rig.db, "bottles", rig.inbox, [Arrival(version, time.time() - 7) for version in _versions(3)])
    facts = queue_facts(rig.db)["bottles"]
    assert (facts.pending, facts.leased, facts.later) == (3, 0, 0)
    assert facts.oldest_seconds == pytest.approx(7, abs=3)
    assert facts.unleased_seconds == pytest.approx(0, abs=3)


@pytest.mark.slow
@pytest.mark.parametrize("inspection_url", ["sqlite"], indirect=True)
def test_a_scan_of_100_000_known_files_takes_about_a_second(rig: Rig) -> None:
    for folder in range(100):
        (rig.inbox / f"{folder}").mkdir()
        for i in range(1000):
            (rig.inbox / f"{folder}" / f"{i}.png").write_bytes(b"x")
    registered = 0
    while registered < 100_000:
        new = rig.register()
        assert new, "some files are never registered"
        registered += new
    started = time.perf_counter()
    assert rig.register() == 0
    assert time.perf_counter() - started < 4.0, "1 s on an idle machine"
