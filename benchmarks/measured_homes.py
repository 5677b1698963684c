"""Homes with one line on which a benchmark measures: how soon images that arrive have their results.

What works on such a home is ``vad serve`` of this checkout or of another one, or Dagster's daemon.
"""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.homes import REPOSITORY, call, environment_of, write_plan
from vad_dagster.cli.guard import stop
from vad_lib.lines import Home

LINE = "bottles"
FIRST_SECONDS, RESULT_SECONDS = 300.0, 180.0
EARLIER_WATCH_FOLDER = "inbox"
"""What another checkout may call it."""
MANY = 1_000_000


class MeasuredHome(ABC):
    """A home with one line, and a process that works on it."""

    name = ""

    def __init__(self, root: Path, model: Path, checkout: Path = REPOSITORY) -> None:
        self.root = root
        root.mkdir(parents=True)
        plan = write_plan(root / "plan.yaml", side=256, sampling_ratio=0.01)
        self.environment = environment_of(root, checkout=checkout)
        call("home", self.environment, root, plan, LINE, model)
        line = Home(root).line(LINE)
        self.watch_folder = line.inbox if line.inbox.is_dir() else line.folder / EARLIER_WATCH_FOLDER
        self._connection: sqlite3.Connection | None = None
        self._log = (root / "process.log").open("ab")
        self.process = subprocess.Popen(
            self.command(checkout),
            env=self.environment,
            cwd=checkout,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @abstractmethod
    def command(self, checkout: Path) -> list[str]:
        """Return what is started."""

    def count(self) -> int:
        """Return how many predictions there are: that table and its rows are the same in all checkouts."""
        file = self.root / "inspection.db"
        if self._connection is None:
            if not file.exists():
                return 0
            self._connection = sqlite3.connect(file, isolation_level=None)
        with suppress(sqlite3.OperationalError):  # the tables are not there yet
            return int(self._connection.execute("SELECT count(*) FROM predictions").fetchone()[0])
        return 0

    def one_image(self, file: Path, *, seconds: float = RESULT_SECONDS) -> float:
        """Let an image arrive, and return the seconds until its result is in the database."""
        return self.images([file], seconds=seconds, pause=0.002)

    def images(self, files: Sequence[Path], *, seconds: float = RESULT_SECONDS, pause: float = 0.02) -> float:
        """Let images arrive at once, and return the seconds until all of their results are in the database."""
        wanted = self.count() + len(files)
        started = time.perf_counter()
        for file in files:
            file.rename(self.watch_folder / file.name)
        while self.count() < wanted:
            if time.perf_counter() - started > seconds or self.process.poll() is not None:
                tail = (self.root / "process.log").read_text(errors="replace")[-3000:]
                raise SystemExit(f"no result after {seconds:.0f} s; {self.root / 'process.log'} ends with:\n{tail}")
            time.sleep(pause)
        return time.perf_counter() - started

    def end(self) -> None:
        """Stop the process and all that it has started."""
        stop([self.process], seconds=40)
        self._log.close()
        if self._connection is not None:
            self._connection.close()
        shutil.rmtree(self.root, ignore_errors=True)


class ServedHome(MeasuredHome):
    """The inference service, as ``vad serve`` of a checkout starts it."""

    name = "service"

    def command(self, checkout: Path) -> list[str]:
        vad = [sys.executable, "-m", "vad_dagster.cli.app", "serve"]
        offered = subprocess.run(
            [*vad, "--help"], env=self.environment, cwd=checkout, capture_output=True, text=True, check=True
        ).stdout
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # What is measured is the rate, not what is left to runs: there are none.
        words = ["--queue", str(MANY)] if "--queue" in offered else []
        return [*vad, "--port", str(port), "--log-level", "warning", *words]


class RunHome(MeasuredHome):
    """Dagster's daemon with its code server and its runs, as it is installed, without an inference service."""

    name = "runs"

    def command(self, checkout: Path) -> list[str]:
        from vad_dagster.home import daemon_command, prepare_home

        before = dict(os.environ)
        os.environ.update(self.environment)
        os.environ.pop("DAGSTER_HOME", None)
        self.environment |= prepare_home(Home(self.root))
        os.environ.clear()
        os.environ.update(before)
        return daemon_command()
