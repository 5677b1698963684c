"""Write the ground-truth table of a folder whose sub-folders say what is on the images.

Understood are: images only (all of them normal); ``good/`` beside folders of defective images, with any folders below
them, as for shifts and days; and either of these below ``train/`` and ``test/``, where ``test`` becomes the validation
data, as public data sets are laid out.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vad_lib.atomic_files import write_whole
from vad_lib.csv_text import read_csv_text
from vad_lib.errors import InputError
from vad_lib.findings import MAX_EXAMPLES, Finding
from vad_lib.images.listing import MASK_FOLDERS, list_folder
from vad_lib.images.paths import SUFFIXES_TEXT, as_meant
from vad_lib.plan.writing import NORMAL_FOLDERS

TABLE_NAME = "ground_truth.csv"
RECORD_NAME = ".ground_truth.vad.json"
"""Beside the table: its sha256 when it was written, and the name of the normal folder."""
SPLIT_COLUMN = "train_val_split"
DEFAULT_LABEL = "good"
ONLY_NORMAL_PERCENTILE, ONLY_NORMAL_SPLIT = 0.99, 0.3
_SPLITS = {"train": "train", "test": "valid", "valid": "valid", "val": "valid", "validation": "valid"}


@dataclass(frozen=True)
class LabelledFolder:
    """What the table says.

    Attributes:
        folder: holds the table; relative paths of the table start here.
        ok_class: label of the normal images; empty where a table was there already and the plan's rule decides.
        split_column: name of the column of splits, or empty.
        only_normal: a table was written, and it calls every image normal.
        notices: what the user should know.
    """

    folder: Path
    ok_class: str
    split_column: str
    only_normal: bool
    notices: tuple[str, ...]

    @property
    def choices(self) -> dict[str, Any]:
        """Plan arguments that fit this folder.

        With normal images only, the threshold is a quantile of the normal images held back. Of few, or a low quantile,
        most good parts would be NG: more are held back, and nearly all of them are to be OK.
        """
        chosen: dict[str, Any] = {"ok_class": self.ok_class, "train_validate_column": self.split_column}
        if self.only_normal:
            chosen["percentile"] = ONLY_NORMAL_PERCENTILE
        if self.only_normal and not self.split_column:
            chosen["validation_split_rate"] = ONLY_NORMAL_SPLIT
        return chosen


def label_folder(folder: Path, *, ok_class: str = "") -> LabelledFolder:
    """Write ``ground_truth.csv`` into a folder of images; a folder that has a table is left as it is.

    Args:
        folder: of images, at any depth.
        ok_class: name of the folder of normal images; empty: good, ok, normal, non_anomaly or pass, in any letter
            case, or the only one that there is. Whatever lies below it is normal.

    Raises:
        InputError: no folder, no image, no way to tell which images are normal (two such names stand side by side, or
            none), or the table cannot be written.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give the folder that holds the images.")
    root = folder.resolve()
    listing = list_folder(root)
    for place, tables in ((root, listing.tables), (root / "train", listing.deeper_tables)):
        if any((root / table).parent == place for table in tables):
            return LabelledFolder(root, ok_class, "", False, (f"The table in {place} is used as it is.",))
    rows = [row for path in listing.images if (row := _row(path, ok_class)) is not None]
    if not rows:
        raise InputError(f"{folder} holds no {SUFFIXES_TEXT} image.")
    counts = Counter(label for _, label, _ in rows)
    normal = _normal_label(counts, ok_class, folder)
    table = _table(rows)
    column = SPLIT_COLUMN if SPLIT_COLUMN in table[0] else ""
    file = root / TABLE_NAME
    _write(file, table, normal)
    listed = ", ".join(f"{count} {label}" for label, count in counts.most_common())
    notices = [f"Wrote {file}: {listed}; normal is {normal!r}."]
    if listing.masks:
        mask, image = next(iter(listing.masks.items()))
        notices.append(
            f"Left out as masks, which are no images of parts: {len(listing.masks)}, such as {mask} of {image}."
        )
    only_normal = set(counts) == {normal}
    if only_normal:
        notices.append(
            f"All images are normal: the plan makes the threshold of which {ONLY_NORMAL_PERCENTILE:.0%} of those held "
            "back are OK. Some defective images would tell what it finds."
        )
    return LabelledFolder(root, normal, column, only_normal, tuple(notices))


def _row(path: str, ok_class: str) -> tuple[str, str, str] | None:
    """Return (path, label, split or '') of one image, or None for a mask.

    The label is the normal name among its folders, else the last folder.
    """
    folders = PurePosixPath(path).parts[:-1]
    if any(name.casefold() in MASK_FOLDERS for name in folders):
        return None
    split = _SPLITS.get(folders[0].casefold(), "") if folders else ""
    below = folders[1:] if split else folders
    normal = [name for name in below if name == ok_class] or [name for name in below if _is_normal(name)]
    return f"./{path}", (*normal, *reversed(below), DEFAULT_LABEL)[0], split


