"""Labels as a table with images in any folder, for use elsewhere. The line's own trainings take them by themselves.

The folder gets ``labels.csv``, with the columns of the tables that are there, and the images under ``labels/``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vad_lib.atomic_files import write_whole
from vad_lib.csv_text import read_csv_text
from vad_lib.errors import InputError
from vad_lib.ground_truth import usual_defect
from vad_lib.images.listing import list_folder
from vad_lib.inspection.confirmed_labels import keep_image
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.labels import labels_that_hold

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
    """Write the labels that hold as a table beside their images. Doing it again renews the table.

    Args:
        db: holds them.
        line: whose labels.
        folder: gets them; it has to be there.
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
        raise InputError(f"There is no folder {folder}. Give one that is there.")
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
        image = keep_image(db, line, str(one.sha256), Path(str(one.path)), folder / IMAGES)
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
    return usual_defect(Counter(label for column in labels for label in column if label), ok_label)
