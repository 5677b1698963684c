"""A line with a watch folder and a database, and the steps of the ingest and of a run as one call each."""

from __future__ import annotations

import dataclasses
import secrets
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from brightness_model import BrightnessModel

from vad_lib.ingest import Arrival, FolderWatch
from vad_lib.inspection import InspectionResult, Served, inspect_queue, result_of_run
from vad_lib.inspection.quarantine import keep_files_refused_by_name
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Line
from vad_lib.processes import me
from vad_lib.queue import known_versions, register

ELSEWHERE = "0" * 16
"""A machine of whose processes nothing is known here."""


def dead_worker() -> str:
    """Return the name of a worker whose process has certainly ended: another one of this machine has its number."""
    gone = dataclasses.replace(me(), started=me().started - 1000.0)
    return f"{gone}:{secrets.token_hex(4)}"


def worker_elsewhere() -> str:
    """Return the name of a worker on another machine."""
    return f"{dataclasses.replace(me(), machine=ELSEWHERE)}:{secrets.token_hex(4)}"


def register_what_is_there(db: InspectionDatabase, line: Line, folder: Path | None = None) -> int:
    """Scan the watch folder, take everything for complete, and register it; return how many files are new."""
    watch = FolderWatch(
        line.name,
        folder or line.inbox,
        0.0,
        known=partial(known_versions, db, line.name),
        skip_folders=line.own_folders,
    )
    watch.scan()
    assert not watch.error, watch.error
    arrivals = [Arrival(version, moment) for version, moment in watch.waiting.items()]
    register(db, line.name, watch.folder, arrivals, watch.refused)
    keep_files_refused_by_name(db, line)
    return len(arrivals) + len(watch.refused)


@dataclass
class Rig:
    """One line, its database and its folder."""

    db: InspectionDatabase
    line: Line
    runs: int = 0

    @property
    def inbox(self) -> Path:
        return self.line.inbox

    def register(self) -> int:
        return register_what_is_there(self.db, self.line)

    def work(self, model: BrightnessModel | None = None, *, version: str = "1", **more: Any) -> int:
        """Work on the queue as a run does, in chunks of 8; return how many files it decided."""
        self.runs += 1
        settings = {"run_id": f"run {self.runs}", **more}
        return inspect_queue(self.db, self.line, Served(model or BrightnessModel(), version), **settings)

    def result(self, **more: Any) -> InspectionResult:
        """Return the result of the last run."""
        settings = {"run_id": f"run {self.runs}", "folder": self.inbox, "model_version": "1", **more}
        return result_of_run(self.db, self.line.name, **settings)[1]

    def inspect(self, model: BrightnessModel | None = None, **more: Any) -> InspectionResult:
        """Register what is there, work on it, and return what this run decided."""
        self.register()
        self.work(model, **more)
        return self.result(**{name: more[name] for name in ("maps_folder",) if name in more})

    def states(self) -> dict[str, str]:
        """Return the state of the newest version of each file, or the rule by which it was refused."""
        files = self.db.incoming_files(self.line.name)
        states = files["rule"].where(files["state"] == "refused", files["state"])
        return dict(zip(files["path"], states, strict=True))

    def file(self, path: str) -> Any:
        """Return the row of the newest version of a file."""
        (row,) = self.db.incoming_files(self.line.name).query("path == @path").tail(1).itertuples()
        return row


def until_ctime_differs(file: Path, before: int) -> None:
    """Change a file until that can be seen: the clock of a file system is coarse, and two changes may have one time."""
    deadline = time.monotonic() + 30
    while file.stat().st_ctime_ns == before:
        assert time.monotonic() < deadline, f"{file} cannot be seen to change"
        file.chmod(file.stat().st_mode)
