"""Whether a JPEG file is whole: where its parts lie, and a decoding that sees whether the picture data suffice.

libjpeg fills with grey what is missing, and Pillow hides its warnings: half a file that still ends with the end marker
is decoded without complaint. What is missing or left over shows in how libjpeg takes its input. It stops where it needs
more, so each stretch of picture data (one scan, or the part of it between two restart markers) is offered in steps:

- shortly before the end of the stretch it must still be decoding; else bytes are left over, and the stretch in front of
  them was changed or belongs to another place;
- when all of the stretch was offered, and a few bytes more in place of the marker behind it, it must have finished.

What it is doing is told by one more byte: a finished decoder looks for the next marker and takes it, one that decodes
waits for several. The picture is decoded once, as it would be anyway.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from vad_lib.errors import UnreadableImageError

MAX_SCANS = 50
"""Scans above which a file is refused undecoded. Each scan is one pass over the whole picture: cameras and programs
write 1 to 20, and 280 KB can hold 6,000, which take minutes."""

MAX_STRETCHES = 200_000
"""Stretches of picture data above which a file is refused undecoded: one of 64 megapixels with a restart marker in each
row of blocks has 20,000 in 20 scans."""

LINE_ENDS_CHANGED = "damaged (its line ends were changed, as FTP's ASCII mode does: send it in binary mode)"
SLACK = 24
"""Bytes that may be left over at the end of a stretch: some cameras fill words before the end marker."""
FILLER = b"\xff\x00" * 10
"""Ones, which are no code: at most a block or two can be made of them. libjpeg reads up to 8 bytes ahead."""

_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_START_OF_SCAN, _END_OF_IMAGE, _RESTART_INTERVAL = 0xDA, 0xD9, 0xDD
_RESTARTS = range(0xD0, 0xD8)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HUFFMAN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_TABLES = frozenset({_RESTART_INTERVAL, 0xC4, 0xCC, 0xDB, 0xDC, 0xFE, *range(0xE0, 0xF0)})
"""What may stand between two scans: Huffman and quantisation tables, comments, blocks of applications."""
_LEAST_LINE_ENDS = 3


@dataclass
class JpegParts:
    """Where the parts of a JPEG file lie, and what its scans bring.

    Attributes:
        frame: the marker of its frame, 0xC0 to 0xCF; 0 where there is none.
        size: (width, height) in pixels.
        components: number -> (horizontal, vertical) sampling of each component.
        restart_interval: blocks (MCU) between two restart markers in the scans that follow; 0: there are none.
        stretches: start and end of each stretch of picture data, in bytes.
        scans: passes over the picture.
        precision: component -> for each of the 64 coefficients how many low bits are missing yet; -1: all.
        end: the position behind the end marker.
    """

    frame: int = 0
    size: tuple[int, int] = (0, 0)
    components: dict[int, tuple[int, int]] = field(default_factory=dict)
    restart_interval: int = 0
    stretches: list[tuple[int, int]] = field(default_factory=list)
    scans: int = 0
    precision: dict[int, list[int]] = field(default_factory=dict)
    end: int = 0


def read_parts(data: bytes, file: Path) -> JpegParts:
    """Follow the markers of a JPEG file to its end; nothing is decoded.

    Raises:
        UnreadableImageError: the end is missing, the parts do not follow each other, there are more scans than
            ``MAX_SCANS``, or scans are missing.
    """
    parts, position = JpegParts(), 2
    while True:
        found = _next_marker(data, position, file)
        marker, position = data[found + 1], found + 2
        if marker == _END_OF_IMAGE:
            break
        if parts.scans and marker != _START_OF_SCAN and marker not in _TABLES:
            raise UnreadableImageError(file, "damaged (something else begins inside the picture data)")
        if marker == 0x01 or marker in _RESTARTS or marker == 0xD8:  # without a length
            continue
        following = position + int.from_bytes(data[position : position + 2], "big")
        if following > len(data) or following < position + 2:
            raise UnreadableImageError(file, "truncated (the JPEG's end is missing)")
        content, position = data[position + 2 : following], following
        if marker in _FRAMES:
            parts.frame = marker
            parts.size = int.from_bytes(content[3:5], "big"), int.from_bytes(content[1:3], "big")
            parts.components = {content[at]: divmod(content[at + 1], 16) for at in range(6, len(content) - 2, 3)}
        elif marker == _RESTART_INTERVAL:
            parts.restart_interval = int.from_bytes(content[:2], "big")
        elif marker == _START_OF_SCAN:
            blocks = _note_scan(parts, content, file)
            position = _note_stretches(parts, blocks, data, position, file)
    parts.end = position
    if not parts.scans:
        raise UnreadableImageError(file, "truncated (the JPEG has no picture data)")
    if any(any(parts.precision.get(each, [-1])) for each in parts.components):
        raise UnreadableImageError(file, "damaged (scans are missing: only a coarse picture is there)")
    return parts


def _next_marker(data: bytes, position: int, file: Path) -> int:
    """Some cameras leave bytes between two segments: those are passed over, unless their line ends were changed."""
    match = _MARKER.search(data, position)
    if match is None:
        raise UnreadableImageError(file, "truncated (the JPEG's end is missing)")
    if data[position : match.start()].strip(b"\xff") and b"\n" in data and data.count(b"\n") == data.count(b"\r\n"):
        raise _line_ends(file)
    return match.start()


def _note_scan(parts: JpegParts, content: bytes, file: Path) -> int:
    """Note what a scan brings; return of how many blocks (MCU) it is made."""
    parts.scans += 1
    if parts.scans > MAX_SCANS:
        raise UnreadableImageError(file, f"too many scans (more than {MAX_SCANS}: decoding would take too long)")
    brought = content[1:-3:2]
    if len(content) < 6 or len(content) != 2 * content[0] + 4 or not set(brought) <= set(parts.components):
        raise UnreadableImageError(file, "damaged (the start of a scan cannot be read)")
    first, last, low_bits = content[-3], content[-2], content[-1] & 15
    if parts.frame != 0xC2:
        first, last, low_bits = 0, 63, 0
    for component in brought:
        known = parts.precision.setdefault(component, [-1] * 64)
        known[first : last + 1] = [low_bits] * len(known[first : last + 1])
    most = [max(1, *sampling) for sampling in zip(*parts.components.values(), strict=True)]
    if len(brought) > 1:  # units of all components
        return math.prod(math.ceil(side / (8 * whole)) for side, whole in zip(parts.size, most, strict=True))
    own = parts.components[brought[0]]
    sides = zip(parts.size, own, most, strict=True)
    return math.prod(math.ceil(math.ceil(side * part / whole) / 8) for side, part, whole in sides)


def _note_stretches(parts: JpegParts, blocks: int, data: bytes, begin: int, file: Path) -> int:
    """Note the stretches of a scan; return the position of the marker that ends it."""
    start, restarts = begin, 0
    for match in _MARKER.finditer(data, begin):
        end = match.start()
        while end > start and data[end - 1] == 0xFF:  # any number of fill bytes may stand before a marker
            end -= 1
        if len(parts.stretches) >= MAX_STRETCHES:
            raise UnreadableImageError(file, "too many restart markers (decoding would take too long)")
        if end == start:
            raise UnreadableImageError(file, "damaged (a scan without picture data)")
        parts.stretches.append((start, end))
        start = match.end()
        if data[start - 1] in _RESTARTS:
            if data[start - 1] != _RESTARTS[restarts % 8]:
                raise UnreadableImageError(file, "damaged (a part of the picture data is missing)")
            restarts += 1
        else:
            if parts.restart_interval and restarts + 1 < -(-blocks // parts.restart_interval):
                raise UnreadableImageError(file, "damaged (the picture data end before the picture does)")
            # 0x0A is one byte in 256 of picture data: three, each behind a 0x0D by chance, are one file in 16 million.
            lines = data.count(b"\n", begin, end)
            if lines >= _LEAST_LINE_ENDS and lines == data.count(b"\r\n", begin - 1, end):
                raise _line_ends(file)
            return match.start()
    raise UnreadableImageError(file, "truncated (the JPEG's end is missing)")


def _line_ends(file: Path) -> UnreadableImageError:
    return UnreadableImageError(file, LINE_ENDS_CHANGED)


def load_whole(image: JpegImageFile, data: bytes, parts: JpegParts, file: Path) -> None:
    """Decode a JPEG whose header Pillow has read, and make sure that its picture data are those of a whole picture.

    Args:
        image: of ``data``, not loaded yet; it is loaded afterwards.
        data: the bytes of the file.
        parts: of the same bytes.
        file: the name, for messages.

    Raises:
        UnreadableImageError: picture data are missing or left over.
        OSError: libjpeg cannot decode them.
    """
    if parts.frame not in _HUFFMAN_FRAMES:  # arithmetic coding cannot be offered in steps
        image.load()
        return
    (name, extents, _, arguments), *_ = image.tile
    image.load_prepare()
    # Pillow has no public way to give a decoder its input in steps; ImageFile.load is made of the same calls.
    decoder = Image._getdecoder(image.mode, name, arguments, image.decoderconfig)
    try:
        decoder.setimage(image.im, extents)
        _decode_in_steps(_Offered(decoder, data), data, parts, file)
    finally:
        decoder.cleanup()
    image.tile = []
    image.load_end()


class _Offered:
    """A decoder, and what it has taken of the file."""

    def __init__(self, decoder: Image.core.ImagingDecoder | ImageFile.PyDecoder, data: bytes) -> None:
        self._decoder = decoder
        self._data = data
        self.position = 0
        self.ended = False

    def take(self, data: bytes) -> int:
        """Return how many of these bytes it takes."""
        if self.ended:
            return len(data)
        taken, error = self._decoder.decode(data)
        if taken >= 0:
            return int(taken)
        if error < 0:
            raise OSError("broken data stream")
        self.ended = True
        return len(data)

    def up_to(self, end: int) -> None:
        """Offer the file up to a position; it takes whole blocks and keeps the rest for later."""
        if end > self.position:
            self.position += self.take(self._data[self.position : end])

    def has_finished(self, probe: bytes = b"\0") -> bool:
        """Whether it has all of a stretch: the picture is there, or one byte that it is offered alone is taken."""
        if not self.ended and (taken := self.take(probe)):
            self.position += taken
            return True
        return self.ended


def _decode_in_steps(offered: _Offered, data: bytes, parts: JpegParts, file: Path) -> None:
    for start, end in parts.stretches:
        # Behind a byte 0xFF the decoder waits for another one.
        places = range(end - SLACK, max(start, end - 2 * SLACK), -1)
        early = next((at for at in places if data[at - 1] != 0xFF != data[at]), None)
        if early is not None:
            offered.up_to(early)
            if offered.ended or (offered.position == early and offered.has_finished(data[early : early + 1])):
                raise UnreadableImageError(file, "damaged (picture data are left over where the picture ends)")
        rest = data[offered.position : end] + FILLER
        if offered.take(rest) < len(rest) or not offered.has_finished():
            raise UnreadableImageError(file, "damaged (the picture data end before the picture does)")
        offered.position = end
    offered.up_to(parts.end)
    if not offered.ended:
        raise UnreadableImageError(file, "damaged (its scans do not make a picture)")
