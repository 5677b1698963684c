"""The inference service: sees images arrive, scores them with warm models, and records each result durably.

Eight threads: one *watches* (events, scans, registering), one *follows* (lines, plans, champions; loads models), three
*work* (one reads and one records while another scores), one *notifies* programs of results, one *tells* people, and one
*shadows* (scores with versions that do not serve). They share nothing but the queue in the database, so any of them may
be cut off at any instruction, and several services may work on the same lines.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from vad_lib.ingest import Arrival, FolderEvents, FolderWatch
from vad_lib.inspection.quarantine import keep_files_refused_by_name
from vad_lib.inspection.worker import Worker, work_on
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.schema import ONLINE
from vad_lib.notice_rules import NoticeRule
from vad_lib.queue import (
    LEASE_SECONDS,
    Decision,
    QueueFacts,
    expire,
    known_versions,
    new_worker,
    pauses,
    queue_facts,
    register,
    renew,
)
from vad_lib.queue.facts import ALIVE_SECONDS, announce_service
from vad_lib.queue.outbox import open_sinks
from vad_lib.serving.expected_results import ExpectedResults
from vad_lib.serving.messenger import Messenger
from vad_lib.serving.metrics import Metrics
from vad_lib.serving.mqtt import MqttChannel
from vad_lib.serving.notifier import Notifier
from vad_lib.serving.shadow import LOOK_SECONDS, Shadow
from vad_lib.serving.sinks import Sinks
from vad_lib.serving.warm_models import Source, WarmModels, WatchedLine
from vad_lib.serving.work_list import WorkList

TROUBLE_SECONDS = 1.0
DEBOUNCE_SECONDS = 0.01
"""Programs that copy set the time of a file just after they closed it."""
QUEUE_SECONDS = 2.0
"""Between looks at the queue for what others have registered, what is to be tried again, and leases that expired."""
STOP_SECONDS = 15.0
"""For what is at work at the end; `vad dev` kills its servers after 20."""
SILENT_SECONDS = 60.0
"""A queue that was not looked at for so long is told: the database does not answer, or a folder takes very long."""
logger = logging.getLogger("vad.serving.service")


@dataclass(frozen=True)
class ServiceLimits:
    """How much the service takes on.

    Attributes:
        micro_batch: images scored together at most.
        warm_models: models in memory.
        workers: chunks at work; only one of them scores at a time.
        follow_seconds: how often lines and champions are looked at.
        shadow_seconds: how often images are looked for that versions which do not serve are to score.
    """

    micro_batch: int = 16
    warm_models: int = 8
    workers: int = 3
    follow_seconds: float = 3.0
    shadow_seconds: float = LOOK_SECONDS


class InferenceService:
    """Start it, stop it, ask how it is. Use one for all lines of a home."""

    def __init__(self, db: InspectionDatabase, source: Source, limits: ServiceLimits | None = None) -> None:
        self.db = db
        self.limits = limits or ServiceLimits()
        self.metrics = Metrics()
        self.worker = Worker(new_worker(), ONLINE, goes_on=lambda: not self._stopping.is_set())
        self.models = WarmModels(source, self.limits.warm_models)
        self.watches: dict[str, FolderWatch] = {}
        self.watched: Mapping[str, WatchedLine] = {}
        self.waiting: Mapping[str, QueueFacts] = {}
        """What waits in the queue, as of the last look."""
        self.notifier = Notifier(self.db, self._sinks, self.worker.name, self._states, MqttChannel.of_settings())
        self.messenger = Messenger(self.db, self._notice_rules, self._lasting_trouble, self.worker.name)
        self.expected = ExpectedResults()
        self.followed_at = 0.0
        """When lines were last looked at without trouble, on the monotonic clock; 0: never."""
        self.trouble = ""
        self.database_trouble = ""
        self.looked_at = time.monotonic()
        """When the queue was last looked at without trouble, on the monotonic clock."""
        self._source = source
        self._events = FolderEvents()
        # A line whose files are slow leaves a worker to the others.
        self._work = WorkList(max(1, self.limits.workers - 1))
        self.shadow = Shadow(self.db, self.models, lambda: self.watched, self._work.is_idle, self.limits.shadow_seconds)
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._follow_now = threading.Event()
        self._wanted: dict[str, None] = {}
        self._resting: dict[str, float] = {}
        """Lines on which something failed just now, and until when they are left alone, on the monotonic clock."""
        self._next_look = self._next_renewal = self._next_announcement = 0.0
        self._threads: list[threading.Thread] = []
        self._anchor: Connection | None = None

    def start(self) -> None:
        """Begin. What waits in the queue comes as soon as a model is warm and the database can be written."""
        loops: list[tuple[str, Callable[[], None]]] = [
            ("watch", self._watch),
            ("follow", self._follow),
            ("notify", self.notifier.run),
            ("shadow", self.shadow.run),
            ("tell", self.messenger.run),
            *((f"work-{number}", self._work_on_lines) for number in range(self.limits.workers)),
        ]
        for name, loop in loops:
            thread = threading.Thread(target=loop, name=f"vad-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Finish what is at work and return. What waits, and what takes longer than that, is offered to others."""
        self._stopping.set()
        self._woken.set()
        self._follow_now.set()
        self.notifier.stop()
        self.shadow.stop()
        self.messenger.stop()
        self._work.close()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            # Loading a model or waiting for a registry or a receiver may take long, and leaves nothing half done.
            work = thread.name.startswith("vad-work")
            thread.join(max(0.1, deadline - time.monotonic()) if work else 1.0)
        try:
            announce_service(self.db, self.worker.name, ())
        except Exception:  # its row runs out by itself
            logger.warning("the end of the service cannot be announced", exc_info=True)
        self._events.stop()
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
        if self.trouble:
            reasons["*"] = self.trouble
        if reason := self._why_no_database():
            reasons["*"] = reason
        warm = self.models.versions()
        missing = [name for name, line in self.watched.items() if line.model_version and name not in warm]
        if len(warm) < self.models.most:
            reasons.update({name: "its model is being loaded" for name in missing if name not in reasons})
        for name, watch in self.watches.items():
            if watch.error:
                reasons[name] = f"{watch.folder} cannot be read: {watch.error}"
        return reasons | {name: line.trouble for name, line in self.watched.items() if line.trouble}

    def _why_no_database(self) -> str:
        if self.database_trouble:
            return f"the inspection database cannot be used: {self.database_trouble}"
        silent = time.monotonic() - self.looked_at
        return f"the queue has not been looked at for {silent:.0f} s" if silent > SILENT_SECONDS else ""

    def hint(self, line: str, file: Path) -> None:
        """Say that a file has arrived, where the operating system may not."""
        if watch := self.watches.get(line):
            watch.hint(str(file))

    def _sinks(self) -> Mapping[str, Sinks]:
        return {name: line.sinks for name, line in self.watched.items()}

    def _states(self) -> Mapping[str, Mapping[str, object]]:
        """Return how each line is served, for programs."""
        reasons, paused = self.not_ready(), pauses(self.db)

        def state(name: str, line: WatchedLine) -> tuple[str, str]:
            if name in paused:
                return "paused", paused[name].reason
            if reason := reasons.get(name, reasons.get("*", "")):
                return "trouble", reason
            return ("running", "") if line.model_version else ("no_model", "")

        return {
            name: dict(zip(("state", "reason"), state(name, line), strict=True))
            | {
                "model_version": line.model_version,
                "waiting": facts.pending if (facts := self.waiting.get(name)) else 0,
            }
            for name, line in self.watched.items()
        }

    def _notice_rules(self) -> Mapping[tuple[str, str], NoticeRule]:
        return {(name, rule.receiver): rule for name, line in self.watched.items() for rule in line.notice_rules}

    def _lasting_trouble(self) -> Mapping[str, str]:
        """Return what keeps lines from being served; what concerns all is told on each."""
        reasons = self.not_ready()
        all_lines = dict.fromkeys(self.watched, reasons["*"]) if "*" in reasons and self.followed_at else {}
        return all_lines | {name: reason for name, reason in reasons.items() if name in self.watched}

    # --- following -----------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        while not self._stopping.is_set():
            self._follow_now.clear()
            try:
                self._look_at_lines()
            except Exception:
                # What was known stays in force: images do not wait for a registry.
                logger.exception("lines cannot be looked at")
            self._follow_now.wait(self.limits.follow_seconds)

    def _look_at_lines(self) -> None:
        try:
            watched = dict(self._source.watched())
            if {name: line.sinks for name, line in watched.items()} != self._sinks() or not self.followed_at:
                open_sinks(self.db, {name: line.sinks.names for name, line in watched.items()})
        except Exception as error:
            self.trouble = f"lines cannot be looked at: {error}"
            raise
        watches = {}
        for name, line in watched.items():
            before = self.watches.get(name)
            wanted_watch = (line.folder, line.settle_seconds, line.ignored_suffixes)
            if before is None or (before.folder, before.settle_seconds, before.ignored_suffixes) != wanted_watch:
                before = FolderWatch(
                    name,
                    line.folder,
                    line.settle_seconds,
                    known=partial(known_versions, self.db, name),
                    wake=self._woken.set,
                    skip_folders=line.line.own_folders,
                    ignored_suffixes=line.ignored_suffixes,
                )
            watches[name] = before
        self.watched, self.watches, self.trouble = watched, watches, ""
        self._events.keep(list(watches.values()))
        wanted, self._wanted = list(self._wanted), {}
        if self.models.follow(watched, wanted):
            for name in self.models.versions():
                self._work.offer(name)
        for line in watched.values():
            keep_files_refused_by_name(self.db, line.line)
        self.followed_at = time.monotonic()

    # --- watching ------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                # SQLite tidies up whenever its last connection closes; while one stays open, transactions cost half.
                if self._anchor is None:
                    self._anchor = self.db.engine.connect()
                pause = self._look_and_register()
                self._look_at_queue()
            except Exception as error:
                self.database_trouble = str(getattr(error, "orig", None) or error)
                self._next_look = 0.0
                logger.exception("the queue cannot be looked at now")
                pause = TROUBLE_SECONDS
                self._stopping.wait(pause)
            if self._woken.wait(min(pause, QUEUE_SECONDS)):
                self._stopping.wait(DEBOUNCE_SECONDS)

    def _look_and_register(self) -> float:
        """Do what is due; return for how long nothing will be."""
        self._woken.clear()
        now = time.monotonic()
        watches = [watch for watch in self.watches.values() if self._resting.get(watch.line, 0.0) <= now]
        for watch in watches:
            self._see(watch, watch.take_hints)
        due = sorted((watch for watch in watches if watch.due(now)), key=lambda watch: watch.next_scan)
        if due:
            # One at a time: events of the others come first.
            self._see(due[0], partial(due[0].scan, len(watches)))
        if len(due) > 1:
            return 0.0
        now = time.monotonic()
        return max(0.0, min([60.0, *(watch.next_scan - now for watch in watches)]))

    def _see(self, watch: FolderWatch, look: Callable[[], object]) -> None:
        """Look at one line and register what is there. What fails there does not stop the others."""
        try:
            look()
            self._register(watch)
        except Exception:
            logger.exception("arrivals cannot be registered now", extra={"line": watch.line})
            self._resting[watch.line] = time.monotonic() + TROUBLE_SECONDS

    def _register(self, watch: FolderWatch) -> None:
        if not watch.waiting and not watch.refused:
            return
        arrivals = [Arrival(version, moment) for version, moment in watch.waiting.items()]
        refused = list(watch.refused)
        register(self.db, watch.line, watch.folder, arrivals, refused)
        watch.mark_registered({arrival.version for arrival in arrivals} | {seen.version for seen in refused})
        if arrivals:
            self._work.offer(watch.line)
        if refused:
            self.notifier.wake()

    def _look_at_queue(self) -> None:
        """Find work that others have left, and say that this service is there."""
        now = time.monotonic()
        if now >= self._next_renewal:
            # Before anything expires: after an outage of the database, what this service has in hand is still its own.
            renew(self.db, self.worker.name)
            self._next_renewal = now + LEASE_SECONDS / 3
        if now >= self._next_look:
            self._next_look = now + QUEUE_SECONDS
            if given_back := expire(self.db):
                logger.warning("leases expired", extra={"files": given_back})
            self.waiting = queue_facts(self.db)
            self.looked_at, self.database_trouble = time.monotonic(), ""
            for name, facts in self.waiting.items():
                if facts.unleased_seconds is not None and name in self.watched:
                    self._work.offer(name)
        if now >= self._next_announcement and self.alive() and self.followed_at:
            self._next_announcement = now + ALIVE_SECONDS / 3
            announce_service(self.db, self.worker.name, self.serves())

    def serves(self) -> list[str]:
        """Return the lines whose queue this service works on: others have no model, or one that cannot be loaded."""
        errors = self.models.errors
        return [name for name, line in self.watched.items() if line.model_version and name not in errors]

    def _want(self, line: str) -> None:
        watched = self.watched.get(line)
        if watched and watched.model_version and line not in self._wanted and line not in self.models.errors:
            self._wanted[line] = None
            self._follow_now.set()

    # --- working -------------------------------------------------------------------------------------------------

    def _work_on_lines(self) -> None:
        while (name := self._work.take()) is not None:
            warm, watched = self.models.get(name), self.watched.get(name)
            if warm is None or watched is None:
                # No lease is spent while a model loads: the line is offered again when it is warm.
                self._work.done(name)
                self._want(name)
                continue
            started = time.monotonic()
            try:
                served = warm.served(watched.inference_threshold, watched.monitor)
                decided, more = work_on(self.db, watched.line, served, self.worker, self.limits.micro_batch)
            except Exception:
                logger.exception("a chunk of files failed", extra={"line": name})
                self.metrics.failures.labels(name).inc()
                self._work.pause(name, TROUBLE_SECONDS)
                continue
            finally:
                self._work.done(name)
            if more:
                self._work.offer(name)
            if decided:
                self._tell(watched, decided, time.monotonic() - started, warm.version)

    def _tell(self, watched: WatchedLine, decided: Collection[Decision], seconds: float, version: str) -> None:
        line = watched.line.name
        for each in decided:
            self.metrics.decided(line, each)
            self.expected.tell(line, each)
        logger.info(
            "inspected",
            extra={
                "line": line,
                "images": len(decided),
                "refused": sum(each.state == "refused" for each in decided),
                "seconds": round(seconds, 4),
                "longest_wait": round(max((each.seconds for each in decided), default=0.0), 3),
                "model_version": version,
            },
        )
        if watched.sinks.names:
            self.notifier.wake()
