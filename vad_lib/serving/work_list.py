"""Lines on which files wait for a worker of this process: no line waits for another."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict


class WorkList:
    """Names of lines, each once, given out in turn. May be used by several threads."""

    def __init__(self, most_at_once: int = 1) -> None:
        """``most_at_once``: workers that may have one line at the same time."""
        self._most = most_at_once
        self._lines: OrderedDict[str, None] = OrderedDict()
        self._paused: dict[str, float] = {}
        self._taken: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._closed = False

    def offer(self, line: str) -> None:
        """Say that files wait on a line, or may wait."""
        with self._changed:
            if line not in self._lines:
                self._lines[line] = None
                self._changed.notify()

    def pause(self, line: str, seconds: float) -> None:
        """Give a line out again only after so many seconds."""
        with self._changed:
            self._paused[line] = time.monotonic() + seconds
            self._lines.setdefault(line)
            self._changed.notify()

    def take(self) -> str | None:
        """Wait for a line, and take it out until it is ``done``; None once the list is closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                free = [line for line in self._lines if self._taken[line] < self._most]
                for line in free:
                    if self._paused.get(line, 0.0) <= now:
                        del self._lines[line]
                        self._paused.pop(line, None)
                        self._taken[line] += 1
                        return line
                self._changed.wait(min((self._paused[line] - now for line in free), default=None))
            return None

    def is_idle(self) -> bool:
        """Whether no line waits, and none is in the hands of a worker."""
        with self._changed:
            return not self._lines and not any(self._taken.values())

    def done(self, line: str) -> None:
        """Say that a worker has left a line that it took."""
        with self._changed:
            self._taken[line] -= 1
            self._changed.notify()

    def close(self) -> None:
        """Let all who wait go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
