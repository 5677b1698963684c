"""Read one landed file, making sure that what was read is the version that landed."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from vad_lib.errors import UnreadableImageError, UnsafePathError
from vad_lib.images.decoding import DecodedImage, decode_bytes
from vad_lib.images.paths import read_regular_file, resolve_inside
from vad_lib.inspection.results import Item, Refusal
from vad_lib.landing.scanning import LEAVES_FOLDER
from vad_lib.landing.ticking import VANISHED


@dataclass(frozen=True)
class ReadItem:
    """An item with its pixels."""

    item: Item
    image: DecodedImage


def read_item(item: Item) -> ReadItem | Refusal:
    """Read and decode the file of an item, or say why that cannot be done."""
    try:
        if item.folder is not None:
            # A link may have taken the file's place since the folder was looked at.
            resolve_inside(item.folder, item.image_path)
        before = _version_of(item.file)
        data = read_regular_file(item.file)
        after = _version_of(item.file)
    except UnsafePathError:
        return Refusal(item, LEAVES_FOLDER, "a symbolic link that leaves the folder")
    except OSError as error:
        return _unread(item, error, error.strerror or str(error))
    except UnreadableImageError as error:
        if _is_changed(item, _version_of_or_none(item.file)):
            return _changed(item)
        return _unread(item, error.__cause__, error.reason)
    if before != after or _is_changed(item, after):
        return _changed(item)
    try:
        return ReadItem(item, decode_bytes(data, item.file))
    except UnreadableImageError as error:
        lasting = not isinstance(error.__cause__, MemoryError)
        return Refusal(item, "unreadable_image", error.reason, lasting=lasting)


def _unread(item: Item, cause: BaseException | None, reason: str) -> Refusal:
    if isinstance(cause, FileNotFoundError | NotADirectoryError):
        return Refusal(item, VANISHED, "it was gone before it could be read")
    # What a busy machine or a share that went away raises says nothing about the file.
    transient = isinstance(cause, OSError) and cause.errno not in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR)
    return Refusal(item, "unreadable_image", reason, lasting=not transient)


def _changed(item: Item) -> Refusal:
    return Refusal(item, "changed", "it was written to after it had landed; what it holds now is taken up by itself")


def _version_of(file: Path) -> tuple[int, int]:
    facts = os.stat(file)
    return facts.st_size, facts.st_mtime_ns


def _version_of_or_none(file: Path) -> tuple[int, int] | None:
    try:
        return _version_of(file)
    except OSError:
        return None


def _is_changed(item: Item, version: tuple[int, int] | None) -> bool:
    if item.key is None or version is None:
        return False
    landed = (item.key.size, min(2**63 - 1, item.key.mtime_ns))
    return landed != (version[0], max(-(2**63), min(2**63 - 1, version[1])))
