"""Files are there whole or not at all, whoever writes them and whatever dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vad_lib import atomic_files
from vad_lib.atomic_files import write_whole

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_holds_what_was_written_last_and_nothing_lies_beside_it(durable: bool, tmp_path: Path) -> None:
    file = tmp_path / ("n" * 255)
    for data in (b"one", b"", b"three"):
        write_whole(file, data, durable=durable)
        assert file.read_bytes() == data
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_killed_process_left_is_taken_over_by_the_next_who_writes_the_file(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    killed = (
        "import os, signal, sys; from pathlib import Path; from vad_lib import atomic_files\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "atomic_files.write_whole(Path(sys.argv[1]), b'half')"
    )
    done = subprocess.run([sys.executable, "-c", killed, str(file)], cwd=REPOSITORY, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    write_whole(file, b"whole")
    assert (list(tmp_path.iterdir()), file.read_bytes()) == ([file], b"whole")


def test_what_cannot_be_put_in_place_is_not_left_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").touch()
    with pytest.raises(OSError):
        write_whole(tmp_path / "folder", b"data")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def _write_again_and_again(file: Path, letter: bytes, until: float) -> None:
    while time.time() < until:
        write_whole(file, letter * 50_000, durable=False)


def test_a_file_that_several_processes_write_at_once_is_whole_at_any_time(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    until = time.time() + 1.5
    write_whole(file, b"a" * 50_000)
    context = multiprocessing.get_context("fork")
    writers = [
        context.Process(target=_write_again_and_again, args=(file, letter, until)) for letter in (b"a", b"b", b"c")
    ]
    for writer in writers:
        writer.start()
    while time.time() < until:
        data = file.read_bytes()
        assert len(data) == 50_000
        assert len(set(data)) == 1
    for writer in writers:
        writer.join(30)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == [file]


def test_nobody_waits_for_ever_for_another_who_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_files, "WAIT_SECONDS", 0.2)
    file, stuck, go_on = tmp_path / "a", threading.Event(), threading.Event()

    def wait(_: int) -> None:
        stuck.set()
        go_on.wait(20)

    monkeypatch.setattr(os, "fsync", wait)
    first = threading.Thread(target=write_whole, args=(file, b"first"))
    first.start()
    assert stuck.wait(20)
    with pytest.raises(OSError, match="another process has been writing"):
        write_whole(file, b"second")
    go_on.set()
    first.join(20)
    assert file.read_bytes() == b"first"
