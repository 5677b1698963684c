"""Write the files of a storm, in the ways that cameras, shares and people write them."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.storm.plan import COPY, COPY_WITH_TIMES, EMPTY, MOVE_IN, OTHER_TYPE, RENAME, TEXT, TRUNCATED, Drop

SIDE = 64
PIECES = 3
PIECE_SECONDS = 0.08
"""Shorter than a file must stand still, so that a slow writer is still seen as one."""


def picture(seed: int, drop: Drop) -> bytes:
    """Return the bytes of the image with the content of a drop: the same content is the same bytes at any path."""
    chance = np.random.default_rng((seed, drop.content))
    pixels = chance.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) // 4 + np.uint8(drop.content % 180)
    stream = io.BytesIO()
    # By content, not by name: what a file is called says nothing about what it holds.
    Image.fromarray(pixels).save(stream, format="PNG" if drop.content % 2 else "JPEG", quality=92)
    return stream.getvalue()


def content_of(seed: int, drop: Drop) -> bytes:
    """Return what a drop's file holds in the end."""
    if drop.kind == EMPTY:
        return b""
    if drop.kind in (TEXT, OTHER_TYPE):
        return f"no image, number {drop.number} of {seed}\n".encode() * 3
    whole = picture(seed, drop)
    return whole[: len(whole) * 2 // 3] if drop.kind == TRUNCATED else whole


def sha256_of_drop(seed: int, drop: Drop) -> str:
    """Return the sha256 of what a drop's file holds in the end."""
    return hashlib.sha256(content_of(seed, drop)).hexdigest()


def land(seed: int, drop: Drop, inbox: Path, outside: Path) -> None:
    """Write a drop's file.

    Args:
        seed: of the storm.
        drop: what to write.
        inbox: the landing folder.
        outside: a folder on the same disk that nobody watches.
    """
    target = inbox / drop.path
    target.parent.mkdir(parents=True, exist_ok=True)
    content = content_of(seed, drop)
    if drop.way in (COPY, COPY_WITH_TIMES, MOVE_IN):
        source = outside / f"{drop.line}-{drop.number}"
        source.write_bytes(content)
        if drop.way == MOVE_IN:
            os.replace(source, target)
        elif drop.way == COPY_WITH_TIMES:
            shutil.copy2(source, target)
        else:
            shutil.copyfile(source, target)
        source.unlink(missing_ok=True)
    elif drop.way == RENAME:
        partial = target.with_name(f".{target.name}.part")
        partial.write_bytes(content)
        os.replace(partial, target)
    else:
        step = len(content) // PIECES + 1
        with target.open("wb") as stream:
            for start in range(0, len(content), step):
                stream.write(content[start : start + step])
                stream.flush()
                time.sleep(PIECE_SECONDS)
