"""The thread that empties the outbox: in order for each line and sink, and no receiver waits for another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.queue.outbox import (
    SINK_LEASE_SECONDS,
    Attempt,
    Notification,
    delay_before,
    due_notifications,
    lease_sinks,
    record_attempts,
    release_sinks,
)
from vad_lib.serving.mqtt import MqttChannel
from vad_lib.serving.sinks import FILE, MQTT, Sinks, post_webhook, write_result_file

IDLE_SECONDS = 2.0
RECEIVERS_AT_ONCE = 16
LAST_SECONDS = 5.0
"""For what is being sent when the service ends. What is cut off then is sent again by the next."""
logger = logging.getLogger("vad.serving.notifier")


class Notifier:
    """Sends what stands in the outbox of those lines that have sinks."""

    def __init__(
        self,
        db: InspectionDatabase,
        sinks: Callable[[], Mapping[str, Sinks]],
        worker: str,
        states: Callable[[], Mapping[str, Mapping[str, Any]]] = dict,
        mqtt: MqttChannel | None = None,
    ) -> None:
        """Make one.

        Args:
            db: holds the outbox.
            sinks: those of each line as they are now.
            worker: the name of the service.
            states: how each line is served now, for the broker.
            mqtt: the broker; None: none.
        """
        self._db = db
        self._states = states
        self._mqtt = mqtt
        self._worker = worker
        self._sinks = sinks
        self._stopping = False
        self._awake = threading.Event()
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}
        self._sending: dict[tuple[str, str], threading.Thread] = {}
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

        with requests.Session() as session:
            while not self._stopping:
                try:
                    # What a first look left out, since there was much of others, comes with the next.
                    while not self._stopping and self.begin_due(session):
                        continue
                    if self._mqtt is not None:
                        self._mqtt.tell_states(self._states())
                except Exception:
                    logger.exception("notifications cannot be sent now")
                self._awake.wait(IDLE_SECONDS)
                self._awake.clear()
            deadline = time.monotonic() + LAST_SECONDS
            for thread in list(self._sending.values()):
                thread.join(max(0.0, deadline - time.monotonic()))
            if self._mqtt is not None:
                self._mqtt.close()
            try:
                release_sinks(self._db, self._worker)
            except Exception:  # the leases run out by themselves
                logger.warning("the sinks cannot be released", exc_info=True)

    def begin_due(self, session: Any) -> int:
        """Begin to send everything whose time has come, each line and sink by itself; return of how many of them.

        Each has a thread that holds up nobody, not even the end of the process: a receiver may take for ever to answer.
        """
        now = time.monotonic()
        blocked = {pair for pair, (_, until) in self._failures.items() if until > now} | set(self._sending)
        opened = {(line, sink) for line, sinks in self._sinks().items() for sink in sinks.names}
        groups: dict[tuple[str, str], list[Notification]] = {}
        for notification in due_notifications(self._db, lease_sinks(self._db, opened - blocked, self._worker)):
            groups.setdefault((notification.line, notification.sink), []).append(notification)
        free = max(0, RECEIVERS_AT_ONCE - len(self._sending))
        for pair, group in list(groups.items())[:free]:
            thread = threading.Thread(target=self._send, args=(session, pair, group), name="vad-send", daemon=True)
            self._sending[pair] = thread
            thread.start()
        return min(free, len(groups))

    def _send(self, session: Any, pair: tuple[str, str], group: list[Notification]) -> None:
        try:
            attempts = self._send_group(session, group)
            if attempts:
                record_attempts(self._db, attempts)
            self.sent += sum(attempt.state == "sent" for _, attempt in attempts)
        except Exception:
            logger.exception("attempts cannot be written down now: they are made again")
            time.sleep(IDLE_SECONDS)
        finally:
            # Before anybody is woken, who would else pass over what has come for this receiver meanwhile.
            del self._sending[pair]
            self.wake()

    def _send_group(self, session: Any, group: list[Notification]) -> list[tuple[Notification, Attempt]]:
        """Send notifications of one line and sink, up to the first that shows that the receiver is not there."""
        pair = (group[0].line, group[0].sink)
        sinks = self._sinks().get(pair[0], Sinks())
        done: list[tuple[Notification, Attempt]] = []
        deadline = time.monotonic() + SINK_LEASE_SECONDS / 2
        for notification in group:
            if self._stopping or notification.sink not in sinks.names or time.monotonic() > deadline:
                break
            if notification.sink == FILE:
                attempt = write_result_file(notification)
            elif notification.sink == MQTT and self._mqtt is not None:
                attempt = self._mqtt.publish(notification)
            else:
                attempt = post_webhook(session, sinks, notification)
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
