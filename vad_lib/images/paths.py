"""Which paths may be read: those that stay in the data folder, and only regular files.

Opening a named pipe waits for ever and reading a device never ends, so the kind of a file is asked before it is opened.
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from pathlib import Path, PurePosixPath

from vad_lib.errors import UnreadableImageError, UnsafePathError

IMAGE_FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WebP": (".webp",),
}
"""What is read, and how such files are named, the usual suffix first. Texts and lists elsewhere are made of this."""

IMAGE_SUFFIXES = frozenset(suffix for suffixes in IMAGE_FORMATS.values() for suffix in suffixes)
"""Compared in lower case."""

FORMATS_TEXT = " or ".join(", ".join(IMAGE_FORMATS).rsplit(", ", 1))
SUFFIXES_TEXT = " or ".join(", ".join(each for one in IMAGE_FORMATS.values() for each in one).rsplit(", ", 1))

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
_SIGNATURES = ((PNG_SIGNATURE, "PNG"), (JPEG_SIGNATURE, "JPEG"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"BM", "BMP"))

MAX_BYTES = 512 * 2**20
"""Larger files are refused unread: the largest accepted picture (64 megapixels, 16-bit RGBA) has this size."""

_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a named pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
)


def is_image_name(name: str) -> bool:
    """Tell whether a file name ends like an image that the system takes (``IMAGE_SUFFIXES``), in any letter case."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def format_of(data: bytes) -> str:
    """Return which of ``IMAGE_FORMATS`` the first bytes of a file announce; '' where it is none of them."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    return next((name for signature, name in _SIGNATURES if data.startswith(signature)), "")


def length_in_header(start: bytes) -> int:
    """Return how many bytes a BMP or WebP file has, as its first 8 bytes say; 0 for other formats."""
    kind = format_of(start)
    if kind == "BMP":
        return int.from_bytes(start[2:6], "little")
    length = int.from_bytes(start[4:8], "little")
    return 8 + length + length % 2 if kind == "WebP" else 0


def is_table_name(name: str) -> bool:
    """Tell whether a file name ends like a ground-truth table: .csv in any letter case."""
    return name.lower().endswith(".csv")


def as_meant(folder: str | Path, written: str) -> str:
    r"""Return a path of a hand-written table as it was meant, relative to ``folder`` or absolute as it was written.

    Spaces around it are not meant, Windows separators (``.\good\a.png``) mean ``/``, and composed letters (as keyboards
    write them) the same as decomposed ones (as macOS names files), where no file has that literal name. Nothing is said
    about whether the path may be read: that is ``resolve_inside``.
    """
    stripped = written.strip()
    if (stripped == written and "\\" not in written and written.isascii()) or "\0" in written:
        return written
    forms = (written, stripped, written.replace("\\", "/"), stripped.replace("\\", "/"))
    there = (form for form in forms if os.path.lexists(os.path.join(folder, form)))
    return next(there, None) or _in_other_letters(folder, forms[-1]) or forms[-1]


def _in_other_letters(folder: str | Path, path: str) -> str | None:
    """Return the path whose parts exist, each composed or decomposed as it is on the disk; None where there is none."""
    found = ""
    for part in PurePosixPath(path).parts if not path.isascii() else ():
        forms = (
            os.path.join(found, each) for each in (part, *(unicodedata.normalize(f, part) for f in ("NFC", "NFD")))
        )
        step = next((form for form in forms if os.path.lexists(os.path.join(folder, form))), None)
        if step is None:
            return None
        found = step
    return found or None


def resolve_inside(folder: Path, path: str | Path) -> Path:
    """Return the absolute path, free of links and ``..``, of a path that was written relative to ``folder``.

    Absolute paths are accepted where they lie in the folder; what hand-written paths mean, ``as_meant`` says. The file
    need not exist.

    Raises:
        UnsafePathError: the path, or the target of a link on its way, is not in the folder; or it is no path at all.
    """
    text = str(path)
    if not text.strip() or "\0" in text:
        raise UnsafePathError(f"{text!r} is not a path. Write it relative to {folder}.")
    try:
        root = Path(os.path.realpath(folder))
        meant = root / as_meant(root, text)
        target = Path(os.path.realpath(meant))
        link = Path(os.path.normpath(meant)).is_relative_to(root)
    except (OSError, ValueError) as error:
        raise UnsafePathError(f"{text!r} is not a path that can be looked up ({error}).") from error
    if not target.is_relative_to(root):
        how = "is a link to a place outside" if link else "leaves"
        raise UnsafePathError(f"{text} {how} the data folder {folder}. Put the file itself into the folder.")
    return target


def read_regular_file(file: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of a regular file, read once.

    Raises:
        UnreadableImageError: not there, not a regular file, no permission, empty, or larger than ``max_bytes``.
    """
    return read_with_facts(file, max_bytes)[0]


def read_known_content(file: Path, sha256: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of a regular file, if they still are those that were known: a camera may have written since.

    Raises:
        UnreadableImageError: as for ``read_regular_file``, or the file holds something else.
    """
    data = read_regular_file(file, max_bytes)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UnreadableImageError(file, "another image lies in its place now")
    return data


def read_with_facts(
    file: Path, max_bytes: int = MAX_BYTES, *, inside: Path | None = None
) -> tuple[bytes, os.stat_result]:
    """Return the bytes of a regular file, read once, and what the system says about it after reading.

    Args:
        file: absolute.
        max_bytes: larger files are refused unread.
        inside: the folder that the file must lie in, links followed. It is looked at after the file was opened, so that
            no link can take its place in between.

    Raises:
        UnreadableImageError: as for ``read_regular_file``.
        UnsafePathError: the file does not lie in ``inside``.
    """
    try:
        _refuse_special(file, os.stat(file))
        # O_NONBLOCK: should a pipe have taken the file's place since, opening it does not wait for a writer.
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with os.fdopen(descriptor, "rb") as stream:
            if inside is not None:
                _refuse_outside(file, descriptor, inside)
            status = os.fstat(descriptor)
            _refuse_special(file, status)
            if status.st_size > max_bytes:
                raise UnreadableImageError(file, f"too large ({status.st_size / 2**20:.0f} MiB)")
            data = stream.read(max_bytes + 1)
            status = os.fstat(descriptor)
    except FileNotFoundError as error:
        raise UnreadableImageError(file, "file not found") from error
    except PermissionError as error:
        raise UnreadableImageError(file, "no permission to read it") from error
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreadableImageError(file, f"cannot be read ({text})") from error
    if not data:
        raise UnreadableImageError(file, "empty file")
    if len(data) > max_bytes:
        raise UnreadableImageError(file, "too large (it grows while being read)")
    return data, status


def _refuse_outside(file: Path, descriptor: int, folder: Path) -> None:
    """What was opened is asked where it lies: on systems that do not tell, the path is, which is nearly as good."""
    opened = f"/proc/self/fd/{descriptor}"
    place = Path(os.path.realpath(opened if os.path.exists(opened) else file))
    if not place.is_relative_to(os.path.realpath(folder)):
        raise UnsafePathError(f"{file} leads out of the folder {folder}. Put the file itself into the folder.")


def _refuse_special(file: Path, status: os.stat_result) -> None:
    for is_kind, text in _KINDS:
        if is_kind(status.st_mode):
            raise UnreadableImageError(file, f"{text}, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImageError(file, "not a regular file")
