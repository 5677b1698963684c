"""Wait until something lands: events of the operating system, or a look now and then where there are none.

Two lookers can take turns, so that one waits while the other tells what it has seen.
"""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BLIND_SECONDS = 1.0
"""Between looks at folders that send no events."""
DEBOUNCE_SECONDS = 0.05
TURN_POLL_SECONDS = 0.05


class LandingEvents:
    """While it is open, tells in which of several folders something happened.

    >>> with LandingEvents({}) as events:
    ...     events.wait(0.0)
    set()
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """``folders``: name -> folder. One that cannot be watched is told as changed every second."""
        self._folders = dict(folders)
        self._blind: set[str] = set()
        self._changed: set[str] = set()
        self._woken = threading.Event()
        self._lock = threading.Lock()
        self._observer: Any = None

    def __enter__(self) -> Self:
        from watchdog.events import (
            DirCreatedEvent,
            DirMovedEvent,
            FileClosedEvent,
            FileCreatedEvent,
            FileMovedEvent,
            FileSystemEvent,
            FileSystemEventHandler,
        )
        from watchdog.observers import Observer

        tell = self._tell

        class Handler(FileSystemEventHandler):
            def __init__(self, name: str) -> None:
                self._name = name

            def on_any_event(self, event: FileSystemEvent) -> None:
                tell(self._name)

        wanted = [FileClosedEvent, FileMovedEvent, FileCreatedEvent, DirCreatedEvent, DirMovedEvent]
        self._observer = Observer()
        try:
            self._observer.start()
        except OSError:
            # No more of them (fs.inotify.max_user_instances).
            self._observer, self._blind = None, set(self._folders)
            return self
        for name, folder in self._folders.items():
            try:
                self._observer.schedule(Handler(name), str(folder), recursive=True, event_filter=wanted)
            except OSError:
                # A folder that is not there yet, a share without events, or no watches left.
                self._blind.add(name)
        return self

    def _tell(self, name: str) -> None:
        with self._lock:
            self._changed.add(name)
        self._woken.set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(5)

    def wait(self, seconds: float) -> set[str]:
        """Return the names of changed folders, after at most so many seconds."""
        if self._woken.wait(max(0.0, min(seconds, BLIND_SECONDS) if self._blind else seconds)):
            time.sleep(DEBOUNCE_SECONDS)
        with self._lock:
            changed, self._changed = self._changed, set()
            self._woken.clear()
        return changed | self._blind


@contextmanager
def whose_turn(file: Path, seconds: float) -> Iterator[bool]:
    """Wait for one's turn; False where it did not come in time. The kernel ends the turn of whoever dies.

    >>> file = Path("/tmp/vad-doctest-turn")
    >>> with whose_turn(file, 0.0) as mine, whose_turn(file, 0.0) as theirs:
    ...     mine, theirs
    (True, False)
    """
    deadline = time.monotonic() + seconds
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() >= deadline:
                    yield False
                    return
                time.sleep(TURN_POLL_SECONDS)
            else:
                yield True
                return
