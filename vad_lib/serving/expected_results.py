"""Who waits for the decision about a file that has arrived or will arrive in a moment."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from vad_lib.queue import Decision


class ExpectedResults:
    """May be used by several threads."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], list[Future[Decision]]] = {}
        self._lock = threading.Lock()

    def expect(self, line: str, path: str) -> Future[Decision]:
        """Return what will hold the decision about a path relative to the watch folder."""
        future: Future[Decision] = Future()
        with self._lock:
            self._waiting.setdefault((line, path), []).append(future)
        return future

    def forget(self, line: str, path: str, future: Future[Decision]) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            waiting = self._waiting.get((line, path), [])
            if future in waiting:
                waiting.remove(future)
            if not waiting:
                self._waiting.pop((line, path), None)

    def tell(self, line: str, decided: Decision) -> None:
        """Give a decision to all who wait for it."""
        with self._lock:
            futures = self._waiting.pop((line, decided.path), [])
        for future in futures:
            # Who waited may have turned away just now.
            if future.set_running_or_notify_cancel():
                future.set_result(decided)
