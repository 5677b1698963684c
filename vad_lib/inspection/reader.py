"""Read one file, making sure that what was read lies in its folder and is the version that was registered."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vad_lib.errors import UnreadableImageError, UnsafePathError
from vad_lib.images.decoding import DecodedImage, decode_bytes
from vad_lib.images.paths import read_with_facts
from vad_lib.ingest import FileVersion
from vad_lib.ingest.scan import LEAVES_FOLDER
from vad_lib.inspection_db.schema import CHANGED, UNREADABLE, VANISHED

MAX_READERS = 4
MOST_PIXELS = 64_000_000
"""Held decoded until they are scored; everyday images of a whole chunk together have fewer."""


@dataclass(frozen=True)
class Item:
    """One file to inspect.

    Attributes:
        number: of its row: ``file_id`` of an incoming file, or the row of a table.
        image_path: as its table or the queue names it.
        file: absolute.
        folder: the watch folder that it must lie in, where it arrived in one.
        version: the version that was registered, where it was.
    """

    number: int
    image_path: str
    file: Path
    folder: Path | None = None
    version: FileVersion | None = None


@dataclass(frozen=True)
class Pixels:
    """A file that was read, with its bytes."""

    item: Item
    image: DecodedImage
    data: bytes


@dataclass(frozen=True)
class Unread:
    """Why a file has no pixels.

    Attributes:
        item: the file.
        rule: stable name.
        reason: for people.
        sha256: of its bytes, where they could be read.
        data: the bytes.
        lasting: false where another attempt may go better.
    """

    item: Item
    rule: str
    reason: str
    sha256: str | None = None
    data: bytes | None = None
    lasting: bool = True


def read_item(item: Item) -> Pixels | Unread:
    """Read and decode the file of an item, or say why that cannot be done."""
    try:
        data, facts = read_with_facts(item.file, inside=item.folder)
    except UnsafePathError:
        return Unread(item, LEAVES_FOLDER, "a symbolic link that leaves the folder")
    except UnreadableImageError as error:
        return _changed(item) if _is_changed(item) else _unread(item, error.__cause__, error.reason)
    if item.version is not None and FileVersion.of(item.image_path, facts) != item.version:
        return _changed(item)
    sha = hashlib.sha256(data).hexdigest()
    try:
        return Pixels(item, decode_bytes(data, item.file, sha256=sha), data)
    except UnreadableImageError as error:
        lasting = not isinstance(error.__cause__, MemoryError)
        return Unread(item, UNREADABLE, error.reason, sha, data, lasting)


def _unread(item: Item, cause: BaseException | None, reason: str) -> Unread:
    if isinstance(cause, FileNotFoundError | NotADirectoryError):
        return Unread(item, VANISHED, "it was gone before it could be read")
    # What a busy machine or a share that went away raises says nothing about the file.
    transient = isinstance(cause, OSError) and cause.errno not in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR)
    return Unread(item, UNREADABLE, reason, lasting=not transient)


def _changed(item: Item) -> Unread:
    return Unread(item, CHANGED, "it was written to after it had arrived; what it holds now is inspected by itself")


def _is_changed(item: Item) -> bool:
    try:
        return item.version is not None and FileVersion.of(item.image_path, os.stat(item.file)) != item.version
    except OSError:
        return False


def read_items(items: Sequence[Item]) -> list[Pixels | Unread]:
    """Read files side by side, in their order, until the images that were read have ``MOST_PIXELS`` together.

    Returns:
        One outcome for each of the first items: all of them, unless large images are among them, and at least one.
    """
    read: list[Pixels | Unread] = []
    with ThreadPoolExecutor(MAX_READERS) as pool:
        while len(read) < len(items) and sum(_pixels(each) for each in read) < MOST_PIXELS:
            read += pool.map(read_item, items[len(read) : len(read) + MAX_READERS])
    return read


def _pixels(read: Pixels | Unread) -> int:
    return read.image.width * read.image.height if isinstance(read, Pixels) else 0
