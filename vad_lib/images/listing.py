"""What lies in a data folder: tables, images, and what is passed over."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vad_lib.images.paths import is_image_name, is_table_name

MASK_FOLDERS = frozenset({"ground_truth", "mask", "masks", "annotations"})
"""In lower case."""
_MASK_STEM = re.compile(r"(.+)[ ._-](?:mask|masks|gt|label|labels|ground_?truth|seg|segmentation)", re.IGNORECASE)


@dataclass(frozen=True)
class FolderListing:
    """Paths relative to the folder, with '/' between the parts, in natural order.

    ``masks`` are pictures that mark what is wrong on an image: mask -> image. They are not among ``images``.
    """

    tables: list[str]
    deeper_tables: list[str]
    images: list[str]
    others: list[str]
    unnameable: list[str]
    masks: dict[str, str] = field(default_factory=dict)


def list_folder(folder: Path) -> FolderListing:
    """Look through a folder at any depth; hidden files and folders are passed over."""
    listing = FolderListing([], [], [], [], [])
    for parent, folders, files in os.walk(folder):
        # .ipynb_checkpoints, .git, and what macOS leaves in archives, hold copies that nobody means.
        folders[:] = [name for name in folders if not _is_hidden(name)]
        inner = Path(parent).relative_to(folder)
        for name in folders:
            if is_image_name(name) or os.path.islink(os.path.join(parent, name)):
                listing.others.append((inner / name).as_posix() + "/")
        for name in files:
            if _is_hidden(name):
                continue
            path = (inner / name).as_posix()
            if not _is_utf8(path):
                listing.unnameable.append(ascii(path))
            elif is_image_name(name):
                listing.images.append(path)
            elif is_table_name(name):
                (listing.tables if inner == Path() else listing.deeper_tables).append(path)
            else:
                listing.others.append(path)
    for paths in (listing.tables, listing.deeper_tables, listing.images, listing.others, listing.unnameable):
        paths.sort(key=natural_order)
    listing.masks.update(_masks(listing.images))
    listing.images[:] = [path for path in listing.images if path not in listing.masks]
    return listing


def _masks(images: list[str]) -> dict[str, str]:
    """Return mask -> image: ``a_mask``, ``a_GT`` or ``a_label`` beside ``a``, or ``masks/crack/a`` for ``crack/a``."""
    beside = {os.path.splitext(path)[0]: path for path in images}
    parted = {path: PurePosixPath(path).parts for path in images}
    apart = {path for path, parts in parted.items() if MASK_FOLDERS.intersection(map(str.casefold, parts[:-1]))}
    below = {os.path.splitext("/".join(parted[path][-2:]))[0]: path for path in images if path not in apart}
    found = {}
    for path in images:
        stem = os.path.splitext(path)[0]
        named = _MASK_STEM.fullmatch(stem)
        image = beside.get(named[1]) if named else None
        if path in apart:
            short = os.path.splitext("/".join(parted[path][-2:]))[0]
            image = below.get(named[1] if (named := _MASK_STEM.fullmatch(short)) else short)
        if image is not None:
            found[path] = image
    return found


def natural_order(text: str) -> list[tuple[int, int | str]]:
    """Sort key under which image2 comes before image10.

    >>> sorted(["b10.png", "b2.png", "a.png"], key=natural_order)
    ['a.png', 'b2.png', 'b10.png']
    """
    parts = re.split(r"([0-9]+)", text)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "~$")) or name == "__MACOSX"


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
