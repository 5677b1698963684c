"""Notice complete files in landing folders: events of the operating system as a hint, a scan as the truth.

Events get lost (network shares, overflowing queues, folders that are moved in), so nothing depends on them but speed.
A file is complete when its last bytes are those that end an image, or when it stood still as long as the bulk lane
wants.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

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
from watchdog.observers.api import BaseObserver, ObservedWatch

from vad_lib.images.paths import is_image_name
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.landing.completeness import ends_whole
from vad_lib.landing.scanning import FileKey, is_temporary, scan_folder
from vad_lib.scorer.taking_up import Candidate, known_keys

MAX_HINTS = 5000
"""Of one line; what comes above is found by a scan."""
MAX_WAITING = 2000
"""Complete files of one line that are remembered until they are taken up; the others are found by a later scan."""
SCAN_SECONDS, BLIND_SCAN_SECONDS, LONGEST_SCAN_SECONDS = 5.0, 1.0, 60.0
SCAN_SHARE = 0.004
"""Of one core, for the scans of all lines together, while nothing lands."""
WANTED_EVENTS = [FileClosedEvent, FileMovedEvent, FileCreatedEvent, DirCreatedEvent, DirMovedEvent]
logger = logging.getLogger("vad.scorer.watching")


@dataclass
class FolderWatch:
    """What is known about one line's landing folder. Used by one thread, but for ``hint``."""

    line: str
    folder: Path
    settle_seconds: float
    wake: Callable[[], None] = lambda: None
    skip_folders: Collection[Path] = ()
    """Folders inside ``folder`` that are not looked into."""
    waiting: dict[FileKey, float] = field(default_factory=dict)
    """Complete files that nobody has taken up, and when they landed."""
    next_scan: float = 0.0
    """On the monotonic clock."""
    scan_seconds: float = 0.0
    """What the last scan took."""
    files: int = 0
    error: str = ""
    events: bool = False
    """Whether the operating system tells about new files."""
    _scan_wanted: bool = False
    _hints: dict[str, None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _settled: set[int] = field(default_factory=set)
    _still: dict[str, tuple[FileKey, float]] = field(default_factory=dict)

    def hint(self, path: str, *, scan: bool = False) -> None:
        """Something happened at an absolute path. May be called by any thread."""
        with self._lock:
            if scan or len(self._hints) >= MAX_HINTS:
                self._scan_wanted = True
            else:
                self._hints[path] = None
        self.wake()

    def take_hints(self) -> int:
        """Look at files that events named; return how many of them are complete."""
        with self._lock:
            hints, self._hints = self._hints, {}
        skipped = self._skipped() if hints else frozenset()
        complete = 0
        for path in hints:
            found = self._look_at(path, skipped)
            if found is None or found.key in self.waiting or hash(found.key) in self._settled:
                continue
            if len(self.waiting) >= MAX_WAITING:
                self._scan_wanted = True
                break
            self.waiting[found.key] = found.landed_at
            complete += 1
        return complete

    def _skipped(self) -> frozenset[str]:
        """``skip_folders`` relative to the folder, as far as they lie in it."""
        root = os.path.realpath(self.folder)
        relative = (os.path.relpath(os.path.realpath(each), root) for each in self.skip_folders)
        return frozenset(each.replace(os.sep, "/") for each in relative if not each.startswith(".."))

    def _look_at(self, path: str, skipped: frozenset[str]) -> Candidate | None:
        relative = os.path.relpath(path, self.folder).replace(os.sep, "/")
        parts = relative.split("/")
        if relative.startswith("..") or any(is_temporary(part) for part in parts):
            return None
        if not is_image_name(relative) or not _is_text(relative):
            return None
        if skipped and any("/".join(parts[:depth]) in skipped for depth in range(1, len(parts))):
            return None
        try:
            facts = os.lstat(path)
        except OSError:
            return None
        # Links and everything that is no file are left to the scan, which looks closer.
        if not stat.S_ISREG(facts.st_mode):
            return None
        if not facts.st_size or not ends_whole(Path(path)):
            self.next_scan = min(self.next_scan, time.monotonic() + self.settle_seconds + 0.05)
            return None
        return Candidate(_key(relative, facts), _landed_at(facts))

    def scan(self, db: InspectionDatabase, lines: int) -> None:
        """Look through the whole folder. ``lines``: how many folders share the time for scans."""
        self._scan_wanted = False
        started, cpu = time.monotonic(), time.thread_time()
        seen = scan_folder(self.folder, skip_folders=self.skip_folders)
        now = time.time()
        self.error = seen.error
        fresh = []
        if not seen.error:
            self.files = len(seen.files)
            present = {hash(file.key) for file in seen.files}
            self._settled &= present
            unknown = [file for file in seen.files if not file.rule and hash(file.key) not in self._settled]
            taken = known_keys(db, self.line, [file.path for file in unknown])
            self._settled.update(hash(file.key) for file in unknown if file.key in taken)
            fresh = [file.key for file in unknown if file.key not in taken]
            fresh.sort(key=lambda key: (key.mtime_ns, key.path))
        young = more = False
        still: dict[str, tuple[FileKey, float]] = {}
        complete: list[Candidate] = []
        for key in fresh:
            before = self._still.get(key.path)
            since = before[1] if before is not None and before[0] == key else now
            whole = max(now - key.mtime_ns / 1e9, now - since) >= self.settle_seconds
            if not (whole or ends_whole(self.folder / key.path)):
                young = True
                if len(still) < MAX_WAITING:
                    still[key.path] = (key, since)
                continue
            if len(complete) >= MAX_WAITING:
                more = True
                break
            try:
                facts = os.stat(self.folder / key.path)
            except OSError:
                continue
            if _key(key.path, facts) != key:
                # Written to since the scan saw it: its end says nothing about what was seen.
                young = True
                continue
            complete.append(Candidate(key, _landed_at(facts)))
        complete.sort(key=lambda candidate: candidate.landed_at)
        self.waiting = {candidate.key: candidate.landed_at for candidate in complete}
        self._still = still
        self.scan_seconds = time.thread_time() - cpu
        pause = SCAN_SECONDS if self.events else BLIND_SCAN_SECONDS
        pause = min(LONGEST_SCAN_SECONDS, max(pause, self.scan_seconds * lines / SCAN_SHARE))
        if young or more:
            pause = min(pause, max(self.settle_seconds, 0.5, 10 * self.scan_seconds))
        self.next_scan = started + pause

    def due(self, now: float) -> bool:
        """Whether it is time for a scan, on the monotonic clock."""
        return self._scan_wanted or now >= self.next_scan

    def take(self, count: int) -> list[Candidate]:
        """Take the oldest complete files out."""
        keys = list(self.waiting)[:count]
        return [Candidate(key, self.waiting.pop(key)) for key in keys]

    def settle(self, keys: list[FileKey]) -> None:
        """Remember that these are in the ledger."""
        self._settled.update(map(hash, keys))


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _key(path: str, facts: os.stat_result) -> FileKey:
    return FileKey(path, facts.st_size, max(-(2**63), min(2**63 - 1, facts.st_mtime_ns)))


def _landed_at(facts: os.stat_result) -> float:
    """The inode's last change: writing and renaming both move it, and copied modification times do not."""
    return min(time.time(), facts.st_ctime)


class _Handler(FileSystemEventHandler):
    def __init__(self, watch: FolderWatch) -> None:
        self._watch = watch

    def on_any_event(self, event: FileSystemEvent) -> None:
        path = os.fsdecode(event.dest_path or event.src_path)
        # What lay in a folder before it was moved in, or before its watch began, has no event of its own.
        self._watch.hint(path, scan=event.is_directory)


class Watcher:
    """Hands events of the operating system to the watches of their folders."""

    def __init__(self) -> None:
        self._observer: BaseObserver | None = None
        self._watched: dict[str, tuple[FolderWatch, ObservedWatch, tuple[int, int]]] = {}

    def keep(self, watches: list[FolderWatch]) -> None:
        """Watch exactly these folders, and again where the watch of one has ended (a folder that was replaced)."""
        wanted = {watch.line: watch for watch in watches}
        for line, (watch, _, identity) in list(self._watched.items()):
            if wanted.get(line) is not watch or _identity(watch.folder) != identity:
                self._forget(line)
        for line, watch in wanted.items():
            if line not in self._watched:
                self._begin(watch)

    def _begin(self, watch: FolderWatch) -> None:
        identity = _identity(watch.folder)
        if identity is None:
            return
        if self._observer is None:
            self._observer = Observer()
            self._observer.start()
        try:
            scheduled = self._observer.schedule(
                _Handler(watch), str(watch.folder), recursive=True, event_filter=list(WANTED_EVENTS)
            )
        except OSError as error:
            # No watches left (fs.inotify.max_user_watches), or a file system without events: scans alone do it.
            if not watch.error:
                logger.warning("no events from a folder", extra={"line": watch.line, "error": str(error)})
            return
        watch.events = True
        watch.next_scan = 0.0
        self._watched[watch.line] = (watch, scheduled, identity)

    def _forget(self, line: str) -> None:
        watch, scheduled, _ = self._watched.pop(line)
        watch.events = False
        watch.next_scan = 0.0
        if self._observer is not None:
            try:
                self._observer.unschedule(scheduled)
            except (KeyError, OSError):
                logger.debug("a watch had ended before", extra={"line": line})

    def stop(self) -> None:
        """End all watches."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(5)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        facts = folder.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino
