"""A server that dies is started again and told; what runs ends with its starter, however that ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from vad_dagster.cli import guard, supervisor
from vad_dagster.cli.supervisor import Server, Supervisor, answers

Make = Callable[..., Supervisor]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def web_server(name: str, port: int) -> Server:
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    return Server(name, command, f"http://127.0.0.1:{port}")


def script(name: str, code: str) -> Server:
    return Server(name, [sys.executable, "-u", "-c", code], f"http://127.0.0.1:{free_port()}")


def poll_until(running: Supervisor, happened: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        running.poll()
        assert time.monotonic() < deadline, f"no {what} within {seconds:.0f} s"
        time.sleep(0.02)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def make(tmp_path: Path, told: list[str]) -> Iterator[Make]:
    made: list[Supervisor] = []

    def one(*servers: Server, verbose: bool = False) -> Supervisor:
        made.append(Supervisor(servers, os.environ, tmp_path, tmp_path / "logs", told.append, verbose=verbose))
        return made[-1]

    yield one
    for supervisor_ in made:
        supervisor_.close()


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def process_of(port: int) -> psutil.Process:
    (found,) = [
        child
        for child in psutil.Process().children(recursive=True)
        if str(port) in child.cmdline() and guard.__file__ not in child.cmdline()
    ]
    return found


def test_a_server_that_is_killed_is_started_again_and_told_while_the_others_go_on(make: Make, told: list[str]) -> None:
    first, second = free_port(), free_port()
    running = make(web_server("One", first), web_server("Two", second))
    poll_until(running, running.poll, "answer of both")
    before, other = process_of(first).pid, process_of(second).pid
    os.kill(before, signal.SIGKILL)
    poll_until(running, lambda: bool(told), "word about the death")
    assert told[0].startswith("One has ended by itself (signal 9). It starts again in 1 s; see ")
    poll_until(running, lambda: answers(f"http://127.0.0.1:{first}"), "answer of the new one")
    assert process_of(first).pid != before
    assert process_of(second).pid == other


def test_the_pause_grows_where_a_server_dies_again_and_again(
    make: Make, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE_SECONDS", 0.02)
    running = make(script("One", "raise SystemExit(3)"))
    poll_until(running, lambda: len(told) == 3, "third death")
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE_SECONDS", 60.0)
    poll_until(running, lambda: len(told) == 4, "fourth death")
    assert "exit code 3" in told[3]
    assert "starts again in 8 s" in told[3]


def test_problems_are_shown_and_the_rest_only_when_it_is_asked_for(make: Make, told: list[str]) -> None:
    code = (
        "import time; print('all is well'); "
        "print('12:00 - dagster.daemon - \\x1b[31mERROR\\x1b[0m - no disk'); time.sleep(60)"
    )
    running = make(script("One", code))
    poll_until(running, lambda: bool(told), "problem")
    assert told == ["One: 12:00 - dagster.daemon - ERROR - no disk"]
    told.clear()
    running = make(script("One", code), verbose=True)
    poll_until(running, lambda: len(told) == 2, "second line")
    assert told[0] == "One: all is well"


def test_closing_ends_a_server_that_does_not_want_to_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import signal, time; signal.signal(2, signal.SIG_IGN); print('WARNING deaf'); time.sleep(600)"
    seen: list[str] = []
    running = make(script("One", code))
    monkeypatch.setattr(running, "_tell", seen.append)
    poll_until(running, lambda: bool(seen), "start")
    processes = psutil.Process().children(recursive=True)
    monkeypatch.setattr(guard.stop, "__kwdefaults__", {"seconds": 1.0})
    running.close()
    deadline = time.monotonic() + 60
    while any(lives(process) for process in processes):  # the system takes a moment for what is killed
        assert time.monotonic() < deadline, "a process lives on"
        time.sleep(0.05)


def test_what_was_started_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    child = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = (
        "import sys, time; from vad_dagster.cli.guard import start; "
        f"start([sys.executable, '-c', {child!r}]); time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not mark.exists() or not mark.read_text():
        assert time.monotonic() < deadline, "the child did not start within 60 s"
        time.sleep(0.05)
    pid = int(mark.read_text())
    starter.kill()
    starter.wait(10)
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline + 60, "the child lives on"
        time.sleep(0.05)
