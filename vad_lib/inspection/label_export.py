"""Labels become rows of the next training table.

The training folder gets ``labels.csv``, with the columns of the tables that are there, and the images under
``labels/``. The ground truth of the next training is then all tables together, as for any other csv file there.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vad_lib.atomic_files import write_whole
from vad_lib.csv_text import read_csv_text
from vad_lib.errors import InputError, UnreadableImageError
from vad_lib.images.listing import list_folder
from vad_lib.images.paths import read_regular_file
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.labels import labels_that_hold
from vad_lib.tables import NG

TABLE = "labels.csv"
IMAGES = "labels"


@dataclass(frozen=True)
class ExportedLabels:
    """Where the rows are, how many of each there are, and images that could not be taken along."""

    table: Path
    ok: int
    ng: int
    lost: tuple[str, ...]


def export_labels(
    db: InspectionDatabase,
    line: str,
    folder: Path,
    *,
    ok_label: str,
    ng_label: str = "",
    path_column: str = "image_path",
    label_column: str = "label",
    split_column: str = "",
    encoding: str = "utf-8",
) -> ExportedLabels:
    """Write the labels that hold as a table that the training folder can take. Doing it again renews the table.

    Args:
        db: holds them.
        line: whose labels.
        folder: of the training table and its images.
        ok_label: what the table calls a normal part.
        ng_label: what it shall call an anomalous one; empty takes the word that the tables there use most for their
            anomalous parts, or 'NG' where they have none.
        path_column: of the plan.
        label_column: of the plan.
        split_column: of the plan; where it is in use, normal parts are to be fitted and anomalous ones validate.
        encoding: of the plan's tables.

    Raises:
        InputError: there is no label, no such folder, or its tables have no such columns.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}. Give the folder that holds the training table.")
    held = labels_that_hold(db, line)
    if held.empty:
        raise InputError(f"Nobody has given a label on images of the line {line!r} yet: see `vad label give`.")
    tables = _tables_of(folder, encoding, (path_column, label_column))
    columns = [str(name) for name in tables[0].columns] if tables else [path_column, label_column]
    missing = [name for name in (path_column, label_column) if name not in columns]
    if missing:
        raise InputError(f"The tables in {folder} have no column {', '.join(missing)}, only {', '.join(columns)}.")
    ng_label = ng_label or _usual_defect(tables, label_column, ok_label)
    (folder / IMAGES).mkdir(exist_ok=True)
    rows: list[dict[str, str]] = []
    lost: list[str] = []
    for one in held.itertuples():
        image = _take_along(Path(str(one.path)), str(one.sha256), folder / IMAGES)
        if image is None:
            lost.append(str(one.path))
            continue
        is_ok = one.label == "OK"
        row = {path_column: f"./{IMAGES}/{image.name}", label_column: ok_label if is_ok else ng_label}
        if split_column in columns:
            row[split_column] = "train" if is_ok else "valid"
        rows.append(row)
    table = folder / TABLE
    write_whole(table, pd.DataFrame(rows, columns=columns).to_csv(index=False).encode(encoding))
    ok = sum(row[label_column] == ok_label for row in rows)
    return ExportedLabels(table, ok, len(rows) - ok, tuple(lost))


def _tables_of(folder: Path, encoding: str, wanted: tuple[str, ...]) -> list[pd.DataFrame]:
    """Return the tables that are there, but for the one that is written here."""
    names = [name for name in list_folder(folder).tables if name != TABLE]
    return [read_csv_text(folder, name, encoding, wanted) for name in names]


def _usual_defect(tables: list[pd.DataFrame], label_column: str, ok_label: str) -> str:
    labels = [table[label_column].dropna().str.strip() for table in tables if label_column in table.columns]
    counts = Counter(label for column in labels for label in column if label not in ("", ok_label))
    return counts.most_common(1)[0][0] if counts else NG


def _take_along(source: Path, sha256: str, folder: Path) -> Path | None:
    """Copy an image under the name of its content; None where it is gone or another lies in its place."""
    target = folder / f"{sha256[:32]}{source.suffix.lower()}"
    if target.is_file():
        return target
    try:
        data = read_regular_file(source)
    except UnreadableImageError:
        return None
    if hashlib.sha256(data).hexdigest() != sha256:
        return None
    write_whole(target, data)
    return target
