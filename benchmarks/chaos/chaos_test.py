"""One chaos test: files arrive, faults happen after so many of them, and at the end everything is looked at."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.chaos.databases import Database
from benchmarks.chaos.input_files import write_input_file
from benchmarks.chaos.judge import fault_met, judge
from benchmarks.chaos.plan import FILL_DISK, GOOD, LATER, PROMOTE, RESTART_DATABASE, SLOW, ChaosPlan, Fault, InputFile
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.schema import DONE, DUPLICATE, PENDING, incoming_files, notifications, sinks
from vad_lib.lines import Home

WRITERS = 32
FIRST_FILES, START_SECONDS = 20, 60.0
"""The others arrive when one of the first is decided: faults are to meet processes that are at work."""
SINKS_SECONDS = 120.0
"""Until the first service has said where results go: what was decided before would have no notification."""
AHEAD, STALL_SECONDS = 400, 5.0
"""Files that arrive before earlier ones are decided; and how long they are held back for that at most."""
EARLIER_SECONDS = 30.0
"""How long a file that comes to the path of an earlier one waits until that is decided; then it comes anyway."""
LOOK_SECONDS = 0.05
logger = logging.getLogger("chaos")


class Rig(Protocol):
    """The processes that a chaos test passes over.

    Attributes:
        home: where everything of the lines lies.
        kills: what was killed, and how often.
        machines: names of what stands for machines; none: everything runs on this one.
        runs: whether anything but inference services works on the queue.
    """

    home: Home
    kills: dict[str, int]
    machines: tuple[str, ...]
    runs: bool

    def watch_folder(self, line: str) -> Path: ...

    def start_services(self) -> None: ...

    def start_runs(self) -> None:
        """Start what asks for runs."""

    def kill(self, kind: str) -> bool:
        """Send SIGKILL; False where there is nothing of that kind just now."""

    def restart(self, kind: str) -> None: ...

    def promote(self, line: str) -> str:
        """Let another version of a line serve, and return its label."""

    def champion(self, line: str) -> str:
        """Return the label of the version that serves."""

    def thresholds(self) -> dict[str, float]:
        """Return the threshold of each version by label."""

    def ended_by_themselves(self) -> list[str]:
        """Return what ended though nobody killed it."""

    def stop_services(self) -> None: ...

    def stop(self) -> None:
        """End all processes."""


@dataclass
class ChaosResult:
    """What came of a chaos test; ``troubles`` is empty where all is well."""

    plan: ChaosPlan
    seconds: float = 0.0
    bad: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    promotions: int = 0
    database_seconds: float = 0.0
    """For how long the database failed: its disk was full, or its server away."""
    database_met: int = 0
    """How often a process met that, by its log."""
    database_real: bool = True
    """Whether the database could be made to fail."""
    missed: list[Fault] = field(default_factory=list)
    """Faults that found nothing to kill, or no database to fail. One may, as a process may have ended just then."""
    sources: dict[str, int] = field(default_factory=dict)
    delivered_again: int = 0
    """Files that a worker took and did not finish."""
    troubles: list[str] = field(default_factory=list)


class ChaosTest:
    """Runs one plan over one test rig."""

    def __init__(self, plan: ChaosPlan, rig: Rig, database: Database, *, patience: float) -> None:
        """``patience``: seconds after the last file until everything has to be decided."""
        self.plan = plan
        self.rig = rig
        self.database = database
        self.db = InspectionDatabase(database.url)
        self.result = ChaosResult(plan, database_real=database.real)
        self._patience = patience
        self._outside = rig.home.root / "outside"
        self._over = threading.Event()
        self._armed: list[Fault] = []
        self._timers: list[threading.Thread] = []
        self._writing: dict[tuple[str, str], Future[None]] = {}
        self.extra: list[InputFile] = []
        self.decided_before: set[tuple[str, str]] = set()
        """Line and path of images that were decided before something else came to their path."""

    def run(self) -> ChaosResult:
        """Write files, break, wait and judge."""
        started = time.monotonic()
        self._outside.mkdir(exist_ok=True)
        hunter = threading.Thread(target=self._hunt, daemon=True)
        hunter.start()
        try:
            self.rig.start_services()
            if self.plan.files and not self._hold(self._sinks_are_open, SINKS_SECONDS):
                self.result.troubles.append(f"no service has said within {SINKS_SECONDS:.0f} s where results go")
            self.rig.start_runs()
            self._write_all()
            for timer in self._timers:
                timer.join()
            decided = self._wait(self._not_decided)
            self._over.set()
            hunter.join()
            self.result.troubles += self.rig.ended_by_themselves()
            if decided:
                self._afterwards()
        finally:
            self._over.set()
            self.database.mend()
            self.rig.stop()
        self.result.missed += self._armed
        planned, done = len(self.plan.faults), len(self.plan.faults) - len(self.result.missed)
        if done < planned / 2:
            self.result.troubles.append(f"too few faults came about: {done} of {planned}")
        self.result.kills = dict(self.rig.kills)
        self.result.seconds = time.monotonic() - started
        judge(self)
        return self.result

    # writing

    def _write_all(self) -> None:
        faults = list(self.plan.faults)
        with ThreadPoolExecutor(WRITERS) as writers:
            for file in self.plan.files:
                while faults and faults[0].after <= file.number:
                    self._happen(faults.pop(0))
                if file.number == FIRST_FILES:
                    self._hold(lambda: self._decided() > 0, START_SECONDS)
                elif file.number % (AHEAD // 4) == 0:
                    self._hold(lambda number=file.number: self._decided() > number - AHEAD, STALL_SECONDS)  # type: ignore[misc]
                time.sleep(file.pause)
                if file.way == SLOW or file.kind in LATER:
                    # In order for each path: something else comes to it only when the file before is whole.
                    before = self._writing.get((file.line, file.path))
                    self._writing[file.line, file.path] = writers.submit(self._write, file, before)
                else:
                    self._write(file)
            for fault in faults:
                self._happen(fault)
            for writing in self._writing.values():
                writing.result()

    def _write(self, file: InputFile, before: Future[None] | None = None) -> None:
        if before is not None:
            before.result()
        if file.kind in LATER and self._hold(lambda: self._is_decided(file), EARLIER_SECONDS):
            self.decided_before.add((file.line, file.path))
        write_input_file(self.plan.seed, file, self.rig.watch_folder(file.line), self._outside)

    def _hold(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(SQLAlchemyError):
                if condition():
                    return True
            time.sleep(0.1)
        return False

    def _sinks_are_open(self) -> bool:
        with self.db.reading() as connection:
            return {row.line for row in connection.execute(select(sinks))} >= set(self.plan.shape.lines)

    def _decided(self) -> int:
        with self.db.reading() as connection:
            counted = select(func.count()).select_from(incoming_files).where(incoming_files.c.state != PENDING)
            return int(connection.execute(counted).scalar_one())

    def _is_decided(self, file: InputFile) -> bool:
        files = incoming_files.c
        with self.db.reading() as connection:
            this = files.line == file.line, files.path == file.path
            decided = select(files.file_id).where(*this, (files.state == DONE) | (files.rule == DUPLICATE))
            return connection.execute(decided.limit(1)).first() is not None

    # faults

    def _happen(self, fault: Fault) -> None:
        logger.info("%s, after %d files", fault.kind, fault.after)
        if fault.kind == PROMOTE:
            self._later(0.0, lambda: self._promote(fault))
        elif fault.kind in (FILL_DISK, RESTART_DATABASE):
            if self.database.real and fault.kind == self.database.fault:
                self._later(0.0, lambda: self._fail_database(fault))
            else:
                self.result.missed.append(fault)
        else:
            self._armed.append(fault)

    def _promote(self, fault: Fault) -> None:
        label = self.rig.promote(fault.line)
        self.result.promotions += 1
        logger.info("%s serves", label)

    def _fail_database(self, fault: Fault) -> None:
        def met() -> int:
            return fault_met(self.rig.home.root, self.database.messages)

        before = met()
        self.result.database_seconds += self.database.fail(fault.down, lambda: met() > before)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        def wait_and_act() -> None:
            time.sleep(seconds)
            try:
                act()
            except Exception as error:
                logger.exception("a fault failed")
                self.result.troubles.append(f"a fault could not be done or undone: {error}")

        timer = threading.Thread(target=wait_and_act, daemon=True)
        timer.start()
        self._timers.append(timer)

    def _hunt(self) -> None:
        """Kill what is to be killed as soon as it is there: a run is only at times, a service may be down just now."""
        while not self._over.wait(LOOK_SECONDS):
            for fault in list(self._armed):
                try:
                    found = self.rig.kill(fault.kind)
                except Exception as error:
                    logger.exception("what is to be killed cannot be looked for")
                    self.result.troubles.append(f"nothing more was killed: {fault.kind}: {error!r}")
                    return
                if found:
                    logger.info("%s: done", fault.kind)
                    self._armed.remove(fault)
                    self._later(fault.down, lambda kind=fault.kind: self.rig.restart(kind))  # type: ignore[misc]

    # the end

    def _wait(self, condition: Callable[[], str]) -> bool:
        deadline = time.monotonic() + self._patience
        why = "nothing was looked at"
        while time.monotonic() < deadline:
            # A database that fails, or a table that is not there yet.
            with suppress(SQLAlchemyError):
                why = condition()
                if not why:
                    return True
            time.sleep(0.2)
        self.result.troubles.append(f"not everything is decided after {self._patience:.0f} s: {why}")
        return False

    def _not_decided(self) -> str:
        """Return what is not decided yet, or not notified; empty where all is."""
        # In this order: a decision makes notifications.
        undecided = self._undecided()
        waiting = select(func.count()).select_from(notifications).where(notifications.c.state == "waiting")
        with self.db.reading() as connection:
            number = connection.execute(waiting).scalar_one()
        return ", ".join(filter(None, [undecided, f"notifications that wait: {number}" if number else ""]))

    def _undecided(self) -> str:
        """Return what is not decided yet: each file as it lies there now must be a row that is decided."""
        files = incoming_files.c
        with self.db.reading() as connection:
            rows = connection.execute(
                select(files.line, files.path, files.size, files.mtime_ns, files.inode, files.ctime_ns, files.state)
            ).all()
        decided = {tuple(row[:6]) for row in rows if row.state != PENDING}
        lacking = {
            (file.line, file.path)
            for file in [*self.plan.files, *self.extra]
            if (file.line, *version_of(self.rig.watch_folder(file.line), file.path)) not in decided
        }
        numbers = {
            "files without a decision": len(lacking),
            "pending": sum(row.state == PENDING for row in rows),
        }
        return ", ".join(f"{name}: {number}" for name, number in numbers.items() if number)

    def _afterwards(self) -> None:
        """One more image for each line, after the services have ended in good order.

        Where there are runs, they inspect these images and clear away what was left. Else the services start again.
        """
        self.rig.stop_services()
        if not self.rig.runs:
            self.rig.start_services()
        shape = self.plan.shape
        with ExitStack() as after:
            for number, line in enumerate(shape.lines, start=shape.files):
                file = InputFile(number, line, f"after/{number}.png", GOOD, "copy", number, 0.0)
                self.extra.append(file)
                write_input_file(self.plan.seed, file, self.rig.watch_folder(line), self._outside)
            # Notifications are the services' business.
            self._wait(self._undecided if self.rig.runs else self._not_decided)
            if not self.rig.runs:
                after.callback(self.rig.stop_services)


def version_of(folder: Path, path: str) -> tuple[str, int, int, int, int]:
    """Return the version of the file that lies at a path now, as the queue names it."""
    from vad_lib.ingest import FileVersion

    return FileVersion.of(path, (folder / path).stat())
