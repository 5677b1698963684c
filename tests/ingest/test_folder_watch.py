"""Waiting for landings, with real files, threads and processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vad_lib.landing import waiting
from vad_lib.landing.waiting import LandingEvents, whose_turn


@pytest.mark.parametrize("way", ["write", "rename", "new folder"])
def test_the_folder_where_something_landed_is_told(tmp_path: Path, way: str) -> None:
    folders = {name: tmp_path / name for name in ("a", "b")}
    for folder in folders.values():
        folder.mkdir()
    (tmp_path / "elsewhere.png").write_bytes(b"x")
    with LandingEvents(folders) as events:
        assert events.wait(0.0) == set()
        if way == "write":
            (folders["b"] / "1.png").write_bytes(b"x")
        elif way == "rename":
            (tmp_path / "elsewhere.png").rename(folders["b"] / "1.png")
        else:
            (folders["b"] / "deep" / "deeper").mkdir(parents=True)
        assert events.wait(30.0) == {"b"}


def test_a_folder_that_cannot_be_watched_is_told_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "BLIND_SECONDS", 0.01)
    with LandingEvents({"a": tmp_path / "missing"}) as events:
        assert events.wait(60.0) == {"a"}


def test_turns_are_taken_one_after_the_other(tmp_path: Path) -> None:
    at_work: list[str] = []
    most = 0

    def work(name: str) -> None:
        nonlocal most
        for _ in range(5):
            with whose_turn(tmp_path / "turn", 60.0) as mine:
                assert mine
                at_work.append(name)
                most = max(most, len(at_work))
                time.sleep(0.01)
                at_work.remove(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_the_turn_of_a_killed_process_is_over(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time\nfrom vad_lib.landing.waiting import whose_turn\n"
        "with whose_turn(pathlib.Path(sys.argv[1]), 0.0) as mine:\n    print(mine, flush=True)\n    time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "turn")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    with whose_turn(tmp_path / "turn", 0.0) as mine:
        assert not mine
    process.send_signal(signal.SIGKILL)
    process.wait()
    with whose_turn(tmp_path / "turn", 30.0) as mine:
        assert mine
