"""Write the files of a chaos test, in the ways that cameras, shares and people write them."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.chaos.plan import (
    COPY,
    COPY_WITH_TIMES,
    EMPTY,
    MOVE_IN,
    OTHER_TYPE,
    RENAME,
    REPLACEMENT,
    TEXT,
    TRAILER,
    TRUNCATED,
    InputFile,
)

SIDE = 64
PIECES = 3
PIECE_SECONDS = 0.08
"""Shorter than a file must stand still, so that a slow writer is still seen as one."""
TRAILER_BYTES = b"serial number 4711\n"


def picture(seed: int, file: InputFile) -> bytes:
    """Return the bytes of the image with the content of a file: the same content is the same bytes at any path."""
    chance = np.random.default_rng((seed, file.content))
    pixels = chance.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) // 4 + np.uint8(file.content % 180)
    stream = io.BytesIO()
    # By content, not by name: what a file is called says nothing about what it holds. Not compressed, all PNG files
    # have the same size, as the pictures of a raw format do.
    Image.fromarray(pixels).save(stream, format="PNG" if file.content % 2 else "JPEG", quality=92, compress_level=0)
    return stream.getvalue()


def content_of(seed: int, file: InputFile) -> bytes:
    """Return what a file holds in the end."""
    if file.kind == EMPTY:
        return b""
    if file.kind in (TEXT, OTHER_TYPE):
        return f"no image, number {file.number} of {seed}\n".encode() * 3
    whole = picture(seed, file)
    if file.kind == TRAILER:
        return whole + TRAILER_BYTES
    return whole[: len(whole) * 2 // 3] if file.kind == TRUNCATED else whole


def sha256_of(seed: int, file: InputFile) -> str:
    """Return the sha256 of what a file holds in the end."""
    return hashlib.sha256(content_of(seed, file)).hexdigest()


def write_input_file(seed: int, file: InputFile, watch_folder: Path, outside: Path) -> None:
    """Write a file.

    Args:
        seed: of the chaos test.
        file: what to write.
        watch_folder: where it arrives.
        outside: a folder on the same disk that nobody watches.
    """
    target = watch_folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    content = content_of(seed, file)
    if file.way in (COPY, COPY_WITH_TIMES, MOVE_IN):
        source = outside / f"{file.line}-{file.number}"
        source.write_bytes(content)
        if file.way == MOVE_IN:
            os.replace(source, target)
        elif file.way == COPY_WITH_TIMES:
            shutil.copy2(source, target)
        else:
            shutil.copyfile(source, target)
        source.unlink(missing_ok=True)
    elif file.way in (RENAME, REPLACEMENT):
        partial = target.with_name(f".{target.name}.part")
        partial.write_bytes(content)
        if file.way == REPLACEMENT:
            facts = target.stat()
            assert facts.st_size == len(content)
            os.utime(partial, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        os.replace(partial, target)
    elif file.way == TRAILER:
        with target.open("ab") as stream:
            stream.write(TRAILER_BYTES)
    else:
        step = len(content) // PIECES + 1
        with target.open("wb") as stream:
            for start in range(0, len(content), step):
                stream.write(content[start : start + step])
                stream.flush()
                time.sleep(PIECE_SECONDS)
