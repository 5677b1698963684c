"""From the bytes of one file to 8-bit pixels. Every part of the system that opens an image opens it here.

The bytes are read once; checksum and pixels come from the same bytes. What each kind of file becomes:

==============================  ==========================================  =========
stored as                       becomes                                     a notice?
==============================  ==========================================  =========
8-bit grey                      1 channel, unchanged                        no
8-bit RGB                       3 channels, unchanged                       no
1, 2 or 4-bit grey              1 channel, stretched to 0..255              yes
16-bit grey                     1 channel; see ``DecodedImage.values``      yes
16-bit colour, or with alpha    the high byte of each value                 yes
palette                         3 channels, the palette's colours           yes
CMYK, YCCK                      3 channels, RGB without a colour profile    yes
alpha, all opaque               the same without alpha                      yes
alpha, some transparent         laid on white                               yes
EXIF orientation                turned upright                              yes
several frames (APNG, MPO)      the first one                               yes
several frames (TIFF, WebP)     refused: which one is meant?                --
colour profile (ICC)            ignored: numbers stay what the camera said  no
content differs from extension  as the content says                         yes
anything else                   refused                                     --
==============================  ==========================================  =========

Refused with a short reason: empty, truncated, damaged (JPEG: see ``images.jpeg``), of another format, more pixels than
``MAX_PIXELS`` or longer and thinner than ``MAX_ASPECT`` (both known from the header, before any pixel is decoded),
folders, pipes, devices, and files that may not be read.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile, jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from vad_lib.errors import UnreadableImageError
from vad_lib.images import jpeg
from vad_lib.images.budget import LARGE_PICTURES
from vad_lib.images.paths import (
    FORMATS_TEXT,
    IMAGE_FORMATS,
    IMAGE_SUFFIXES,
    JPEG_SIGNATURE,
    PNG_SIGNATURE,
    format_of,
    length_in_header,
    read_regular_file,
)

MAX_PIXELS = 64_000_000
"""Width x height above which an image is refused by its header: 17 times the guide's limit of 1920 x 1920."""

MAX_ASPECT = 64
"""Longer side to shorter side above which an image is refused: the guide's limits, 1920 and 32, allow 60. Where the
shorter side is brought to a wanted size, a picture of 1 x 20000 pixels would take all the memory there is."""

PNG_IN_ASCII_MODE = re.compile(rb"\x89PNG[\r\n]*\x1a")
"""How the signature of a PNG file looks after its line ends were changed: that is what it is made for."""
_ORIENTATION = 0x0112
_STRIPS, _TILES, _JPEG_TABLES = (273, 279), (324, 325), 347
"""Tags of a TIFF: where its strips or tiles begin and how long each is, and what their JPEGs have in common."""


StoredPixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
CAMERA_BITS = (8, 10, 12, 14, 16)
"""Bits that cameras have; in files of 16 bits the values of the smaller ones reach a part of the range only."""


def bits_in_use(largest: int) -> int:
    """Return the bits of the camera whose values reach up to ``largest``, 0..65535.

    >>> [bits_in_use(value) for value in (0, 255, 256, 1023, 4095, 65535)]
    [8, 8, 10, 10, 12, 16]
    """
    return next(bits for bits in CAMERA_BITS if largest < 2**bits)


