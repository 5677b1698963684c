"""What the judge of a chaos test takes for one decision, and what for a loss."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from brightness_model import BrightnessModel
from sqlalchemy import delete, update

from benchmarks.chaos.input_files import write_input_file
from benchmarks.chaos.judge import judge
from benchmarks.chaos.plan import (
    COPY,
    DUPLICATE,
    GOOD,
    OTHER_TYPE,
    REPLACEMENT,
    TRAILER,
    TRUNCATED,
    ChaosPlan,
    InputFile,
    Shape,
)
from vad_lib.ingest import Arrival, FolderWatch
from vad_lib.inspection import Served, inspect_queue
from vad_lib.inspection.quarantine import keep_files_refused_by_name
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.schema import incoming_files, notifications, predictions
from vad_lib.lines import Home
from vad_lib.queue import known_versions, register
from vad_lib.queue.outbox import due_notifications, open_sinks, record_attempts
from vad_lib.serving.sinks import write_result_file

SEED, LINE = 1, "bottles"


class Judged:
    """Files that were inspected by one run after the other, and what the judge says about them."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.line = home.line(LINE)
        self.line.inbox.mkdir(parents=True)
        self.db = InspectionDatabase(f"sqlite:///{home.root}/inspection.db")
        self.files: list[InputFile] = []
        self.decided_before: set[tuple[str, str]] = set()
        open_sinks(self.db, {LINE: ["file"]})
        self._watch = FolderWatch(LINE, self.line.inbox, 0.0, lambda versions: known_versions(self.db, LINE, versions))

    def arrive(self, path: str, kind: str = GOOD, content: int = 3, *, decided: bool = True) -> Path:
        """Write a file, inspect what waits, and notify."""
        way = kind if kind in (REPLACEMENT, TRAILER) else COPY
        file = InputFile(len(self.files), LINE, path, kind, way, content, 0.0)
        if way != COPY and decided:
            self.decided_before.add((LINE, path))
        self.files.append(file)
        write_input_file(SEED, file, self.line.inbox, self.home.root)
        self.inspect()
        return self.line.inbox / path

    def inspect(self) -> None:
        self._watch.scan()
        arrivals = [Arrival(version, moment) for version, moment in self._watch.waiting.items()]
        register(self.db, LINE, self.line.inbox, arrivals, self._watch.refused)
        keep_files_refused_by_name(self.db, self.line)
        inspect_queue(self.db, self.line, Served(BrightnessModel(), "v1"), run_id="run")
        due = due_notifications(self.db, [(LINE, "file")])
        record_attempts(self.db, [(each, write_result_file(each)) for each in due])

    def troubles(self) -> list[str]:
        test: Any = SimpleNamespace(
            plan=ChaosPlan(SEED, Shape((LINE,), 0, (), 1.0, 1.0), tuple(self.files), ()),
            db=self.db,
            extra=[],
            decided_before=self.decided_before,
            database=SimpleNamespace(messages=()),
            result=SimpleNamespace(troubles=[]),
            rig=SimpleNamespace(
                home=self.home,
                watch_folder=lambda _: self.line.inbox,
                thresholds=lambda: {"v1": 100.0},
                champion=lambda _: "v1",
            ),
        )
        judge(test)
        return list(test.result.troubles)


@pytest.fixture
def judged(tmp_path: Path) -> Judged:
    return Judged(Home(tmp_path / "home"))


def test_files_of_each_kind_that_were_decided_as_they_should_are_no_trouble(judged: Judged) -> None:
    judged.arrive("good.png")
    judged.arrive("same.png", DUPLICATE)
    judged.arrive("broken.jpg", TRUNCATED, 4)
    judged.arrive("text.gif", OTHER_TYPE, 5)
    os.utime(judged.arrive("touched.png", content=7), (1_000_000, 1_000_000))
    judged.inspect()
    judged.arrive("replaced.png", content=9)
    judged.arrive("replaced.png", REPLACEMENT, 11)
    judged.arrive("trailer.png", content=13)
    judged.arrive("trailer.png", TRAILER, 13)
    assert judged.troubles() == []


@pytest.mark.parametrize(
    ("statement", "trouble"),
    [
        (delete(predictions), "has no prediction"),
        (delete(notifications), "has 0 notifications, not one"),
        (update(notifications).values(state="given_up"), "the notification about a.png is given_up"),
        (delete(incoming_files), "it is not decided"),
        (update(incoming_files).values(ctime_ns=1), "lies there"),
        (update(incoming_files).values(sha256="0" * 64), "it was inspected as 000"),
        (update(predictions).values(threshold=99.0), "decided with 99.0, not with 100.0"),
        (update(predictions).values(predicted="NG"), "NG with p"),
    ],
)
def test_what_was_lost_or_falsified_in_the_database_is_found(judged: Judged, statement: Any, trouble: str) -> None:
    judged.arrive("a.png")
    assert judged.troubles() == []
    with judged.db.writing() as connection:
        connection.execute(statement)
    assert any(trouble in each for each in judged.troubles())


def test_a_lease_that_is_left_is_found(judged: Judged) -> None:
    judged.arrive("a.png")
    pending = {"state": "pending", "decided_at": None, "leased_by": "somebody", "leased_until": None}
    with judged.db.writing() as connection:
        connection.execute(update(incoming_files).values(pending))
    assert any("is leased by somebody" in each for each in judged.troubles())


def test_a_replacement_that_nobody_noticed_is_found(judged: Judged) -> None:
    judged.arrive("a.png")
    with judged.db.writing() as connection:
        connection.execute(delete(incoming_files).where(incoming_files.c.file_id > 1))
    judged.arrive("a.png", REPLACEMENT, 11)
    with judged.db.writing() as connection:
        connection.execute(delete(incoming_files).where(incoming_files.c.file_id > 1))
    assert any("but" in each and "lies there" in each for each in judged.troubles())


def test_a_result_file_about_another_image_is_found(judged: Judged) -> None:
    first = judged.arrive("a.png")
    other = judged.arrive("b.png", content=11)
    first.with_name("a.png.vad.json").write_bytes(other.with_name("b.png.vad.json").read_bytes())
    assert any("a.png.vad.json says" in each for each in judged.troubles())


def test_a_copy_in_quarantine_that_holds_something_else_is_found(judged: Judged) -> None:
    judged.arrive("broken.jpg", TRUNCATED, 4)
    (copy,) = judged.line.quarantine.iterdir()
    copy.write_bytes(b"something else")
    assert any("is not what arrived" in each for each in judged.troubles())
