"""A lane of Dagster runs as a benchmark sees it: a real daemon with its code server, on a home of its own."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.homes import call, environment_of, write_plan
from vad_dagster.home import daemon_command, prepare_home
from vad_lib.lines import Home

LINE = "bottles"
FIRST_SECONDS, RESULT_SECONDS = 300.0, 180.0


class DagsterLane:
    """The daemon as it is installed, with one line."""

    def __init__(self, root: Path, model: Path) -> None:
        self.home = Home(root)
        root.mkdir(parents=True)
        plan = write_plan(root / "plan.yaml", side=256, sampling_ratio=0.01)
        environment = environment_of(root)
        call("home", environment, root, plan, LINE, model)
        before = dict(os.environ)
        os.environ.update(environment)
        os.environ.pop("DAGSTER_HOME", None)
        environment |= prepare_home(self.home)
        os.environ.clear()
        os.environ.update(before)
        self.inbox = self.home.line(LINE).inbox
        self._log = (root / "daemon.log").open("ab")
        self.process = subprocess.Popen(
            daemon_command(),
            env=environment,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._connection: sqlite3.Connection | None = None

    def count(self) -> int:
        """Return how many predictions there are."""
        file = self.home.root / "inspection.db"
        if self._connection is None:
            if not file.exists():
                return 0
            self._connection = sqlite3.connect(file, isolation_level=None)
        with suppress(sqlite3.OperationalError):  # the tables are not there yet
            return int(self._connection.execute("SELECT count(*) FROM predictions").fetchone()[0])
        return 0

    def one_image(self, file: Path, *, seconds: float = RESULT_SECONDS) -> float:
        """Let an image land, and return the seconds until its result is in the database."""
        before = self.count()
        started = time.perf_counter()
        file.rename(self.inbox / file.name)
        while self.count() == before:
            if time.perf_counter() - started > seconds:
                raise SystemExit(f"no result after {seconds:.0f} s; see {self.home.root / 'daemon.log'}")
            time.sleep(0.01)
        return time.perf_counter() - started

    def end(self) -> None:
        """Stop the daemon and all that it has started."""
        self.process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(40)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._log.close()
        if self._connection is not None:
            self._connection.close()
        shutil.rmtree(self.home.root, ignore_errors=True)
