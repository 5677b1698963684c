"""Runs a command that ends with whoever started it, however that ends. Started as a file, so it imports little.

Its standard input is a pipe that the starter holds open. When the starter is gone, even by SIGKILL, the pipe reaches
its end: the command is asked to end, and what is left of its session is killed after ``STOP_SECONDS``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

STOP_SECONDS = 20.0


def start(
    command: Sequence[str],
    *,
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
    output: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, where this process' Ctrl-C does not reach it.

    Args:
        command: the program and its arguments.
        environment: all of its variables; those of this process where None.
        folder: its current folder.
        output: where it writes; it shares this process' terminal where None.
    """
    return subprocess.Popen(
        [sys.executable, "-P", __file__, *command],
        env=environment,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
    )


def stop(processes: Iterable[subprocess.Popen[bytes]], *, seconds: float = STOP_SECONDS) -> None:
    """Stop what ``start`` has started, with all that it started: by asking, and after ``seconds`` by force."""
    running = list(processes)
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + seconds
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))
        # what it left behind is in its session's group still
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _main() -> int:
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: process.send_signal(received))
    threading.Thread(target=_end_with_starter, args=(process,), daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


def _end_with_starter(process: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1):
        pass
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(_main())
