"""Whether a file is whole, told by its end: quicker than waiting until it has stood still."""

from __future__ import annotations

import os
from pathlib import Path

from vad_lib.images.paths import format_of, length_in_header

PNG_END, JPEG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82", b"\xff\xd9"
START_OF_SCAN = 0xDA
PADDING_BYTES, PADDING = 65536, b"\x00\xff\x1a"
"""Some cameras fill the last block, or their buffer, behind the end of a picture: with zeros, ones, or a mark by which
old systems end a file. That is neither damage nor still writing."""
MOST_SEGMENTS = 500


def ends_whole(file: Path) -> bool:
    """Whether a PNG or JPEG file has the bytes that end it, or a BMP or WebP file is as long as its header says.

    False says nothing: a file may be followed by other bytes, or be broken; then only time tells whether it is still
    being written. A file that cannot be read is not whole. In a JPEG the end counts only behind the start of a scan:
    a thumbnail in front of the picture ends in the same way. A BMP or WebP file that ends in zeros may be one for which
    room was made first; what a TIFF file holds may lie in any order: time tells.

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
        start = os.pread(handle, 16, 0)
        kind = format_of(start)
        tail = max(0, size - PADDING_BYTES)
        end = os.pread(handle, PADDING_BYTES, tail)
        if kind in ("BMP", "WebP"):
            return size == length_in_header(start) and any(end[-64:])
        end = end.rstrip(PADDING)
        if kind == "PNG":
            return end.endswith(PNG_END)
        return kind == "JPEG" and end.endswith(JPEG_END) and _scan_begins_before(handle, tail + len(end))
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
