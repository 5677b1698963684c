"""Whether a file is whole, told by its end: quicker than waiting until it has stood still."""

from __future__ import annotations

import os
from pathlib import Path

PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"


def ends_whole(file: Path) -> bool:
    """Whether the last bytes are those that end a PNG or JPEG file.

    False says nothing: a file may be followed by other bytes, or be broken; then only time tells whether it is still
    being written. A file that cannot be read is not whole.

    Writers that close a file after each piece, or make room for all of it first, are why "its writer closed it" alone
    does not do.
    """
    try:
        # A pipe would wait for its writer.
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        size = os.fstat(handle).st_size
        start = os.pread(handle, 8, 0)
        end = os.pread(handle, 16, max(0, size - 16))
    except OSError:
        return False
    finally:
        os.close(handle)
    if start.startswith(PNG_START):
        return end.endswith(PNG_END)
    return start.startswith(JPEG_START) and end.endswith(JPEG_END)
