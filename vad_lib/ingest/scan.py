"""Look through a watch folder. Nothing is opened and nothing is written."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vad_lib.images.paths import SUFFIXES_TEXT, is_image_name

TEMPORARY_SUFFIXES = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".filepart", ".swp", "~")
IGNORED_NAMES = frozenset({"thumbs.db", "desktop.ini"})
RESULT_SUFFIX = ".vad.json"
"""Of files that say beside an image what became of it."""
MAX_DEPTH = 64
LONGEST_PATH = 1024
"""Bytes: PostgreSQL refuses longer keys."""

LEAVES_FOLDER = "leaves_folder"
NOT_AN_IMAGE = "not_an_image"
SCAN_RULES = frozenset({LEAVES_FOLDER, NOT_AN_IMAGE, "broken_link", "linked_folder", "unreadable_name", "not_a_file"})
"""Rules by which a file is refused without being opened."""


class FileVersion(NamedTuple):
    """One version of one file. Another file put in its place, or any writing to it, is another version.

    Name, size and modification time are not enough: a camera may write each part to one name, all pictures of a raw
    format have one size, and some file systems keep whole seconds.
    """

    path: str
    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int

    @classmethod
    def of(cls, path: str, facts: os.stat_result) -> FileVersion:
        """Return the version that ``facts`` describe; ``path`` is relative to the watch folder."""
        # No database's integer holds what some file systems give: times beyond the year 2262, inodes of 64 bits.
        mtime, ctime = (max(-(2**63), min(2**63 - 1, value)) for value in (facts.st_mtime_ns, facts.st_ctime_ns))
        inode = facts.st_ino - 2**64 if facts.st_ino >= 2**63 else facts.st_ino
        return cls(printable(path), facts.st_size, mtime, inode, ctime)

    @classmethod
    def of_row(cls, row: Any) -> FileVersion:
        """Return the version that a row of ``incoming_files`` names."""
        return cls(*(getattr(row, name) for name in cls._fields))


class FileSeen(NamedTuple):
    """A file as the scan saw it. ``rule`` and ``reason`` are empty for an image that may be read.

    ``version.path`` is relative to the watch folder, with ``/``; bytes that are no UTF-8 are shown as ``\\xNN``.
    """

    version: FileVersion
    rule: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Scan:
    """What one look at the folder saw.

    Attributes:
        folder: absolute.
        files: in no order; images and everything that is refused by its name or kind alone.
        error: why the folder could not be read; then ``files`` says nothing, least of all that nothing is there.
        unreadable_folders: folders inside that could not be read, with the reason.
        temporary: how many files were left alone for their temporary names.
    """

    folder: Path
    files: tuple[FileSeen, ...] = ()
    error: str = ""
    unreadable_folders: tuple[str, ...] = ()
    temporary: int = 0


def is_hidden(name: str) -> bool:
    """Whether the name of a file or folder hides it."""
    return name.startswith(".")


def is_temporary(name: str) -> bool:
    """Whether the name of a file says that a writer is still at work, or that the system put it there.

    Folders may be called like that: ``bracket.part`` is a folder of brackets.
    """
    lower = name.lower()
    return is_hidden(name) or lower.startswith("~$") or lower.endswith(TEMPORARY_SUFFIXES) or lower in IGNORED_NAMES


def scan_folder(folder: Path, *, skip_folders: Collection[Path] = (), ignored_suffixes: Collection[str] = ()) -> Scan:
    """Look through ``folder`` at any depth.

    Hidden folders, ``skip_folders`` and symbolic links to folders are not entered (so there are no loops). A link to
    a file outside is refused; a link to a file inside is a file. A file that goes while it is looked at is passed over,
    and so are files that end in one of ``ignored_suffixes`` (in lower case).
    """
    root = Path(os.path.abspath(folder))
    skipped = {os.path.realpath(each) for each in skip_folders}
    real_root = os.path.realpath(root)
    files: list[FileSeen] = []
    unreadable: list[str] = []
    temporary = 0
    ignored = tuple(ignored_suffixes)
    pending: list[tuple[str, str, int]] = [(str(root), "", 0)]
    while pending:
        place, prefix, depth = pending.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    name = entry.name
                    if name.endswith(RESULT_SUFFIX):
                        continue
                    path = prefix + name
                    try:
                        is_folder = entry.is_dir(follow_symlinks=False)
                        if is_hidden(name) if is_folder else is_temporary(name):
                            temporary += not is_folder
                            continue
                        if is_folder:
                            if skipped and os.path.realpath(entry.path) in skipped:
                                continue
                            if depth >= MAX_DEPTH:
                                unreadable.append(f"{path}: more than {MAX_DEPTH} folders deep")
                                continue
                            pending.append((entry.path, path + "/", depth + 1))
                            continue
                        if name.lower().endswith(ignored):
                            continue
                        files.append(_look_at(entry, path, real_root))
                    except FileNotFoundError:
                        continue
                    except OSError as error:
                        unreadable.append(f"{printable(path)}: {error.strerror or error}")
        except OSError as error:
            reason = error.strerror or str(error)
            if not prefix:
                return Scan(folder=root, error=reason)
            if not isinstance(error, FileNotFoundError):
                unreadable.append(f"{printable(prefix)}: {reason}")
    return Scan(folder=root, files=tuple(files), unreadable_folders=tuple(unreadable), temporary=temporary)


def _look_at(entry: os.DirEntry[str], path: str, real_root: str) -> FileSeen:
    facts = entry.stat(follow_symlinks=False)
    if not stat.S_ISLNK(facts.st_mode):
        return _judge(path, facts)
    version = FileVersion.of(path, facts)
    try:
        target = os.path.realpath(entry.path, strict=True)
        behind = os.stat(target)
    except FileNotFoundError:
        return FileSeen(version, "broken_link", "a symbolic link to nothing")
    except OSError as error:
        reason = f"a symbolic link that cannot be followed: {error.strerror or error}"
        return FileSeen(version, "broken_link", reason)
    if os.path.commonpath([real_root, target]) != real_root:
        return FileSeen(version, LEAVES_FOLDER, "a symbolic link that leaves the folder")
    if stat.S_ISDIR(behind.st_mode):
        reason = "a symbolic link to a folder; its images are found where they are"
        return FileSeen(version, "linked_folder", reason)
    return _judge(path, behind)


def _judge(path: str, facts: os.stat_result) -> FileSeen:
    version = FileVersion.of(path, facts)
    if version.path != path:
        return FileSeen(
            version, "unreadable_name", f"the path is not valid UTF-8, or has more than {LONGEST_PATH} bytes"
        )
    if not stat.S_ISREG(facts.st_mode):
        return FileSeen(version, "not_a_file", "not a regular file")
    if not is_image_name(path):
        return FileSeen(version, NOT_AN_IMAGE, f"not an image format (wanted: {SUFFIXES_TEXT})")
    return FileSeen(version)


def printable(path: str) -> str:
    """Return a path as text that every database takes in a key.

    Bytes that are no UTF-8 become ``\\xNN``; a path above ``LONGEST_PATH`` ends in a digest of itself.
    """
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        path = os.fsencode(path).decode("utf-8", errors="backslashreplace")
    if len(path.encode()) <= LONGEST_PATH:
        return path
    head = path.encode()[: LONGEST_PATH - 40].decode(errors="ignore")
    return f"{head}…{hashlib.sha256(path.encode()).hexdigest()[:32]}"