def to_8_bit(values: StoredPixels, bits: int) -> npt.NDArray[np.uint8]:
    """Return values as 8 bit: white is the largest value of ``bits`` bits. uint8 comes back unchanged."""
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    white = 2**bits - 1
    return ((np.minimum(values, white).astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)


def rgb_picture(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """Return uint8 pixels, (H, W) or (H, W, 3), as an RGB picture."""
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


@dataclass(frozen=True)
class DecodedImage:
    """One image, upright.

    Attributes:
        values: what a model takes: of 16-bit grey uint16 (height, width) as stored, else ``pixels``. Cameras of 10 and
            12 bits use a part of the range only; which one is learnt in training (``Preprocessing.grey_bits``).
        width: Pixels, upright.
        height: Pixels, upright.
        channels: 1 or 3.
        sha256: Of the file's bytes, 64 hexadecimal digits.
        mode: Pillow's name of the stored mode, such as 'L', 'RGB', 'I;16', 'P', 'CMYK'.
        notices: What was converted, each a short text that stands alone; empty for plain 8-bit grey and RGB.
    """

    values: StoredPixels = field(repr=False)
    width: int
    height: int
    channels: int
    sha256: str
    mode: str
    notices: tuple[str, ...] = ()

    @cached_property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """uint8, (height, width) for 1 channel, (height, width, 3) in RGB order for 3: what people look at.

        Of 16-bit grey the range that this image uses, in steps of a camera's bits; only who asks pays for it.
        """
        if self.values.dtype == np.uint8:
            return to_8_bit(self.values, 8)
        with LARGE_PICTURES.hold(self.width * self.height):
            return to_8_bit(self.values, bits_in_use(int(self.values.max())))


def decode_image(file: str | Path, *, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Read and decode one image file as the table of this module says.

    Args:
        file: A path that was found to be safe (see ``paths.resolve_inside``).
        max_pixels: Width x height above which the image is refused before decoding.

    Raises:
        UnreadableImageError: with a short ``reason``.
    """
    file = Path(file)
    return decode_bytes(read_regular_file(file), file, max_pixels=max_pixels)


def decode_bytes(
    data: bytes, file: str | Path, *, max_pixels: int = MAX_PIXELS, sha256: str | None = None
) -> DecodedImage:
    """Decode the bytes of one image; ``file`` is its name, for messages and the check of the extension.

    Args:
        data: all of the file.
        file: its name.
        max_pixels: Width x height above which the image is refused before decoding.
        sha256: of ``data``, where it is known already; computed otherwise.

    Raises:
        UnreadableImageError: with a short ``reason``.
    """
    file = Path(file)
    if not data:
        raise UnreadableImageError(file, "empty file")
    parts = jpeg.read_parts(data, file) if data.startswith(JPEG_SIGNATURE) else jpeg.JpegParts()
    image, notices = _open(data, file)
    _refuse_size(image.size, max_pixels, file)
    with LARGE_PICTURES.hold(image.size[0] * image.size[1]):
        values, stored_mode = _decode(image, parts, data, file, notices)
        image.close()
    return DecodedImage(
        values=values,
        width=values.shape[1],
        height=values.shape[0],
        channels=1 if values.ndim == 2 else 3,
        sha256=sha256 or hashlib.sha256(data).hexdigest(),
        mode=stored_mode,
        notices=tuple(notices),
    )


def _decode(
    image: Image.Image, parts: jpeg.JpegParts, data: bytes, file: Path, notices: list[str]
) -> tuple[StoredPixels, str]:
    """Return what is stored, upright, and Pillow's name of its mode."""
    try:
        stored_mode = image.mode
        if getattr(image, "n_frames", 1) > 1:
            image.seek(0)
            notices.append("several frames: the first one is taken")
        if isinstance(image, JpegImageFile):
            jpeg.load_whole(image, data, parts, file)
        elif isinstance(image, TiffImageFile) and image.info.get("compression") == "jpeg":
            _refuse_damaged_jpegs_in(image, data, file)
        image.load()
        if (upright := _upright(image, notices)) is not None:
            image = upright
        return _to_values(image, data, file, notices), stored_mode
    except UnreadableImageError:
        raise
    except MemoryError as error:
        raise UnreadableImageError(file, "not enough memory to decode it") from error
    # Damaged bytes make decoders raise whatever came to hand: OSError, SyntaxError, struct.error, KeyError and more.
    except Exception as error:
        reason = "truncated" if "truncated" in str(error) else f"damaged ({str(error) or type(error).__name__})"
        raise UnreadableImageError(file, reason) from error


def _refuse_damaged_jpegs_in(image: TiffImageFile, data: bytes, file: Path) -> None:
    """Each strip or tile of such a TIFF is a JPEG of its own that leaves its tables to the file; libtiff tells nothing
    of what libjpeg fills in. A strip may be a part of the colours, so that only whether it is whole is asked."""
    tags = image.tag_v2
    tables = bytes(tags.get(_JPEG_TABLES, b"\xff\xd8\xff\xd9"))[:-2]
    begins, lengths = (tags[each] for each in (_STRIPS if _STRIPS[0] in tags else _TILES))
    for begin, length in zip(begins, lengths, strict=True):
        strip = tables + data[begin + 2 : begin + length]
        parts = jpeg.read_parts(strip, file)
        part = JpegImageFile(io.BytesIO(strip))
        _refuse_size(part.size, MAX_PIXELS, file)
        jpeg.load_whole(part, strip, parts, file)


def _open(data: bytes, file: Path) -> tuple[Image.Image, list[str]]:
    """Read the header only, by the parser that the signature asks for: no other format's parser ever runs."""
    kind = format_of(data)
    if not kind:
        if PNG_IN_ASCII_MODE.match(data) and not PNG_SIGNATURE.startswith(data):
            raise UnreadableImageError(file, jpeg.LINE_ENDS_CHANGED)
        raise UnreadableImageError(file, f"not a {FORMATS_TEXT} image ({_what_it_looks_like(data)})")
    if _has_longer_line_ends(data):
        raise UnreadableImageError(file, jpeg.LINE_ENDS_CHANGED)
    if kind == "WebP":
        _refuse_size(_size_of_webp(data), MAX_PIXELS, file)  # its parser makes room for all of it
    try:
        image: Image.Image = _PARSERS[kind](io.BytesIO(data))
        several = kind in ("TIFF", "WebP") and getattr(image, "is_animated", False)
    except Exception as error:  # see decode_bytes
        raise UnreadableImageError(file, f"damaged header ({str(error) or type(error).__name__})") from error
    if several:
        raise UnreadableImageError(file, "several pictures in one file: save the one that is meant by itself")
    suffix = file.suffix.lower()
    notices = []
    if suffix in IMAGE_SUFFIXES and suffix not in IMAGE_FORMATS[kind]:
        notices.append(f"named {suffix}, but the content is {kind}")
    return image, notices


_PARSERS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "PNG": PngImageFile,
    "JPEG": jpeg_factory,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "WebP": WebPImageFile,
}


def _has_longer_line_ends(data: bytes) -> bool:
    """Whether a BMP or WebP file is longer than it says by one byte for each of its line ends.

    Its decoder would not notice: it passes over what is behind the end.
    """
    ends = data.count(b"\n") if 0 < length_in_header(data[:16]) < len(data) else 0
    return ends > 0 and ends == data.count(b"\r\n") == len(data) - length_in_header(data[:16])


def _size_of_webp(data: bytes) -> tuple[int, int]:
    """Return (width, height) as the header says; (0, 0) where it is none that is known."""
    kind, number = data[12:16], int.from_bytes
    if kind == b"VP8X":
        return number(data[24:27], "little") + 1, number(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = number(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return number(data[26:28], "little") & 0x3FFF, number(data[28:30], "little") & 0x3FFF


def _refuse_size(size: tuple[int, int], max_pixels: int, file: Path) -> None:
    width, height = size
    if width * height > max_pixels:
        megapixels = f"{width} x {height} = {width * height / 1e6:.0f} megapixels"
        raise UnreadableImageError(file, f"too many pixels ({megapixels}, at most {max_pixels / 1e6:.0f})")
    if max(width, height) > MAX_ASPECT * min(width, height):
        reason = f"too long and thin ({width} x {height} pixels, at most {MAX_ASPECT} times as long as wide)"
        raise UnreadableImageError(file, reason)


def _what_it_looks_like(data: bytes) -> str:
    for signature, name in (
        (b"GIF8", "GIF"),
        (b"II+\0", "BigTIFF"),
        (b"MM\0+", "BigTIFF"),
        (b"%PDF", "PDF"),
        (b"PK\x03\x04", "a zip archive"),
        (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself"),
    ):
        if data.startswith(signature):
            return f"it looks like {name}"
    head = data[:512]
    if not head.strip(b"\0"):
        return "it begins with zeros, as a file does that was not written completely"
    if PNG_SIGNATURE.startswith(head) or JPEG_SIGNATURE.startswith(head):
        return "only its first bytes are there"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else a character that was cut in two
            return "unknown content"
    return "it is text"


def _upright(image: Image.Image, notices: list[str]) -> Image.Image | None:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
        if orientation in (None, 1):
            return None
        turned = ImageOps.exif_transpose(image)
    except Exception:  # a camera's broken EXIF block says nothing about the pixels
        notices.append("unreadable EXIF data: ignored")
        return None
    if orientation in range(2, 9):
        notices.append(f"EXIF orientation {orientation}: turned upright")
    return turned


def _to_values(image: Image.Image, data: bytes, file: Path, notices: list[str]) -> StoredPixels:
    # Pillow has already reduced 16-bit colour and 2 or 4-bit grey; only the PNG header still tells (byte 24: depth).
    depth = data[24] if data.startswith(PNG_SIGNATURE) else 8
    if image.mode.startswith("I;16") or (image.mode == "I" and isinstance(image, PngImageFile)):
        grey = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
        notices.append(f"16-bit grey: values of {bits_in_use(int(grey.max()))} bits")
        return grey
    if depth == 16 and "RGB" in image.mode:
        bits = bits_in_use(int(np.asarray(image.convert("RGB")).max()) << 8 | 255)
        lost = f", which loses most of the {bits} bits in use: save as 8-bit colour" if bits < 16 else ""
        notices.append(f"16-bit colour: the high byte is taken{lost}")
    elif depth == 16:
        notices.append("16-bit grey: scaled to 8 bit")
    elif depth < 8 and image.mode in ("1", "L"):
        notices.append(f"{depth}-bit grey: stretched to 8 bit")
    if image.mode in ("P", "PA"):
        notices.append("palette: converted to RGB")
    elif image.mode in ("CMYK", "YCCK"):
        notices.append("CMYK: converted to RGB")
    elif image.mode not in ("1", "L", "LA", "RGB", "RGBA", "RGBX", "YCbCr"):
        raise UnreadableImageError(file, f"unsupported kind of pixels ({image.mode})")
    target = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if image.has_transparency_data:
        image = _lay_on_white(image, target, notices)
    return np.array(image if image.mode == target else image.convert(target), dtype=np.uint8)


def _lay_on_white(image: Image.Image, target: str, notices: list[str]) -> Image.Image:
    """White, and not whatever colour the transparent pixels hide: that differs by the program that wrote the file."""
    with_alpha = image.convert("LA" if target == "L" else "RGBA")
    alpha = with_alpha.getchannel("A")
    if alpha.getextrema()[0] == 255:
        notices.append("alpha channel: dropped (all opaque)")
        return with_alpha
    notices.append("alpha channel: transparent pixels laid on white")
    white = Image.new(target, image.size, "white")
    white.paste(with_alpha.convert(target), mask=alpha)
    return white