def _is_normal(name: str) -> bool:
    return name.casefold() in NORMAL_FOLDERS


def _normal_label(counts: Counter[str], ok_class: str, folder: Path) -> str:
    if ok_class:
        if ok_class not in counts:
            raise InputError(f"No image of {folder} lies in a folder {ok_class!r}; there are {', '.join(counts)}.")
        return ok_class
    normal = [label for label in counts if _is_normal(label)]
    if len(normal) > 1:
        raise InputError(
            f"{folder} has folders of several normal names: {', '.join(sorted(normal))}. Say which one holds the "
            "normal images (--ok-class); the others are then kinds of defect. Where all are normal, give them one name."
        )
    if normal:
        return normal[0]
    if len(counts) == 1:
        return next(iter(counts))
    raise InputError(
        f"{folder} has the sub-folders {', '.join(sorted(counts))}, and none is called {', '.join(NORMAL_FOLDERS)}: "
        "say which one holds the normal images (--ok-class)."
    )


def renew_table(folder: Path) -> Finding | None:
    """Bring a table that ``label_folder`` wrote up to date with the images that lie in the folder now.

    A table that a person wrote or changed is left as it is. Images that another table of the folder names stay there.

    Returns:
        What was changed, or why the table could not be renewed; None where there is nothing to say.
    """
    file = folder / TABLE_NAME
    try:
        record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
        before = file.read_bytes()
        written, ok_class = str(record["sha256"]), str(record["ok_class"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    listing = list_folder(folder)
    elsewhere = _named_in(folder, [name for name in listing.tables if name != TABLE_NAME])
    table = _table([row for path in listing.images if path not in elsewhere and (row := _row(path, ok_class))])
    old = list(csv.reader(io.StringIO(before.decode("utf-8", errors="replace"), newline="")))
    new_paths, old_paths = ({row[0] for row in rows[1:] if row} for rows in (table, old))
    added, gone = sorted(new_paths - old_paths), sorted(old_paths - new_paths)
    if not added and not gone:
        return None
    changes = f"{len(added)} images were added to {TABLE_NAME} and {len(gone)} that are gone were taken out of it"
    advice = "Their labels are the names of their folders."
    if hashlib.sha256(before).hexdigest() != written or tuple(old[0]) != table[0] or not new_paths:
        if not added:
            return None
        changes = f"{len(added)} images are in no row of {TABLE_NAME}, which was changed since `vad line add` wrote it"
        advice = "Add rows for them, or remove the table and add the line again with --replace to have it written anew."
    else:
        try:
            _write(file, table, ok_class)
        except InputError as error:
            changes, advice = f"{len(added)} images are in no row of {TABLE_NAME}", str(error)
    named = f", such as {(added or gone)[0]}"
    shown = tuple({"path": path} for path in (added or gone)[:MAX_EXAMPLES])
    return Finding(
        rule="renewed_table",
        severity="warn",
        message=f"{changes}{named}.",
        advice=advice,
        count=len(added) + len(gone),
        examples=shown,
    )


def _named_in(folder: Path, tables: Sequence[str]) -> Collection[str]:
    """Return the paths of files, relative to the folder, that any cell of these tables names."""
    named: set[str] = set()
    for name in tables:
        try:
            cells = read_csv_text(folder, name, "utf-8").to_numpy().ravel()
        except InputError:
            continue  # whoever reads the tables says what is wrong with it
        named |= {os.path.normpath(as_meant(folder, str(cell))) for cell in cells if cell}
    return named


def _table(rows: Sequence[tuple[str, str, str]]) -> list[tuple[str, ...]]:
    """Return header and rows; there is a column of splits where both sides of it are there."""
    if {split for _, _, split in rows} == {"train", "valid"}:
        return [("image_path", "label", SPLIT_COLUMN), *rows]
    return [("image_path", "label"), *((path, label) for path, label, _ in rows)]


def _write(file: Path, table: Sequence[tuple[str, ...]], ok_class: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(table)
    data = text.getvalue().encode()
    record = {"sha256": hashlib.sha256(data).hexdigest(), "ok_class": ok_class}
    try:
        write_whole(file, data)
        write_whole(file.with_name(RECORD_NAME), json.dumps(record).encode())
    except OSError as error:
        raise InputError(
            f"The table cannot be written beside the images ({error}). Make {file.parent} writable, copy the images "
            "elsewhere, or write a table and a plan by hand and give --plan."
        ) from error
