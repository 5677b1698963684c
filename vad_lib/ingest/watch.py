"""Notice complete files in watch folders: events of the operating system as a hint, a scan as the truth.

Events get lost (network shares, overflowing queues, folders that are moved in), so nothing depends on them but speed.
A file is complete when its last bytes are those that end an image, or when it stood still for the stability window
(``settle_seconds`` of the plan).
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

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
from vad_lib.ingest.completeness import ends_whole
from vad_lib.ingest.scan import FileSeen, FileVersion, is_hidden, is_temporary, printable, scan_folder

MAX_HINTS = 5000
"""Of one line; what comes above is found by a scan."""
MAX_WAITING = 2000
"""Complete files of one line that are remembered until they are registered; the others are found by a later scan."""
SCAN_SECONDS, BLIND_SCAN_SECONDS, LONGEST_SCAN_SECONDS = 5.0, 1.0, 60.0
SCAN_SHARE = 0.004
"""Of one core, for the scans of all lines together, while nothing arrives."""
WANTED_EVENTS = [FileClosedEvent, FileMovedEvent, FileCreatedEvent, DirCreatedEvent, DirMovedEvent]
logger = logging.getLogger("vad.ingest.watch")


class Arrival(NamedTuple):
    """A complete file, and when its last change or renaming was (seconds since the epoch)."""

    version: FileVersion
    arrived_at: float


class Sorted(NamedTuple):
    """What became of the new files of a scan: complete images (oldest first), files refused by name or kind, files
    that are still being written (path -> version, since when it has stood still), and whether some were left out."""

    complete: list[FileVersion]
    refused: list[FileSeen]
    writing: dict[str, tuple[FileVersion, float]]
    more: bool = False


def sort_out(
    files: Sequence[FileSeen],
    *,
    before: Mapping[str, tuple[FileVersion, float]],
    now: float,
    settle_seconds: float,
    is_whole: Callable[[FileVersion], bool],
    most: int = MAX_WAITING,
) -> Sorted:
    """Tell complete files from those that are still being written.

    Args:
        files: that nobody has registered.
        before: ``Sorted.writing`` of the scan before: it tells of a file with a time in the future whether it stands
            still.
        now: seconds since the epoch.
        settle_seconds: the stability window.
        is_whole: whether an image is complete already, though it has not stood still for long.
        most: complete images that are wanted.
    """
    found = Sorted([], [], {})
    for seen in sorted(files, key=lambda each: (each.version.mtime_ns, each.version.path)):
        version = seen.version
        earlier = before.get(version.path)
        # A clock that was set back must not make a file wait for ever.
        since = min(earlier[1], now) if earlier is not None and earlier[0] == version else now
        still = max(now - version.mtime_ns / 1e9, now - since)
        if still < settle_seconds and (seen.rule or not is_whole(version)):
            if len(found.writing) < most:
                found.writing[version.path] = (version, since)
        elif seen.rule:
            found.refused.append(seen)
        elif len(found.complete) < most:
            found.complete.append(version)
        else:
            return found._replace(more=True)
    return found


@dataclass
class FolderWatch:
    """What is known about one line's watch folder. Used by one thread, but for ``hint``."""

    line: str
    folder: Path
    settle_seconds: float
    known: Callable[[Sequence[FileVersion]], Collection[FileVersion]]
    """Returns those of some versions that are registered already."""
    wake: Callable[[], None] = lambda: None
    skip_folders: Collection[Path] = ()
    """Folders inside ``folder`` that are not looked into."""
    ignored_suffixes: Collection[str] = ()
    """Endings, in lower case, of files that are passed over."""
    waiting: dict[FileVersion, float] = field(default_factory=dict)
    """Complete files that nobody has registered, and when they arrived."""
    refused: list[FileSeen] = field(default_factory=list)
    """Files that are refused by name or kind and that nobody has registered."""
    writing: int = 0
    """Files that are not complete yet."""
    next_scan: float = 0.0
    """On the monotonic clock."""
    scan_seconds: float = 0.0
    """What the last scan took."""
    files: int = 0
    error: str = ""
    """Why the folder cannot be read; then nothing is concluded about the files in it."""
    unreadable_folders: tuple[str, ...] = ()
    events: bool = False
    """Whether the operating system tells about new files."""
    _scan_wanted: bool = False
    _hints: dict[str, None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _registered: set[int] = field(default_factory=set)
    _writing: dict[str, tuple[FileVersion, float]] = field(default_factory=dict)

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
            if found is None or found.version in self.waiting or hash(found.version) in self._registered:
                continue
            if len(self.waiting) >= MAX_WAITING:
                self._scan_wanted = True
                break
            self.waiting[found.version] = found.arrived_at
            complete += 1
        return complete

    def _skipped(self) -> frozenset[str]:
        """``skip_folders`` relative to the folder, as far as they lie in it."""
        root = os.path.realpath(self.folder)
        relative = (os.path.relpath(os.path.realpath(each), root) for each in self.skip_folders)
        return frozenset(each.replace(os.sep, "/") for each in relative if not each.startswith(".."))

    def _look_at(self, path: str, skipped: frozenset[str]) -> Arrival | None:
        relative = os.path.relpath(path, self.folder).replace(os.sep, "/")
        parts = relative.split("/")
        if relative.startswith("..") or any(map(is_hidden, parts)) or is_temporary(parts[-1]):
            return None
        if not is_image_name(relative) or printable(relative) != relative:
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
        return Arrival(FileVersion.of(relative, facts), _arrived_at(facts))

    def scan(self, lines: int = 1) -> None:
        """Look through the whole folder. ``lines``: how many folders share the time for scans."""
        self._scan_wanted = False
        started, cpu = time.monotonic(), time.thread_time()
        seen = scan_folder(self.folder, skip_folders=self.skip_folders, ignored_suffixes=self.ignored_suffixes)
        self.error, self.unreadable_folders = seen.error, seen.unreadable_folders
        more = False
        if not seen.error:
            self.files = len(seen.files)
            self._registered &= {hash(file.version) for file in seen.files}
            unknown = [file for file in seen.files if hash(file.version) not in self._registered]
            known = self.known([file.version for file in unknown])
            self.mark_registered([file.version for file in unknown if file.version in known])
            found = sort_out(
                [file for file in unknown if file.version not in known],
                before=self._writing,
                now=time.time(),
                settle_seconds=self.settle_seconds,
                is_whole=lambda version: ends_whole(self.folder / version.path),
            )
            self.refused, self._writing, more = found.refused, found.writing, found.more
            self.waiting = {}
            for version in found.complete:
                try:
                    facts = os.stat(self.folder / version.path)
                except OSError:
                    continue
                if FileVersion.of(version.path, facts) == version:
                    self.waiting[version] = _arrived_at(facts)
                else:
                    # Written to since the scan saw it: its end says nothing about what was seen.
                    self._writing[version.path] = (version, time.time())
            self.writing = len(self._writing)
        self.scan_seconds = time.thread_time() - cpu
        pause = SCAN_SECONDS if self.events else BLIND_SCAN_SECONDS
        pause = min(LONGEST_SCAN_SECONDS, max(pause, self.scan_seconds * lines / SCAN_SHARE))
        if self._writing or more:
            pause = min(pause, max(self.settle_seconds, 0.5, 10 * self.scan_seconds))
        self.next_scan = started + pause

    def due(self, now: float) -> bool:
        """Whether it is time for a scan, on the monotonic clock."""
        return self._scan_wanted or now >= self.next_scan

    def mark_registered(self, versions: Collection[FileVersion]) -> None:
        """Remember that these are in the queue, or were."""
        self._registered.update(map(hash, versions))
        for version in versions:
            self.waiting.pop(version, None)
        self.refused = [seen for seen in self.refused if seen.version not in versions]


def _arrived_at(facts: os.stat_result) -> float:
    """The inode's last change: writing and renaming both move it, and copied modification times do not."""
    return min(time.time(), facts.st_ctime)


class _Handler(FileSystemEventHandler):
    def __init__(self, watch: FolderWatch) -> None:
        self._watch = watch

    def on_any_event(self, event: FileSystemEvent) -> None:
        path = os.fsdecode(event.dest_path or event.src_path)
        # What lay in a folder before it was moved in, or before its watch began, has no event of its own.
        self._watch.hint(path, scan=event.is_directory)


class FolderEvents:
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
