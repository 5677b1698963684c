"""The labels of people as a training takes them: what holds, each with the image that was judged.

A watch folder is emptied, and a camera writes its next image under an old name. So the line keeps a copy of every
judged image, under the name of its content, in a folder of its own. Nothing is written into the user's folders.
"""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sqlalchemy import select

from vad_lib.atomic_files import write_whole
from vad_lib.errors import UnreadableImageError
from vad_lib.findings import MAX_EXAMPLES, Finding
from vad_lib.images.decoding import decode_image
from vad_lib.images.paths import read_known_content
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.labels import labels_that_hold, newest_label
from vad_lib.inspection_db.schema import incoming_files, predictions
from vad_lib.lines import Line
from vad_lib.tables import ConfirmedLabels

NEWEST = "newest_label"
"""Attribute of the table: the number of the last label or withdrawal that it takes into account."""


def collect_labels(db: InspectionDatabase, line: Line, *, keep: bool = True) -> pd.DataFrame:
    """Return the labels that hold on a line as ``ConfirmedLabels``, with the images that can be had.

    Every image is read and compared with the content that was judged. The column ``file`` is empty where it is gone,
    or another image lies in its place.

    Args:
        db: holds them.
        line: whose labels.
        keep: make a copy of each image where there is none yet, and name it; else name the place where the image lies.
            Only with a copy there is a mask of the boxes that were drawn.
    """
    newest = newest_label(db, line.name)  # asked first, so that what is said meanwhile counts as new
    held = labels_that_hold(db, line.name)
    files: list[Path | None] = []
    masks: list[str | None] = []
    for one in held.itertuples():
        where = (db, line.name, str(one.sha256), Path(str(one.path)), line.labelled_images)
        found = None if keep else find_image(*where)
        files.append(keep_image(*where) if keep else found and found[0])
        copy = files[-1] if keep and isinstance(one.boxes, str) else None
        masks.append(None if copy is None else str(keep_mask(copy, str(one.label_id), str(one.boxes))))
    held["file"] = pd.Series([None if file is None else str(file) for file in files], held.index, dtype=object)
    held["mask"] = pd.Series(masks, held.index, dtype=object)
    held = ConfirmedLabels.validate(held[list(ConfirmedLabels.to_schema().columns)])
    held.attrs[NEWEST] = newest
    return held


def keep_image(db: InspectionDatabase, line: str, sha256: str, path: Path, folder: Path) -> Path | None:
    """Return the copy of an image content in ``folder``, which is made where there is none yet.

    Returns:
        None where no place holds the content any more: see ``find_image``.
    """
    target = _copy_in(folder, sha256, path)
    if (found := find_image(db, line, sha256, path, folder)) is None:
        return None
    place, data = found
    if place != target:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(target, data)
    return target


def keep_mask(copy: Path, label_id: str, boxes: str) -> Path:
    """Return a PNG beside the copy of an image that is white in the boxes of a label, and made where there is none yet.

    Args:
        copy: of the image, upright or not.
        label_id: of the label; boxes that are drawn anew have another one.
        boxes: as the table ``labels`` has them, in pixels of the upright image.
    """
    target = copy.with_name(f"{copy.stem}_{label_id}_mask.png")
    if not target.exists():
        marked = np.zeros(decode_image(copy).pixels.shape[:2], np.uint8)
        for left, top, right, bottom in json.loads(boxes):
            marked[top:bottom, left:right] = 255
        stream = io.BytesIO()
        Image.fromarray(marked).save(stream, format="PNG")
        write_whole(target, stream.getvalue())
    return target


def find_image(db: InspectionDatabase, line: str, sha256: str, path: Path, folder: Path) -> tuple[Path, bytes] | None:
    """Return a place that holds an image content, and its bytes.

    It is the copy in ``folder``, ``path``, or wherever else the line has seen the content.

    Returns:
        None where none of these places holds it any more.
    """
    for places in (lambda: [_copy_in(folder, sha256, path), path], lambda: _other_places(db, line, sha256)):
        for place in places():
            with suppress(UnreadableImageError):
                return place, read_known_content(place, sha256)
    return None


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


def _copy_in(folder: Path, sha256: str, path: Path) -> Path:
    return folder / f"{sha256[:32]}{path.suffix.lower()}"
