"""The fork server itself: when it ends, what it refuses, and when it makes room for a newer one."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from warm_bench import Bench, gone, wait_for

from vad_dagster.run_launcher import LocalRunLauncher
from vad_dagster.warm_runs import launcher, messages
from vad_dagster.warm_runs.client import ForkServer, RunRefused, ServerSettings, ServerUnavailable, ask_server
from vad_dagster.warm_runs.identity import ProcessIdentity, private_folder, server_key


def bare_server(folder: Path, *, preload: tuple[str, ...] = (), idle: float = 60, grace: float = 60) -> ForkServer:
    """A server that imports nothing, which is there at once."""
    return ForkServer(ServerSettings(folder / "warm_runs", preload, idle, grace, 5))


def started(server: ForkServer) -> tuple[subprocess.Popen[bytes], Path]:
    process, place = server.start(), server.place()
    wait_for(lambda: ask_server(place.socket, {"operation": "status"}) is not None, 20, "answer of the server")
    return process, place.socket


def test_the_folder_and_the_socket_are_for_this_user_only(tmp_path: Path) -> None:
    (tmp_path / "warm_runs").mkdir(mode=0o755)
    process, path = started(bare_server(tmp_path))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    process.terminate()
    assert process.wait(10) == 0
    assert not path.exists()


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "warm_runs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="not a folder of this user"):
        private_folder(tmp_path / "warm_runs")


def test_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        messages.refuse_other_users(ours)
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        with pytest.raises(messages.WrongUser, match="12345"):
            messages.refuse_other_users(ours)


@pytest.mark.parametrize("nonsense", [b"\n", b"[1]\n", b"\x80\x04\x95.\n", b'{"operation": "run"}\n', b"", b'{"half'])
def test_nonsense_is_answered_by_closing_and_the_server_stays(tmp_path: Path, nonsense: bytes) -> None:
    process, path = started(bare_server(tmp_path))
    try:
        connection = messages.connect(path, 5)
        assert connection is not None
        with connection:
            connection.settimeout(10)
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b""
        assert ask_server(path, {"operation": "status"}) is not None
        assert ask_server(path, {"operation": "dance"}) == {"answer": "error", "error": "unknown operation 'dance'"}
        assert ask_server(path, {"operation": "cancel", "run_id": "x"}) == {"answer": "none"}
    finally:
        process.terminate()
        process.wait(10)


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text())))
def test_every_message_arrives_as_it_was_sent(message: dict[str, object]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        messages.send(ours, message)
        assert messages.receive(theirs) == (message, [])


def test_a_home_with_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30) / ("path" * 30)
    process, path = started(bare_server(folder))
    assert len(str(path)) > 200
    assert ask_server(path, {"operation": "stop"}) == {"answer": "stopping"}
    assert process.wait(10) == 0


@pytest.mark.parametrize("reason", ["idle", "socket removed", "home removed"])
def test_a_server_that_nobody_needs_ends(tmp_path: Path, reason: str) -> None:
    server = bare_server(tmp_path, idle=1 if reason == "idle" else 60)
    process, path = started(server)
    if reason == "socket removed":
        path.unlink()
    elif reason == "home removed":
        shutil.rmtree(path.parent)
    assert process.wait(15) == 0


def test_a_server_ends_soon_after_those_that_used_it(tmp_path: Path) -> None:
    code = "import test_fork_server as t, pathlib, sys; t.started(t.bare_server(pathlib.Path(sys.argv[1]), grace=1))"
    folders = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True, timeout=60)
    (log,) = (tmp_path / "warm_runs").glob("*.log")
    wait_for(lambda: "those that used it are gone" in log.read_text(), 20, "end of the server")
    assert not list((tmp_path / "warm_runs").glob("*.sock"))


def test_a_second_server_for_the_same_place_ends_at_once(tmp_path: Path) -> None:
    server = bare_server(tmp_path)
    first, path = started(server)
    second = server.start()
    assert second.wait(20) == 0
    answer = ask_server(path, {"operation": "status"})
    assert answer is not None
    assert answer["pid"] == first.pid
    first.terminate()
    first.wait(10)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "threads"),
        ("import os; os._exit(9)", "ended with 9"),
    ],
)
def test_a_server_that_cannot_fork_safely_does_not_serve_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    (tmp_path / "toy_unforkable.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = bare_server(tmp_path, preload=("toy_unforkable",))
    for _ in range(2):  # the second time without trying again
        with (
            pytest.raises(ServerUnavailable, match=words),
            server.hand_over("x", "x", may_start=True, seconds=20),
        ):
            pass


def test_a_server_that_is_killed_while_it_starts_is_started_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_killed.py").write_text(
        "import os, pathlib\n"
        f"mark = pathlib.Path({str(tmp_path / 'mark')!r})\n"
        "if not mark.exists():\n"
        "    mark.touch()\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = bare_server(tmp_path, preload=("toy_killed",))
    # the second one forks a process, which finds no such run
    with pytest.raises(RunRefused), server.hand_over("x", "x", may_start=True, seconds=60):
        pass
    assert ask_server(server.place().socket, {"operation": "stop"}) is not None


def test_a_run_is_launched_plainly_where_no_server_comes_up(
    open_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plainly = []
    monkeypatch.setattr(LocalRunLauncher, "launch_run", lambda _self, context: plainly.append(context.dagster_run))
    # whatever ran before in this process may have cut Dagster's loggers off from the root
    monkeypatch.setattr(logging.getLogger("dagster"), "propagate", True)
    monkeypatch.setattr(launcher.log, "disabled", False)
    caplog.set_level(logging.WARNING, logger=launcher.log.name)
    slow = open_bench(start_seconds=0.0)
    assert [slow.launch("say_job")] == [run.run_id for run in plainly]
    assert "starts in a new process" in caplog.text
    # a command that soon ends starts no server
    command = open_bench(start_from="services")
    caplog.clear()
    assert command.launch("say_job") == plainly[1].run_id
    assert "starts in a new process" not in caplog.text
    assert not (Path(command.instance.root_directory) / "warm_runs").exists() or not list(
        (Path(command.instance.root_directory) / "warm_runs").glob("*.log")
    )


def test_changed_code_gets_a_new_server_and_a_run_of_the_old_one_goes_on(
    open_bench: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "toy_module.py"
    module.write_text("value = 1\n")
    os.utime(module, (time.time() - 60, time.time() - 60))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    bench = open_bench(preload=["dagster._cli.api", "toy_module"])
    sleeping = bench.launch("sleep_job")
    bench.wait_for_message(sleeping, "Started execution of step")
    first = bench.status()["pid"]
    module.write_text("value = 22\n")
    os.utime(module, (time.time() - 30, time.time() - 30))
    assert bench.finished(bench.launch("say_job")).status == dg.DagsterRunStatus.SUCCESS
    assert bench.status()["pid"] != first
    assert not gone(first)
    assert bench.launcher.terminate(sleeping)
    assert bench.finished(sleeping).status == dg.DagsterRunStatus.CANCELED
    wait_for(lambda: gone(first), 10, "end of the old server")


@pytest.mark.slow
def test_an_idle_server_loads_changed_code_in_advance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "toy_renewed.py"
    module.write_text("this is no Python")
    os.utime(module, (time.time() - 60, time.time() - 60))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process, path = started(bare_server(tmp_path, preload=("toy_renewed",)))
    assert (ask_server(path, {"operation": "status"}) or {})["missing"] == ["toy_renewed"]
    module.write_text("value = 1")
    os.utime(module, (time.time() - 30, time.time() - 30))
    wait_for(lambda: (ask_server(path, {"operation": "status"}) or {}).get("missing") == [], 20, "renewed server")
    # it is the same process still, and knows who uses it
    assert (ask_server(path, {"operation": "status"}) or {})["pid"] == process.pid
    process.terminate()
    assert process.wait(10) == 0


def test_what_imports_depend_on_decides_which_server_fits() -> None:
    key = server_key(("dagster",), {"VAD_HOME": "a", "MLFLOW_TRACKING_URI": "b"})
    assert key == server_key(("dagster",), {"VAD_HOME": "other", "DAGSTER_HOME": "x"})
    assert key != server_key(("dagster",), {"OMP_NUM_THREADS": "1"})
    assert key != server_key(("dagster", "torch"), {})


def test_a_process_is_known_by_more_than_its_number() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    identity = ProcessIdentity.of(process.pid)
    assert identity is not None
    assert identity.lives()
    assert not ProcessIdentity(process.pid, identity.started + 1, identity.boot).lives()
    assert not ProcessIdentity(process.pid, identity.started, "another boot").signal(signal.SIGKILL)
    assert identity.signal(signal.SIGKILL)
    process.wait()
    assert not identity.lives()
    assert ProcessIdentity.of(process.pid) is None
