"""A small disk of its own for the database, which can be filled up: a tmpfs in a mount namespace of this process."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

OWN_MOUNTS = "VAD_STORM_OWN_MOUNTS"
SIZE_MB = 64
BLOCKS = (1 << 20, 1 << 12, 1)
REFILL_SECONDS = 0.05
MOST_TIMES = 5.0


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
    """Where the inspection database lies. ``real`` is False where nothing can be mounted: it is then never full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]
        self.real = bool(os.environ.get(OWN_MOUNTS)) and subprocess.run(mount, capture_output=True).returncode == 0
        self._filler = folder / "filler"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder / 'inspection.db'}"

    def keep_full(self, seconds: float, was_met: Callable[[], bool]) -> float:
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
                time.sleep(REFILL_SECONDS)
        finally:
            self.free()
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

    def free(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Give it back."""
        if self.real:
            subprocess.run(["umount", "--lazy", str(self.folder)], capture_output=True)
