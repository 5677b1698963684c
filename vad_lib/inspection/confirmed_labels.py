"""The labels of people as a training takes them: what holds, each with the image that was judged.

A watch folder is emptied, and a camera writes its next image under an old name. So the line keeps a copy of every
judged image, under the name of its content, in a folder of its own. Nothing is written into the user's folders.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from sqlalchemy import select

from vad_lib.atomic_files import write_whole
from vad_lib.errors import UnreadableImageError
from vad_lib.findings import MAX_EXAMPLES, Finding
from vad_lib.images.paths import read_known_content
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.labels import labels_that_hold, newest_label
from vad_lib.inspection_db.schema import incoming_files, predictions
from vad_lib.lines import Line
from vad_lib.tables import ConfirmedLabels

NEWEST = "newest_label"
"""Attribute of the table: the number of the last label or withdrawal that it takes into account."""


def collect_labels(db: InspectionDatabase, line: Line) -> pd.DataFrame:
    """Return the labels that hold on a line as ``ConfirmedLabels``, and keep a copy of each image that can be had.

    Every image is read and compared with the content that was judged. The column ``file`` is empty where it is gone,
    or another image lies in its place.
    """
    newest = newest_label(db, line.name)  # asked first, so that what is said meanwhile counts as new
    held = labels_that_hold(db, line.name)
    copies = [
        keep_image(db, line.name, str(one.sha256), Path(str(one.path)), line.labelled_images)
        for one in held.itertuples()
    ]
    held["file"] = pd.Series([None if copy is None else str(copy) for copy in copies], held.index, dtype=object)
    held = ConfirmedLabels.validate(held[list(ConfirmedLabels.to_schema().columns)])
    held.attrs[NEWEST] = newest
    return held


def keep_image(db: InspectionDatabase, line: str, sha256: str, path: Path, folder: Path) -> Path | None:
    """Return a copy of an image content in ``folder``, which is made where there is none yet.

    The content is looked for in the copy itself, at ``path``, and wherever else the line has seen it.

    Returns:
        None where none of these places holds it any more.
    """
    target = folder / f"{sha256[:32]}{path.suffix.lower()}"
    if _read((target,), sha256) is not None:
        return target
    data = _read((path,), sha256) or _read(_other_places(db, line, sha256), sha256)
    if data is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(target, data)
    return target


def lost_labels(labels: pd.DataFrame) -> Finding | None:
    """Every image that people judged can still be had (table of ``collect_labels``)."""
    lost = labels[labels["file"].isna()]
    if lost.empty:
        return None
    return Finding(
        rule="lost_labels",
        severity="warn",
        message=f"Left out, since the image is gone or another one lies in its place: {len(lost)} of {len(labels)} "
        f"labels, such as that on {lost['path'].iloc[0]}.",
        advice="Put the images back where they were inspected, or withdraw the labels (`vad label withdraw`).",
        count=len(lost),
        examples=tuple(
            {"image_path": one.path, "label": one.label, "person": one.person}
            for one in lost.head(MAX_EXAMPLES).itertuples()
        ),
    )


def _other_places(db: InspectionDatabase, line: str, sha256: str) -> list[Path]:
    files = incoming_files.c
    scored = select(predictions.c.path).where(predictions.c.line == line, predictions.c.sha256 == sha256).distinct()
    arrived = select(files.folder, files.path).where(files.line == line, files.sha256 == sha256)
    with db.reading() as connection:
        places = [Path(path) for path in connection.execute(scored).scalars()]
        places += [Path(folder) / path for folder, path in connection.execute(arrived)]
    return list(dict.fromkeys(places))


def _read(places: Iterable[Path], sha256: str) -> bytes | None:
    for place in places:
        try:
            return read_known_content(place, sha256)
        except UnreadableImageError:
            continue
    return None
