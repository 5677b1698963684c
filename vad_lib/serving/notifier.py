"""The thread that empties the outbox: in order for each line and sink, and no receiver waits for another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.queue.outbox import Attempt, Notification, delay_before, due_notifications, record_attempts
from vad_lib.serving.sinks import FILE, Sinks, post_webhook, write_result_file

IDLE_SECONDS = 2.0
RECEIVERS_AT_ONCE = 16
logger = logging.getLogger("vad.serving.notifier")


class Notifier:
    """Sends what stands in the outbox of those lines that have sinks."""

    def __init__(self, db: InspectionDatabase, sinks: Callable[[], Mapping[str, Sinks]]) -> None:
        """``sinks``: those of each line as they are now."""
        self._db = db
        self._sinks = sinks
        self._stopping = False
        self._awake = threading.Event()
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}
        self._sending: dict[tuple[str, str], Future[None]] = {}
        self.sent = 0
        self.failed = 0

    def wake(self) -> None:
        """Something new may be there."""
        self._awake.set()

    def stop(self) -> None:
        """Let ``run`` return after what it is at."""
        self._stopping = True
        self._awake.set()

    def run(self) -> None:
        """Send until stopped. Trouble with the database is logged and passes."""
        import requests

        with requests.Session() as session, ThreadPoolExecutor(RECEIVERS_AT_ONCE, "vad-send") as pool:
            while not self._stopping:
                try:
                    # What a first look left out, since there was much of others, comes with the next.
                    while not self._stopping and self.begin_due(session, pool):
                        continue
                except Exception:
                    logger.exception("notifications cannot be sent now")
                self._awake.wait(IDLE_SECONDS)
                self._awake.clear()

    def begin_due(self, session: Any, pool: Executor) -> list[Future[None]]:
        """Begin to send everything whose time has come, each line and sink by itself; return what was begun."""
        now = time.monotonic()
        self._sending = {pair: future for pair, future in self._sending.items() if not future.done()}
        blocked = {pair for pair, (_, until) in self._failures.items() if until > now} | self._sending.keys()
        opened = {(line, sink) for line, sinks in self._sinks().items() for sink in sinks.names}
        groups: dict[tuple[str, str], list[Notification]] = {}
        for notification in due_notifications(self._db, opened - blocked):
            groups.setdefault((notification.line, notification.sink), []).append(notification)
        begun = {pair: pool.submit(self._send, session, group) for pair, group in groups.items()}
        self._sending |= begun
        return list(begun.values())

    def _send(self, session: Any, group: list[Notification]) -> None:
        try:
            attempts = self._send_group(session, group)
            if attempts:
                record_attempts(self._db, attempts)
            self.sent += sum(attempt.state == "sent" for _, attempt in attempts)
        except Exception:
            logger.exception("attempts cannot be written down now: they are made again")
            time.sleep(IDLE_SECONDS)
        else:
            self.wake()

    def _send_group(self, session: Any, group: list[Notification]) -> list[tuple[Notification, Attempt]]:
        """Send notifications of one line and sink, up to the first that shows that the receiver is not there."""
        pair = (group[0].line, group[0].sink)
        sinks = self._sinks().get(pair[0], Sinks())
        done: list[tuple[Notification, Attempt]] = []
        for notification in group:
            if self._stopping or notification.sink not in sinks.names:
                break
            attempt = (
                write_result_file(notification)
                if notification.sink == FILE
                else post_webhook(session, sinks, notification)
            )
            done.append((notification, attempt))
            if attempt.state == "sent":
                self._failures.pop(pair, None)
                continue
            self.failed += 1
            logger.warning(
                "a notification could not be sent",
                extra={
                    "line": notification.line,
                    "sink": notification.sink,
                    "notification": notification.id,
                    "error": attempt.error,
                },
            )
            if not attempt.only_this:
                failures = self._failures.get(pair, (0, 0.0))[0] + 1
                self._failures[pair] = (failures, time.monotonic() + delay_before(failures))
                break
        return done
