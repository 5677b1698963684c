"""Write the ground-truth table of a folder whose sub-folders say what is on the images.

Understood are: images only (all of them normal); ``good/`` beside folders of defective images; and either of these
below ``train/`` and ``test/``, where ``test`` becomes the validation data, as public data sets are laid out.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vad_lib.atomic_files import write_whole
from vad_lib.errors import InputError
from vad_lib.images.listing import list_folder
from vad_lib.images.paths import SUFFIXES_TEXT
from vad_lib.plan.writing import NORMAL_FOLDERS

TABLE_NAME = "ground_truth.csv"
SPLIT_COLUMN = "train_val_split"
DEFAULT_LABEL = "good"
ONLY_NORMAL_PERCENTILE, ONLY_NORMAL_SPLIT = 0.99, 0.3
_SPLITS = {"train": "train", "test": "valid", "valid": "valid", "val": "valid", "validation": "valid"}
# masks of defects are images too, and must not be trained on
_NOT_DATA = frozenset({"ground_truth", "mask", "masks", "annotations"})


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
            case, or the only one that there is.

    Raises:
        InputError: no folder, no image, no way to tell which images are normal, or the table cannot be written.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give the folder that holds the images.")
    root = folder.resolve()
    listing = list_folder(root)
    for place, tables in ((root, listing.tables), (root / "train", listing.deeper_tables)):
        if any((root / table).parent == place for table in tables):
            return LabelledFolder(root, ok_class, "", False, (f"The table in {place} is used as it is.",))
    rows = [row for path in listing.images if (row := _row(path)) is not None]
    if not rows:
        raise InputError(f"{folder} holds no {SUFFIXES_TEXT} image.")
    counts = Counter(label for _, label, _ in rows)
    normal = _normal_label(counts, ok_class, folder)
    splits = {split for _, _, split in rows}
    column = SPLIT_COLUMN if splits == {"train", "valid"} else ""
    table = [(path, label, split) if column else (path, label) for path, label, split in rows]
    file = root / TABLE_NAME
    _write(file, ("image_path", "label", column) if column else ("image_path", "label"), table)
    listed = ", ".join(f"{count} {label}" for label, count in counts.most_common())
    notices = [f"Wrote {file}: {listed}; normal is {normal!r}."]
    only_normal = set(counts) == {normal}
    if only_normal:
        notices.append(
            f"All images are normal: the plan makes the threshold of which {ONLY_NORMAL_PERCENTILE:.0%} of those held "
            "back are OK. Some defective images would tell what it finds."
        )
    return LabelledFolder(root, normal, column, only_normal, tuple(notices))


def _row(path: str) -> tuple[str, str, str] | None:
    """Return (path, label, split or '') of one image, or None for a mask."""
    folders = PurePosixPath(path).parts[:-1]
    if any(name.casefold() in _NOT_DATA for name in folders):
        return None
    split = _SPLITS.get(folders[0].casefold(), "") if folders else ""
    below = folders[1:] if split else folders
    return f"./{path}", below[-1] if below else DEFAULT_LABEL, split


def _normal_label(counts: Counter[str], ok_class: str, folder: Path) -> str:
    if ok_class:
        if ok_class not in counts:
            raise InputError(f"No image of {folder} lies in a folder {ok_class!r}; there are {', '.join(counts)}.")
        return ok_class
    for wanted in NORMAL_FOLDERS:
        for label in counts:
            if label.casefold() == wanted:
                return label
    if len(counts) == 1:
        return next(iter(counts))
    raise InputError(
        f"{folder} has the sub-folders {', '.join(sorted(counts))}, and none is called {', '.join(NORMAL_FOLDERS)}: "
        "say which one holds the normal images (--ok-class)."
    )


def _write(file: Path, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    try:
        write_whole(file, text.getvalue().encode())
    except OSError as error:
        raise InputError(
            f"The table cannot be written beside the images ({error}). Make {file.parent} writable, copy the images "
            "elsewhere, or write a table and a plan by hand and give --plan."
        ) from error
