"""What a watch of one folder finds, by hints and by scans, with real files and events."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import pytest
from brightness_model import write_image

from vad_lib.ingest import FileVersion, FolderEvents, FolderWatch
from vad_lib.ingest import watch as watch_module
from vad_lib.lines import Home

Known = Callable[[Sequence[FileVersion]], Collection[FileVersion]]


def _watch(folder: Path, settle_seconds: float = 3600.0, known: Known = lambda _: set(), **more: object) -> FolderWatch:
    return FolderWatch("bottles", folder, settle_seconds, known=known, **more)  # type: ignore[arg-type]


def _paths(watch: FolderWatch) -> set[str]:
    return {version.path for version in watch.waiting}


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.spec("I1.03")
def test_neither_a_hint_nor_a_scan_finds_what_the_line_writes_itself(linked: bool, tmp_path: Path) -> None:
    line = Home(tmp_path / "home").line("bottles")
    line.inbox.mkdir(parents=True)
    folder = line.folder
    if linked:
        folder = tmp_path / "by another name"
        folder.symlink_to(line.folder)
    watch = _watch(folder, skip_folders=line.own_folders)
    arrived = {"inbox/arrived.png", "quarantine_by_hand/arrived.png"}
    names = [*arrived, *(f"{own.relative_to(line.folder)}/deep/own.png" for own in line.own_folders)]
    for nonce, name in enumerate(names):
        write_image(line.folder / name, 50, nonce)
        watch.hint(str(folder / name))
    assert watch.take_hints() == 2
    assert _paths(watch) == arrived
    watch.scan()
    assert _paths(watch) == arrived


@pytest.mark.parametrize(
    "name",
    [".hidden.png", ".hidden/a.png", "a.png.part", "a.txt", "a.png.vad.json", "empty.png", "half.png", "gone.png"],
)
def test_a_hint_is_only_followed_where_it_leads_to_a_whole_image(tmp_path: Path, name: str) -> None:
    watch = _watch(tmp_path)
    whole = write_image(tmp_path / "other" / "x.png", 50).read_bytes()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    if name != "gone.png":
        (tmp_path / name).write_bytes({"empty.png": b"", "half.png": whole[:40]}.get(name, whole))
    watch.hint(str(tmp_path / name))
    watch.hint(str(tmp_path.parent / "outside.png"))
    assert watch.take_hints() == 0
    assert not watch.waiting


def test_a_file_that_is_not_whole_yet_is_looked_at_again_after_the_stability_window(tmp_path: Path) -> None:
    watch = _watch(tmp_path, settle_seconds=0.1)
    watch.next_scan = time.monotonic() + 60
    (tmp_path / "a.png").write_bytes(b"\x89PNG half of it")
    watch.hint(str(tmp_path / "a.png"))
    assert watch.take_hints() == 0
    assert not watch.due(time.monotonic())
    time.sleep(0.2)
    assert watch.due(time.monotonic())
    watch.scan()
    assert _paths(watch) == {"a.png"}  # whoever reads it will say what is wrong with it


def test_what_is_registered_is_not_offered_again_and_another_version_is(tmp_path: Path) -> None:
    asked: list[list[FileVersion]] = []

    def known(versions: Sequence[FileVersion]) -> set[FileVersion]:
        asked.append(list(versions))
        return set()

    watch = _watch(tmp_path, known=known)
    file = write_image(tmp_path / "a.png", 50)
    watch.scan()
    watch.mark_registered(set(watch.waiting))
    watch.scan()
    assert not watch.waiting
    assert asked[-1] == []  # nobody is asked about what is remembered
    watch.hint(str(file))
    assert watch.take_hints() == 0
    write_image(tmp_path / "new.png", 60).rename(file)
    watch.hint(str(file))
    assert watch.take_hints() == 1


def test_too_many_hints_and_too_many_files_become_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "MAX_HINTS", 3)
    monkeypatch.setattr(watch_module, "MAX_WAITING", 2)
    watch = _watch(tmp_path)
    watch.next_scan = time.monotonic() + 3600
    for i in range(5):
        watch.hint(str(write_image(tmp_path / f"{i}.png", 50, i)))
    assert watch.due(time.monotonic())
    assert watch.take_hints() == 2
    assert watch.due(time.monotonic())


@pytest.mark.spec("I1.02")
def test_a_folder_that_cannot_be_read_is_no_empty_folder(tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    write_image(folder / "a.png", 50)
    asked = []
    watch = _watch(folder, known=lambda versions: asked.append(versions) or set())
    watch.scan()
    before = dict(watch.waiting)
    folder.rename(tmp_path / "away")
    watch.scan()
    assert "No such file" in watch.error
    assert (watch.waiting, len(asked)) == (before, 1)
    (tmp_path / "away").rename(folder)
    watch.scan()
    assert watch.error == ""


def test_a_file_written_to_between_scan_and_look_is_not_taken_for_what_the_scan_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_image(tmp_path / "a.png", 50)

    def whole_then_written_to(path: Path) -> bool:
        with path.open("ab") as stream:
            stream.write(b"more")
        return True

    monkeypatch.setattr(watch_module, "ends_whole", whole_then_written_to)
    watch = _watch(tmp_path)
    watch.scan()
    assert (watch.waiting, watch.writing) == ({}, 1)
    assert file.exists()


def test_arrival_is_told_by_the_last_change_and_not_by_a_copied_time(tmp_path: Path) -> None:
    file = write_image(tmp_path / "a.png", 50)
    os.utime(file, (1, 1))
    watch = _watch(tmp_path)
    watch.scan()
    (arrived,) = watch.waiting.values()
    assert abs(arrived - time.time()) < 60


@pytest.fixture
def events() -> Iterator[FolderEvents]:
    made = FolderEvents()
    yield made
    made.stop()


@pytest.mark.parametrize("way", ["write", "rename", "new folder", "moved folder"])
def test_events_name_the_folder_where_something_arrived(tmp_path: Path, events: FolderEvents, way: str) -> None:
    woken = {name: threading.Event() for name in "ab"}
    watches = {}
    for name in "ab":
        (tmp_path / name).mkdir()
        watches[name] = FolderWatch(name, tmp_path / name, 3600.0, known=lambda _: set(), wake=woken[name].set)
        watches[name].next_scan = time.monotonic() + 3600
    image = write_image(tmp_path / "camera" / "1.png", 50)
    events.keep(list(watches.values()))
    assert all(watch.events for watch in watches.values())
    for watch in watches.values():
        watch.scan()
    if way == "write":
        (tmp_path / "b" / "1.png").write_bytes(image.read_bytes())
    elif way == "rename":
        image.rename(tmp_path / "b" / "1.png")
    elif way == "new folder":
        write_image(tmp_path / "b" / "deep" / "deeper" / "1.png", 50)
    else:
        image.parent.rename(tmp_path / "b" / "camera")
    assert woken["b"].wait(30)
    deadline = time.monotonic() + 30
    while not watches["b"].waiting:
        assert time.monotonic() < deadline, "the event leads to no file"
        watches["b"].take_hints()
        if watches["b"].due(time.monotonic()):
            watches["b"].scan()
        time.sleep(0.01)
    assert not woken["a"].is_set()


def test_a_folder_that_was_replaced_is_watched_again(tmp_path: Path, events: FolderEvents) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()
    watch = _watch(folder)
    events.keep([watch])
    folder.rename(tmp_path / "old")
    events.keep([watch])
    assert not watch.events
    folder.mkdir()
    events.keep([watch])
    assert watch.events
    write_image(folder / "a.png", 50)
    deadline = time.monotonic() + 30
    while not watch.take_hints():
        assert time.monotonic() < deadline, "the new folder is not watched"
        time.sleep(0.01)
    events.keep([])
    assert not watch.events
