"""A tree is seen whole or not at all, whatever kills its writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vad_lib.artifacts import publish_tree
from vad_lib.errors import InputError

_SLOW_WRITER = """
import sys, time
from pathlib import Path
from vad_lib.artifacts.publishing import publish_tree
with publish_tree(Path(sys.argv[1])) as tree:
    (tree / "first").write_text("new")
    print("half", flush=True)
    time.sleep(60)
    (tree / "second").write_text("new")
"""

_KILLED_WHILE_POINTING = """
import os, signal, sys
from pathlib import Path
from vad_lib.artifacts import publishing
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
publishing.os.replace = die
with publishing.publish_tree(Path(sys.argv[1])) as tree:
    (tree / "first").write_text("new")
"""


def publish(target: Path, content: str, **more: int) -> None:
    with publish_tree(target, **more) as tree:
        (tree / "first").write_text(content)
        (tree / "deep").mkdir()
        (tree / "deep/second").write_text(content)


def read(target: Path) -> tuple[str, str]:
    return (target / "first").read_text(), (target / "deep/second").read_text()


def test_a_writer_that_is_killed_leaves_the_last_good_tree(tmp_path: Path) -> None:
    target = tmp_path / "artifacts"
    publish(target, "old")
    writer = subprocess.Popen([sys.executable, "-c", _SLOW_WRITER, str(target)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "half\n"
    store = target.parent / ".trees/artifacts"
    assert len(list(store.glob("*.partial"))) == 1
    publish(target, "meanwhile")  # a living writer's half-made tree is left alone
    assert len(list(store.glob("*.partial"))) == 1
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert read(target) == ("meanwhile", "meanwhile")
    publish(target, "after")  # a dead writer's is cleared away
    assert read(target) == ("after", "after")
    assert not list(store.glob("*.partial"))
    assert not list(store.glob("*.lock"))


@pytest.mark.parametrize("before", ["nothing", "a tree", "a folder"])
def test_a_writer_killed_at_the_last_moment_loses_nothing_that_was_there(before: str, tmp_path: Path) -> None:
    target = tmp_path / "artifacts"
    if before == "a tree":
        publish(target, "old")
    elif before == "a folder":
        target.mkdir()
        (target / "users").write_text("own")
    killed = subprocess.run([sys.executable, "-c", _KILLED_WHILE_POINTING, str(target)], check=False)
    assert killed.returncode == -signal.SIGKILL
    if before == "a tree":
        assert read(target) == ("old", "old")
    publish(target, "after")
    assert read(target) == ("after", "after")
    assert not list(tmp_path.glob(".*.link"))
    if before == "a folder":
        assert [file.read_text() for file in (tmp_path / ".trees/artifacts").glob("found-*/users")] == ["own"]


def test_an_error_while_writing_publishes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "artifacts"
    publish(target, "old")

    def fail() -> None:
        with publish_tree(target) as tree:
            (tree / "first").write_text("new")
            raise RuntimeError("no disk")

    with pytest.raises(RuntimeError, match="no disk"):
        fail()
    assert read(target) == ("old", "old")
    assert len(list((tmp_path / ".trees/artifacts").iterdir())) == 1


def test_readers_see_one_tree_or_the_other_and_never_a_mixture(tmp_path: Path) -> None:
    target = tmp_path / "artifacts"
    publish(target, "0")
    stop = threading.Event()
    failures: list[object] = []

    def look() -> None:
        while not stop.is_set():
            try:
                tree = target.resolve()  # a reader that reads several files takes hold of one tree
                first, second = read(tree)
                if first != second:
                    failures.append((first, second))
                (target / "first").read_text()
            except OSError as error:
                failures.append(error)

    reader = threading.Thread(target=look, daemon=True)
    reader.start()
    try:
        for number in range(1, 30):
            publish(target, str(number), keep=5)
    finally:
        stop.set()
        reader.join(30)
    assert not reader.is_alive()
    assert failures == []


def test_only_the_newest_trees_are_kept_and_the_folder_that_was_there_always(tmp_path: Path) -> None:
    target = tmp_path / "artifacts"
    target.mkdir()
    (target / "users").write_text("own")
    for number in range(7):
        publish(target, str(number), keep=3)
    store = tmp_path / ".trees/artifacts"
    trees = sorted(folder.name for folder in store.iterdir() if not folder.name.startswith("found-"))
    assert [(store / name / "first").read_text() for name in trees] == ["4", "5", "6"]
    assert len(list(store.glob("found-*"))) == 1


def test_the_folder_that_holds_a_tree_can_be_moved(tmp_path: Path) -> None:
    publish(tmp_path / "line/artifacts", "x")
    (tmp_path / "line").rename(tmp_path / "moved")
    assert read(tmp_path / "moved/artifacts") == ("x", "x")


def test_a_users_own_link_to_another_disk_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    target = tmp_path / "artifacts"
    target.symlink_to(tmp_path / "disk/place")
    publish(target, "1")
    publish(target, "2")
    assert read(target) == ("2", "2")
    assert os.readlink(target) == str(tmp_path / "disk/place")
    assert len(list((tmp_path / "disk/.trees/place").iterdir())) == 2


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a note")
    with pytest.raises(InputError, match="is a file"), publish_tree(tmp_path / "artifacts"):
        pass
    assert (tmp_path / "artifacts").read_text() == "a note"


def test_two_writers_at_once_both_finish_and_one_of_them_is_seen(tmp_path: Path) -> None:
    target = tmp_path / "artifacts"
    writers = [threading.Thread(target=publish, args=(target, str(number))) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    first, second = read(target)
    assert first == second
    assert not list((tmp_path / ".trees/artifacts").glob("*.partial"))
