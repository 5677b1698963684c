"""File names in the artifact trees: readable, safe, and never twice the same.

One rule for pictures: they keep the whole name of the image that they were made from, its extension included (so
``good/a.png`` and ``good/a.jpg`` stay two files), and are written in the format that it names. Only where the extension
is neither png nor jpg, ``.png`` is put behind it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import PurePosixPath

# Room for what file managers add, within the 255 bytes of common file systems.
_MOST_BYTES = 230
_MOST_LABEL_BYTES = 60
_MOST_SUFFIX_BYTES = 12
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


def heatmap_name(image_path: str, true_label: str, predicted: str, taken: set[str]) -> str:
    """Return ``{true label}_{predicted}_{original name}``, such as 'scratch_OK_image7.jpg', and add it to ``taken``."""
    return unique_name(image_path, taken, prefix=f"{safe_label(true_label)}_{predicted}_")


def unique_name(image_path: str, taken: set[str], prefix: str = "", *, picture: bool = True) -> str:
    """Return a name for a file made from an image, different from all in ``taken``, and add it there.

    The image's own name if it is free; else with the folders before it, nearest first ('good-image0.png'); else with a
    number. Names that differ only in letter case, or in how an accent is encoded, count as the same.

    Args:
        image_path: as in the table; only its parts are used, nothing is opened.
        taken: the names so far in this folder, as this function notes them.
        prefix: put before the name.
        picture: add '.png' where the extension is not one of a picture.
    """
    parts = _parts(image_path)
    for depth in range(1, len(parts) + 1):
        name = _file_name(prefix, "-".join(parts[-depth:]), picture)
        if _key(name) not in taken:
            break
    else:
        name = _numbered(lambda number: _file_name(prefix, parts[-1], picture, number), taken)
    taken.add(_key(name))
    return name


def _numbered(name_of: Callable[[int], str], taken: set[str]) -> str:
    """Return the first free name from 2 on. Numbers are taken in order, so doubling and halving finds it quickly."""
    high = 2
    while _key(name_of(high)) in taken:
        high *= 2
    low = high // 2  # taken, or 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _key(name_of(middle)) in taken else (low, middle)
    return name_of(high)


def safe_label(label: str) -> str:
    """Return a label as one part of a file name: letters, digits, '-', '+' and '.' inside; the rest becomes '-'.

    >>> safe_label("../x"), safe_label("a/b"), safe_label("broken large")
    ('x', 'a-b', 'broken-large')
    """
    cleaned = re.sub(r"[^\w.+-]+", "-", unicodedata.normalize("NFC", str(label))).strip("-._")
    return _cut(cleaned, _MOST_LABEL_BYTES) or "unlabelled"


def _parts(image_path: str) -> list[str]:
    parts = [_safe_part(part) for part in re.split(r"[/\\]+", str(image_path)) if part not in ("", ".", "..")]
    return parts or ["image"]


def _file_name(prefix: str, name: str, picture: bool, number: int | None = None) -> str:
    """Put a name together; what is cut where it is too long is neither the number nor the extension."""
    suffix = PurePosixPath(name).suffix
    if len(suffix.encode()) > _MOST_SUFFIX_BYTES:
        suffix = ""
    stem = name.removesuffix(suffix)
    end = "" if number is None else f"~{number}"
    end += suffix if not picture or suffix.lower() in _PICTURE_SUFFIXES else f"{suffix}.png"
    return _cut(prefix + stem, _MOST_BYTES - len(end.encode())) + end


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _safe_part(part: str) -> str:
    """Replace what some file system or shell takes for something else; a leading dot would hide the file."""
    cleaned = "".join("_" if not c.isprintable() or c in '<>:"|?*' else c for c in part)
    return "_" + cleaned if cleaned.startswith((".", "-")) else cleaned


def _cut(text: str, most_bytes: int) -> str:
    return text.encode()[:most_bytes].decode(errors="ignore")
