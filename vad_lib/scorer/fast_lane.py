"""The resident scorer: sees images land, scores them with warm models, and records each result durably.

Five threads: one *dispatches* (events, scans, taking up), one *follows* (lines, plans, champions; loads models), two
*work* (read and record while the other scores) and one *sends* results on. They share nothing but the ledger and a few
queues, so any of them may be cut off at any instruction.

What is taken up is bounded. A file that is not taken up is simply left: the bulk lane takes it once it has stood still.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection

from vad_lib.inspection import inspect_pending
from vad_lib.inspection.claims import new_owner
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.scorer.expecting import Expectations
from vad_lib.scorer.limits import LaneLimits
from vad_lib.scorer.metrics import Metrics
from vad_lib.scorer.models import Source, WarmModels, WatchedLine
from vad_lib.scorer.queueing import Job, JobQueue
from vad_lib.scorer.sending import Sender
from vad_lib.scorer.signals import Channels, open_channels
from vad_lib.scorer.taking_up import (
    LEASE,
    Decided,
    TakenBatch,
    adopt_abandoned,
    finish,
    hand_over,
    hand_over_together,
    renew,
    take_up,
    take_up_refused,
)
from vad_lib.scorer.watching import FolderWatch, Watcher

MOST_ATTEMPTS = 3
TROUBLE_SECONDS, LONGEST_TROUBLE_SECONDS = 1.0, 15.0
DEBOUNCE_SECONDS = 0.01
"""Programs that copy set the time of a file just after they closed it."""
logger = logging.getLogger("vad.scorer")


def pause_after(attempts: int) -> float:
    """Return seconds until a batch is tried again: soon enough that images do not wait long for a disk with room.

    >>> pause_after(0), pause_after(2), pause_after(50)
    (1.0, 4.0, 15.0)
    """
    return min(LONGEST_TROUBLE_SECONDS, TROUBLE_SECONDS * 2.0 ** min(attempts, 30))


class FastLane:
    """Start it, stop it, ask how it is. Use one for all lines of a home."""

    def __init__(self, db: InspectionDatabase, source: Source, limits: LaneLimits | None = None) -> None:
        self.db = db
        self.limits = limits or LaneLimits()
        self.metrics = Metrics()
        self.owner = new_owner()
        self.models = WarmModels(source, self.limits.warm_models)
        self.watches: dict[str, FolderWatch] = {}
        self.watched: Mapping[str, WatchedLine] = {}
        self.sender = Sender(self.db, self._channels)
        self.queue = JobQueue(self.limits.queue_images)
        self.expected = Expectations()
        self.followed_at = 0.0
        """When lines were last looked at without trouble, on the monotonic clock; 0: never."""
        self.trouble = ""
        self._source = source
        self._watcher = Watcher()
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._follow_now = threading.Event()
        self._wanted: dict[str, None] = {}
        self._since: dict[str, float] = {}
        self._turn = 0
        self._renewed = time.monotonic()
        self._threads: list[threading.Thread] = []
        self._anchor: Connection | None = None
        self._has_taken_over = False

    def start(self) -> None:
        """Begin; what a scorer that died has left comes first, as soon as the database can be written."""
        loops: list[tuple[str, Callable[[], None]]] = [
            ("dispatch", self._dispatch),
            ("follow", self._follow),
            ("send", self.sender.run),
            *((f"work-{number}", self._work) for number in range(self.limits.workers)),
        ]
        for name, loop in loops:
            thread = threading.Thread(target=loop, name=f"vad-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, seconds: float = 20.0) -> None:
        """Finish what is at work, give the rest to the bulk lane, and return."""
        self._stopping.set()
        self._woken.set()
        self._follow_now.set()
        self.sender.stop()
        left = [(job.taken.batch_id, self.owner) for job in self.queue.close()]
        with suppress(Exception):
            hand_over_together(self.db, left, "the scorer was stopped")
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            # Loading a model or waiting for a registry or a receiver may take long, and leaves nothing half done.
            work = thread.name.startswith("vad-work")
            thread.join(max(0.1, deadline - time.monotonic()) if work else 1.0)
        self._watcher.stop()
        if self._anchor is not None:
            self._anchor.close()

    def alive(self) -> bool:
        """Whether all threads live."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    def not_ready(self) -> dict[str, str]:
        """Return what keeps lines from being served, by line; empty where all is well. ``*`` stands for all lines."""
        if not self.followed_at:
            return {"*": self.trouble or "lines have not been looked at yet"}
        reasons = dict(self.models.errors)
        warm = self.models.versions()
        missing = [name for name, line in self.watched.items() if line.model_version and name not in warm]
        if len(warm) < self.models.most:
            reasons.update({name: "its model is being loaded" for name in missing if name not in reasons})
        for name, watch in self.watches.items():
            if watch.error:
                reasons[name] = f"{watch.folder} cannot be read: {watch.error}"
        return reasons

    def hint(self, line: str, file: Path) -> None:
        """Say that a file has landed, where the operating system may not."""
        if watch := self.watches.get(line):
            watch.hint(str(file))

    def _channels(self) -> Mapping[str, Channels]:
        return {name: line.channels for name, line in self.watched.items()}

    # --- following -----------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        while not self._stopping.is_set():
            self._follow_now.clear()
            try:
                self._look_at_lines()
                self.trouble = ""
            except Exception as error:
                # What was known stays in force: images do not wait for a registry.
                self.trouble = f"lines cannot be looked at: {error}"
                logger.exception("lines cannot be looked at")
            self._follow_now.wait(self.limits.follow_seconds)

    def _look_at_lines(self) -> None:
        watched = dict(self._source.watched())
        watches = {}
        for name, line in watched.items():
            before = self.watches.get(name)
            same = before is not None and (before.folder, before.settle_seconds) == (line.folder, line.settle_seconds)
            watches[name] = (
                before
                if same and before is not None
                else FolderWatch(
                    name, line.folder, line.settle_seconds, self._woken.set, skip_folders=line.line.own_folders
                )
            )
        channels = {name: line.channels for name, line in watched.items()}
        if channels != self._channels() or not self.followed_at:
            open_channels(self.db, channels)
        self.watched = watched
        self.watches = watches
        self._watcher.keep(list(watches.values()))
        wanted, self._wanted = list(self._wanted), {}
        if self.models.follow(watched, wanted):
            self._woken.set()
        self.followed_at = time.monotonic()

    # --- dispatching ---------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while not self._stopping.is_set():
            try:
                if not self._has_taken_over:
                    self._take_over()
                pause = self._look_and_take_up()
            except Exception:
                logger.exception("landings cannot be taken up now")
                pause = TROUBLE_SECONDS
                self._stopping.wait(pause)
            if self._woken.wait(pause):
                self._stopping.wait(DEBOUNCE_SECONDS)

    def _take_over(self) -> None:
        # SQLite tidies up whenever its last connection closes; while one stays open, transactions cost half as much.
        if self._anchor is None:
            self._anchor = self.db.engine.connect()
        for taken in adopt_abandoned(self.db, self.owner):
            logger.info("took over a batch", extra={"line": taken.line, "batch_id": taken.batch_id})
            self.queue.put(Job(taken))
        self._has_taken_over = True

    def _look_and_take_up(self) -> float:
        """Do what is due; return for how long nothing will be."""
        self._woken.clear()
        watches = self.watches
        for watch in watches.values():
            if watch.take_hints():
                self._since.setdefault(watch.line, time.monotonic())
        due = sorted((watch for watch in watches.values() if watch.due(time.monotonic())), key=lambda w: w.next_scan)
        if due:
            # One at a time: events of the others come first.
            due[0].scan(self.db, len(watches))
            self._take_refused(due[0])
            if due[0].waiting:
                self._since.setdefault(due[0].line, time.monotonic())
        pause = self._take_up(watches)
        now = time.monotonic()
        if now - self._renewed > LEASE.total_seconds() / 3:
            if self.queue.images:
                renew(self.db, self.owner)
            self._renewed = now
        if len(due) > 1:
            return 0.0
        return max(0.0, min([pause, LEASE.total_seconds() / 3, *(w.next_scan - now for w in watches.values())]))

    def _take_up(self, watches: Mapping[str, FolderWatch]) -> float:
        """Take up what waits, in turn by line; return when to look again."""
        pause = 60.0
        names = [name for name, watch in watches.items() if watch.waiting]
        self._turn += 1
        for name in names[self._turn % len(names) :] + names[: self._turn % len(names)] if names else []:
            watch = watches[name]
            if self.models.get(name) is None:
                self._want(name)
                pause = min(pause, 0.5)
                continue
            while watch.waiting:
                room = self.queue.room
                if not room:
                    # Behind. What stands still meanwhile is taken by the bulk lane.
                    pause = min(pause, 0.1)
                    break
                lingered = time.monotonic() - self._since.get(name, 0.0)
                if (
                    len(watch.waiting) < self.limits.micro_batch
                    and not self.queue.idle
                    and lingered < self.limits.linger_seconds
                ):
                    pause = min(pause, self.limits.linger_seconds - lingered)
                    break
                self._take_some(watch, min(room, self.limits.micro_batch))
            if not watch.waiting:
                self._since.pop(name, None)
        return pause

    def _take_some(self, watch: FolderWatch, count: int) -> None:
        candidates = watch.take(count)
        try:
            taken = take_up(self.db, watch.line, watch.folder, candidates, self.owner)
        except BaseException:
            watch.waiting.update({candidate.key: candidate.landed_at for candidate in candidates})
            raise
        watch.settle([candidate.key for candidate in candidates])
        elsewhere = len(candidates) - (len(taken.paths) if taken else 0)
        if elsewhere:
            self.metrics.count("left_to_the_bulk_lane", elsewhere)
        if taken is not None:
            self.queue.put(Job(taken))

    def _take_refused(self, watch: FolderWatch) -> None:
        if watch.line in self.models.versions():
            taken = take_up_refused(self.db, watch.line, watch.folder, self.owner)
            if taken is not None:
                self.queue.put(Job(taken))

    def _want(self, line: str) -> None:
        watched = self.watched.get(line)
        if (
            watched is not None
            and watched.model_version
            and line not in self._wanted
            and line not in self.models.errors
        ):
            self._wanted[line] = None
            self._follow_now.set()

    # --- working -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self.queue.get()) is not None:
            try:
                self._do(job)
            except Exception:
                logger.exception("a batch cannot be settled now", extra={"batch_id": job.taken.batch_id})
                self._again(job)

    def _do(self, job: Job) -> None:
        taken = job.taken
        warm, watched = self.models.get(taken.line), self.watched.get(taken.line)
        why = ""
        started = time.monotonic()
        if warm is None or watched is None:
            why = "no model of its line is warm"
            self._want(taken.line)
        else:
            try:
                result = inspect_pending(
                    self.db,
                    warm.model,
                    model_version=warm.version,
                    line=watched.line,
                    batch_id=taken.batch_id,
                    inference_threshold=watched.inference_threshold,
                    lane="fast",
                    batch_size=self.limits.micro_batch,
                )
                why = f"{result.left} files could not be decided" if result.left else ""
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
                logger.exception("a batch failed", extra={"line": taken.line, "batch_id": taken.batch_id})
        if why and job.attempts + 1 < MOST_ATTEMPTS:
            self._again(job)
        elif why:
            hand_over(self.db, taken.batch_id, self.owner, why)
            self.queue.done(job)
            self.metrics.count("handed_to_the_bulk_lane", len(taken.paths))
            logger.warning("handed over", extra={"line": taken.line, "batch_id": taken.batch_id, "error": why})
        else:
            channels = watched.channels.names if watched else ()
            decided = finish(self.db, taken.batch_id, self.owner, channels)
            self.queue.done(job)
            self._tell(taken, decided or [], bool(channels), time.monotonic() - started, warm.version if warm else "")

    def _again(self, job: Job) -> None:
        self.queue.put(Job(job.taken, job.attempts + 1, time.monotonic() + pause_after(job.attempts)), again=True)

    def _tell(self, taken: TakenBatch, decided: Collection[Decided], send: bool, seconds: float, version: str) -> None:
        waits = [each.seconds for each in decided if each.seconds is not None]
        for each in decided:
            self.metrics.decided(taken.line, each.state, each.seconds)
            self.expected.tell(taken.line, each)
        logger.info(
            "inspected",
            extra={
                "line": taken.line,
                "batch_id": taken.batch_id,
                "images": len(decided),
                "refused": sum(each.state == "refused" for each in decided),
                "seconds": round(seconds, 4),
                "longest_wait": round(max(waits), 3) if waits else None,
                "model_version": version,
            },
        )
        if send:
            self.sender.wake()
        self._woken.set()
