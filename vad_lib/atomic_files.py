"""Files that are there whole or not at all, whatever dies meanwhile."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path


def write_whole(file: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file aside and put it in place by one rename.

    Args:
        file: replaced where it exists; its folder must exist.
        data: all of the content.
        durable: wait until the disk has it, so that it is there after a power cut too. Without it a power cut may leave
            a file of the right length with other content.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    # not made of the file's own name, which may be as long as names can be
    partial = file.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    if durable:
        _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some network shares cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
