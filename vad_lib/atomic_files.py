"""Files that are there whole or not at all, whatever dies meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

WAIT_SECONDS = 10.0


def write_whole(file: Path, data: bytes, *, durable: bool = True, for_all_of_folder: bool = False) -> None:
    """Write a file aside and put it in place by one rename. Several may write the same file: each writes it whole.

    What a process leaves aside that is killed is taken over by whoever writes the file next.

    Args:
        file: replaced where it exists; its folder must exist.
        data: all of the content.
        durable: wait until the disk has it, so that it is there after a power cut too. Without it a power cut may leave
            a file of the right length with other content.
        for_all_of_folder: give whoever may list the folder, or write into it, the same right to the file.

    Raises:
        OSError: it cannot be written, or another process has been writing it for too long; nothing is left behind.
    """
    # not the file's own name, which may be as long as names can be
    name = hashlib.sha256(os.fsencode(file.name)).hexdigest()[:16]
    partial = file.with_name(f".{name}.partial")
    with _opened_alone(partial) as stream:
        try:
            stream.truncate(0)
            stream.write(data)
            stream.flush()
            if for_all_of_folder:
                os.fchmod(stream.fileno(), file.parent.stat().st_mode & 0o666)
            if durable:
                os.fsync(stream.fileno())
            partial.replace(file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    if durable:
        _sync_folder(file.parent)


@contextlib.contextmanager
def _opened_alone(partial: Path) -> Iterator[BinaryIO]:
    """Open a file that nobody else writes meanwhile; the system ends the lock of a process that dies."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        with partial.open("ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free = _is_at(partial, stream)  # else another writer has put it in place
            except BlockingIOError:
                free = False
            except OSError:  # some network shares know no locks
                free = True
            if free:
                yield stream
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"another process has been writing {partial} for {WAIT_SECONDS:.0f} s")
        time.sleep(0.01)


def _is_at(path: Path, stream: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some network shares cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
