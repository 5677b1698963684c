"""Whether a file is whole, told by its end: quicker than waiting until it has stood still."""

from __future__ import annotations

import os
from pathlib import Path

PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
START_OF_SCAN = 0xDA
PADDING_BYTES = 4096
"""Some cameras fill the last block behind the end of a picture with zeros: that is neither damage nor still writing."""
MOST_SEGMENTS = 500


def ends_whole(file: Path) -> bool:
    """Whether the last bytes are those that end a PNG or JPEG file.

    False says nothing: a file may be followed by other bytes, or be broken; then only time tells whether it is still
    being written. A file that cannot be read is not whole. In a JPEG the end counts only behind the start of a scan:
    a thumbnail in front of the picture ends in the same way.

    Writers that close a file after each piece, or make room for all of it first, are why "its writer closed it" alone
    does not do.
    """
    try:
        # A pipe would wait for its writer.
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        size = os.fstat(handle).st_size
        start = os.pread(handle, 8, 0)
        tail = max(0, size - PADDING_BYTES)
        end = os.pread(handle, PADDING_BYTES, tail).rstrip(b"\0")
        if start.startswith(PNG_START):
            return end.endswith(PNG_END)
        return start.startswith(JPEG_START) and end.endswith(JPEG_END) and _scan_begins_before(handle, tail + len(end))
    except OSError:
        return False
    finally:
        os.close(handle)


def _scan_begins_before(handle: int, end: int) -> bool:
    """Follow the segments of a JPEG, each of which says how long it is, to the start of a scan."""
    position = 2
    for _ in range(MOST_SEGMENTS):
        head = os.pread(handle, 4, position)
        if len(head) < 4 or head[0] != 0xFF:
            return False
        if head[1] == START_OF_SCAN:
            return position + 4 < end
        # any number of fill bytes may stand before a marker
        position += 1 if head[1] == 0xFF else 2 + int.from_bytes(head[2:], "big")
    return False
