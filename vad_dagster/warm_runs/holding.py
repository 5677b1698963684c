"""What the fork server holds: the lock of its place, its socket, and the thread limits of loaded libraries."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from vad_dagster.warm_runs.identity import ServerPlace
from vad_dagster.warm_runs.messages import address

LOCK_SECONDS = 2.0

_locks: dict[Path, int] = {}


def acquire(place: ServerPlace) -> bool:
    """Take the lock of a place, which only a living server that takes runs has.

    A record lock, because the other kind would be shared with forked children and outlive the server.
    """
    handle = os.open(place.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _locks[place.lock] = handle
            return True
        except OSError:
            if time.monotonic() > deadline:
                os.close(handle)
                return False
            time.sleep(0.05)


def release(place: ServerPlace) -> None:
    if (handle := _locks.pop(place.lock, None)) is not None:
        os.close(handle)


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with address(fresh) as name:
        listener.bind(name)
    fresh.chmod(0o600)
    listener.listen(64)
    # visible only now that it answers
    fresh.replace(path)
    return listener


def code_of_ended(pid: int, *, peek: bool = False) -> int:
    found = os.waitid(os.P_PID, pid, os.WEXITED | (os.WNOWAIT if peek else 0))
    if found is None:
        return 0
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def library_limits() -> Callable[[Mapping[str, str]], None]:
    """Return what gives OpenBLAS its threads back in a child: it was loaded with one, to keep the server without."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return lambda _environment: None
    blas = ThreadpoolController().select(internal_api="openblas")

    def lift(environment: Mapping[str, str]) -> None:
        given = environment.get("OPENBLAS_NUM_THREADS") or environment.get("OMP_NUM_THREADS") or ""
        blas.limit(limits=int(given) if given.isdigit() and int(given) else len(os.sched_getaffinity(0)))

    return lift
