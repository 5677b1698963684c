"""The thread that empties the outbox: in order for each line and channel, and no receiver waits for another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.scorer.signals import (
    FILE,
    Channels,
    Outcome,
    Signal,
    delay_before,
    due_signals,
    note_bulk_signals,
    post_signal,
    settle_signals,
    write_result_file,
)

IDLE_SECONDS = 2.0
RECEIVERS_AT_ONCE = 4
logger = logging.getLogger("vad.scorer.sending")


class Sender:
    """Sends what stands in the outbox of those lines that have channels."""

    def __init__(self, db: InspectionDatabase, channels: Callable[[], Mapping[str, Channels]]) -> None:
        """``channels``: those of each line as they are now."""
        self._db = db
        self._channels = channels
        self._stopping = False
        self._awake = threading.Event()
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}
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
                wait = IDLE_SECONDS
                if any(channels.names for channels in self._channels().values()):
                    try:
                        if self.send_due(session, pool):
                            wait = 0.0
                    except Exception:
                        logger.exception("signals cannot be sent now")
                self._awake.wait(wait)
                self._awake.clear()

    def send_due(self, session: Any, pool: ThreadPoolExecutor) -> int:
        """Send everything whose time has come; return how many were sent."""
        note_bulk_signals(self._db)
        now = time.monotonic()
        blocked = [pair for pair, (_, until) in self._failures.items() if until > now]
        groups: dict[tuple[str, str], list[Signal]] = {}
        for signal in due_signals(self._db, blocked=blocked):
            groups.setdefault((signal.line, signal.channel), []).append(signal)
        sent = 0
        for outcomes in pool.map(lambda group: self._send_group(session, group), groups.values()):
            if outcomes:
                settle_signals(self._db, outcomes)
            sent += sum(outcome.state == "sent" for _, outcome in outcomes)
        self.sent += sent
        return sent

    def _send_group(self, session: Any, group: list[Signal]) -> list[tuple[Signal, Outcome]]:
        """Send signals of one line and channel, up to the first that shows that the receiver is not there."""
        pair = (group[0].line, group[0].channel)
        channels = self._channels().get(pair[0], Channels())
        done: list[tuple[Signal, Outcome]] = []
        for signal in group:
            if self._stopping or signal.channel not in channels.names:
                break
            outcome = write_result_file(signal) if signal.channel == FILE else post_signal(session, channels, signal)
            done.append((signal, outcome))
            if outcome.state == "sent":
                self._failures.pop(pair, None)
                continue
            self.failed += 1
            logger.warning(
                "a signal could not be sent",
                extra={"line": signal.line, "channel": signal.channel, "signal": signal.id, "error": outcome.error},
            )
            if not outcome.only_this:
                failures = self._failures.get(pair, (0, 0.0))[0] + 1
                self._failures[pair] = (failures, time.monotonic() + delay_before(failures))
                break
        return done
