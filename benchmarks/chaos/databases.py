"""Databases of chaos tests that can be made to fail: SQLite on a small disk of its own, and a PostgreSQL server."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Protocol

from sqlalchemy.engine import make_url

from benchmarks.chaos.plan import FILL_DISK, RESTART_DATABASE

OWN_MOUNTS = "VAD_CHAOS_OWN_MOUNTS"
SIZE_MB = 64
BLOCKS = (1 << 20, 1 << 12, 1)
LOOK_SECONDS = 0.05
MOST_TIMES = 5.0


class Database(Protocol):
    """The inspection database of one chaos test.

    Attributes:
        fault: the kind of fault that ``fail`` brings about.
        real: False where it cannot be made to fail here.
        messages: what a process logs that meets the fault.
    """

    fault: str
    real: bool
    messages: tuple[str, ...]

    @property
    def url(self) -> str:
        """Its address."""

    def fail(self, seconds: float, was_met: Callable[[], bool]) -> float:
        """Fail for so long, and return for how many seconds it did."""

    def mend(self) -> None:
        """Let it work again."""

    def remove(self) -> None:
        """Give it back."""


def enter_own_mounts(module: str) -> None:
    """Start this program again where it may mount; what it mounts goes with its last process.

    Returns where that has been done, or cannot be done (no Linux, no right to make namespaces).
    """
    if os.environ.get(OWN_MOUNTS) or shutil.which("unshare") is None:
        return
    options = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
    if subprocess.run(["unshare", *options, "true"], capture_output=True).returncode != 0:
        return
    os.environ[OWN_MOUNTS] = "1"
    os.execvp("unshare", ["unshare", *options, sys.executable, "-m", module, *sys.argv[1:]])


class DatabaseDisk:
    """SQLite on a tmpfs in a mount namespace of this process. ``real`` is False where nothing can be mounted."""

    fault = FILL_DISK
    messages = ("(sqlite3.OperationalError) database or disk is full", "(sqlite3.OperationalError) disk I/O error")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]
        self.real = bool(os.environ.get(OWN_MOUNTS)) and subprocess.run(mount, capture_output=True).returncode == 0
        self._filler = folder / "filler"

    @property
    def url(self) -> str:
        """Its address."""
        return f"sqlite:///{self.folder / 'inspection.db'}"

    def fail(self, seconds: float, was_met: Callable[[], bool]) -> float:
        """Leave not a single byte for so long, and longer where nobody has met it by then; then make room again.

        Returns:
            For how many seconds it was full.
        """
        started = time.monotonic()
        try:
            while (lasted := time.monotonic() - started) < seconds or (lasted < MOST_TIMES * seconds and not was_met()):
                # Else what is written next would find room in the log of earlier transactions.
                with suppress(sqlite3.Error), closing(self._connect()) as connection:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._fill()
                time.sleep(LOOK_SECONDS)
        finally:
            self.mend()
        return lasted

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.folder / "inspection.db", timeout=0.5)

    def _fill(self) -> None:
        with self._filler.open("ab", buffering=0) as stream:
            for block in BLOCKS:
                try:
                    while True:
                        stream.write(bytes(block))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def mend(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)

    def remove(self) -> None:
        """Unmount it."""
        if self.real:
            subprocess.run(["umount", "--lazy", str(self.folder)], capture_output=True)


class DatabaseServer:
    """A new database on a PostgreSQL server: one of its own, which can crash, or the one of an address."""

    fault = RESTART_DATABASE
    messages = ("(psycopg2.OperationalError)", "(psycopg2.errors.")

    def __init__(self, address: str = "") -> None:
        """``address``: of a server where databases may be made; empty: one is started.

        Raises:
            SystemExit: PostgreSQL is not installed.
        """
        from tests.postgres_server import ABSENT, OwnServer, new_database, postgres_programs

        self._server = None
        if not address:
            programs = postgres_programs()
            if programs is None:
                raise SystemExit(ABSENT)
            self._server = OwnServer(programs)
            self._server.start()
        self.real = self._server is not None
        self._down = False
        self._in_turn = threading.Lock()
        self._database = new_database(make_url(address) if self._server is None else self._server.url)
        self._url = self._database.__enter__()

    @property
    def url(self) -> str:
        """Its address."""
        return self._url

    def fail(self, seconds: float, was_met: Callable[[], bool]) -> float:
        """Let the server crash, and start it again after so long, or later where nobody has met it by then."""
        assert self._server is not None
        with self._in_turn:
            started = time.monotonic()
            self._down = True
            try:
                self._server.stop()
                while (lasted := time.monotonic() - started) < seconds or (
                    lasted < MOST_TIMES * seconds and not was_met()
                ):
                    time.sleep(LOOK_SECONDS)
            finally:
                self.mend()
            return lasted

    def mend(self) -> None:
        """Start the server where it is down."""
        if self._down and self._server is not None:
            self._server.start()
            self._down = False

    def remove(self) -> None:
        """Drop the database, and stop the server where it is of its own."""
        if self._server is None:
            self._database.__exit__(None, None, None)
        else:
            self._server.remove()
