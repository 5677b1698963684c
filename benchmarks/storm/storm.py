"""One storm: files land, faults happen after so many of them, and at the end everything is looked at."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.storm.full_disk import DatabaseDisk
from benchmarks.storm.landing import land
from benchmarks.storm.plan import (
    FILL_DISK,
    GOOD,
    PROMOTE,
    SLOW,
    Drop,
    Fault,
    StormPlan,
)
from benchmarks.storm.verdict import disk_full_met, judge_storm
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.schema import OPEN, PENDING, batches, landings
from vad_lib.lines import Home
from vad_lib.scorer.tables import fast_batches, signals

SLOW_WRITERS = 8
FIRST_FILES, START_SECONDS = 20, 60.0
"""The others land when one of the first is decided: faults are to meet processes that are at work."""
AHEAD, STALL_SECONDS = 400, 5.0
"""Files that land before earlier ones are decided; and how long landing holds for that, before it goes on anyway."""
LOOK_SECONDS = 0.05
logger = logging.getLogger("storm")


class Plant(Protocol):
    """What a storm passes over."""

    home: Home
    kills: dict[str, int]

    def start(self) -> None: ...

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

    def stop_scorer(self) -> None: ...

    def stop(self) -> None:
        """End all processes."""


@dataclass
class StormResult:
    """What came of a storm; ``troubles`` is empty where all is well."""

    plan: StormPlan
    seconds: float = 0.0
    bad: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    promotions: int = 0
    disk_full_seconds: float = 0.0
    disk_full_met: int = 0
    """How often a process met the full disk, by its log."""
    disk_real: bool = True
    """Whether the database had a disk of its own: else that was never full."""
    missed: list[Fault] = field(default_factory=list)
    """Faults that found nothing to kill, or no disk to fill. One may, as a process may have ended just then."""
    lanes: dict[str, int] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)


class Storm:
    """Runs one plan over one plant."""

    def __init__(self, plan: StormPlan, plant: Plant, disk: DatabaseDisk, *, patience: float) -> None:
        """``patience``: seconds after the last file until everything has to be decided."""
        self.plan = plan
        self.plant = plant
        self.disk = disk
        self.db = InspectionDatabase(disk.url)
        self.result = StormResult(plan, disk_real=disk.real)
        self._patience = patience
        self._outside = plant.home.root / "outside"
        self._over = threading.Event()
        self._armed: list[Fault] = []
        self._timers: list[threading.Thread] = []
        self._landing: list[Future[None]] = []
        self.extra: list[Drop] = []

    def run(self) -> StormResult:
        """Land, break, wait and judge."""
        started = time.monotonic()
        self._outside.mkdir(exist_ok=True)
        hunter = threading.Thread(target=self._hunt, daemon=True)
        hunter.start()
        try:
            self.plant.start()
            self._land_all()
            for timer in self._timers:
                timer.join()
            decided = self._wait(self._all_decided, len(self.plan.drops))
            self._over.set()
            hunter.join()
            self.result.troubles += self.plant.ended_by_themselves()
            if decided:
                self._after_the_storm()
        finally:
            self._over.set()
            self.disk.free()
            self.plant.stop()
        self.result.missed += self._armed
        planned, done = len(self.plan.faults), len(self.plan.faults) - len(self.result.missed)
        if done < planned / 2:
            self.result.troubles.append(f"too few faults came about: {done} of {planned}")
        self.result.kills = dict(self.plant.kills)
        self.result.seconds = time.monotonic() - started
        judge_storm(self)
        return self.result

    # landing

    def _land_all(self) -> None:
        faults = list(self.plan.faults)
        with ThreadPoolExecutor(SLOW_WRITERS) as writers:
            for drop in self.plan.drops:
                while faults and faults[0].after <= drop.number:
                    self._happen(faults.pop(0))
                if drop.number == FIRST_FILES:
                    self._hold(lambda: self._decided() > 0, START_SECONDS)
                elif drop.number % (AHEAD // 4) == 0:
                    self._hold(lambda number=drop.number: self._decided() > number - AHEAD, STALL_SECONDS)  # type: ignore[misc]
                time.sleep(drop.pause)
                self._land(drop, writers)
            for fault in faults:
                self._happen(fault)
            for writing in self._landing:
                writing.result()

    def _land(self, drop: Drop, writers: ThreadPoolExecutor) -> None:
        inbox = self.plant.home.line(drop.line).inbox
        if drop.way == SLOW:
            self._landing.append(writers.submit(land, self.plan.seed, drop, inbox, self._outside))
        else:
            land(self.plan.seed, drop, inbox, self._outside)

    def _hold(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(SQLAlchemyError):
                if condition():
                    return
            time.sleep(0.1)

    def _decided(self) -> int:
        with self.db.reading() as connection:
            counted = select(func.count()).select_from(landings).where(landings.c.state != PENDING)
            return int(connection.execute(counted).scalar_one())

    # faults

    def _happen(self, fault: Fault) -> None:
        logger.info("%s, after %d files", fault.kind, fault.after)
        if fault.kind == PROMOTE:
            self._later(0.0, lambda: self._promote(fault))
        elif fault.kind == FILL_DISK:
            if self.disk.real:
                self._later(0.0, lambda: self._fill_disk(fault))
            else:
                self.result.missed.append(fault)
        else:
            self._armed.append(fault)

    def _promote(self, fault: Fault) -> None:
        label = self.plant.promote(fault.line)
        self.result.promotions += 1
        logger.info("%s serves", label)

    def _fill_disk(self, fault: Fault) -> None:
        before = disk_full_met(self.plant.home.root)
        lasted = self.disk.keep_full(fault.down, lambda: disk_full_met(self.plant.home.root) > before)
        self.result.disk_full_seconds += lasted

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
        """Kill what is to be killed as soon as it is there: a run is only at times, a scorer may be down just now."""
        while not self._over.wait(LOOK_SECONDS):
            for fault in list(self._armed):
                try:
                    found = self.plant.kill(fault.kind)
                except Exception as error:
                    logger.exception("what is to be killed cannot be looked for")
                    self.result.troubles.append(f"nothing more was killed: {fault.kind}: {error!r}")
                    return
                if found:
                    logger.info("%s: done", fault.kind)
                    self._armed.remove(fault)
                    self._later(fault.down, lambda kind=fault.kind: self.plant.restart(kind))  # type: ignore[misc]

    # the end

    def _wait(self, condition: Callable[[int], str], files: int) -> bool:
        deadline = time.monotonic() + self._patience
        why = "nothing was looked at"
        while time.monotonic() < deadline:
            # A disk that is full, or a table that is not there yet.
            with suppress(SQLAlchemyError):
                why = condition(files)
                if not why:
                    return True
            time.sleep(0.2)
        self.result.troubles.append(f"not everything is decided after {self._patience:.0f} s: {why}")
        return False

    def _all_decided(self, files: int) -> str:
        """Return what is not decided yet; empty where all is."""
        with self.db.reading() as connection:

            def count(statement: object) -> int:
                return int(connection.execute(statement).scalar_one())  # type: ignore[call-overload]

            decided = select(landings.c.line, landings.c.path).where(landings.c.state != PENDING).distinct().subquery()
            numbers = {
                "files without a decision": files - count(select(func.count()).select_from(decided)),
                "pending": count(select(func.count()).select_from(landings).where(landings.c.state == PENDING)),
                "open batches": count(select(func.count()).select_from(batches).where(batches.c.state == OPEN)),
                "batches of the scorer": count(select(func.count()).select_from(fast_batches)),
                "signals that wait": count(
                    select(func.count()).select_from(signals).where(signals.c.state == "waiting")
                ),
            }
        return ", ".join(f"{name}: {number}" for name, number in numbers.items() if number)

    def _after_the_storm(self) -> None:
        """One more image for each line, without the scorer: the bulk lane works, and clears away what was left."""
        self.plant.stop_scorer()
        shape = self.plan.shape
        for number, line in enumerate(shape.lines, start=shape.files):
            drop = Drop(number, line, f"after/{number}.png", GOOD, "copy", number, 0.0)
            self.extra.append(drop)
            land(self.plan.seed, drop, self.plant.home.line(line).inbox, self._outside)
        self._wait(self._decided_by_runs, shape.files + len(shape.lines))

    def _decided_by_runs(self, files: int) -> str:
        return ", ".join(part for part in self._all_decided(files).split(", ") if part and "signals" not in part)
