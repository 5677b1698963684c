"""Drawing the heatmaps of a tree, and copying images for review."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from vad_lib.artifacts.naming import heatmap_name, unique_name
from vad_lib.errors import UnreadableImageError
from vad_lib.heatmaps import HeatmapScale, draw_heatmap, save_picture
from vad_lib.images.decoding import decode_bytes
from vad_lib.images.paths import read_known_content
from vad_lib.progress import Progress, ProgressMeter
from vad_lib.tables import NG, OK

logger = logging.getLogger(__name__)

Maps = Iterable[tuple[int, NDArray[np.float32]]]
"""Anomaly maps by row: pairs of a row's position in the table and its (h, w) map; may be computed as they are taken."""


@dataclass(frozen=True)
class SavedHeatmap:
    """One heatmap that was written: for which row, under which name, and the picture where it is still at hand."""

    row: int
    name: str
    picture: Image.Image | None


def rows_with_heatmaps(is_anomalous: Iterable[bool], predicted: Iterable[str]) -> NDArray[np.bool_]:
    """Return which validation rows get a heatmap: all anomalous and all NG ones, so never a normal one that is OK."""
    return np.array(
        [bool(flag) or decision != OK for flag, decision in zip(is_anomalous, predicted, strict=True)], dtype=bool
    )


def in_order_of_interest(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the misses first, then the false alarms, then the rest; each by p, the gravest error first."""
    miss = rows["is_anomalous"] & (rows["predicted"] == OK)
    false_alarm = ~rows["is_anomalous"] & (rows["predicted"] == NG)
    group = np.select([miss, false_alarm], [0, 1], 2)
    by = pd.DataFrame({"group": group, "p": np.where(miss, rows["p"], -rows["p"])}, index=rows.index)
    return rows.loc[by.sort_values(["group", "p"], kind="stable").index]


def save_heatmaps(
    folder: Path,
    rows: pd.DataFrame,
    maps: Maps,
    scale: HeatmapScale,
    progress: Progress,
    *,
    inference_threshold: float = 0.5,
    name_tells_result: bool,
) -> Iterator[SavedHeatmap]:
    """Draw and write one heatmap for each map, and yield it; maps of other rows are passed over.

    Args:
        folder: exists.
        rows: columns row, image_path, file, sha256, label, is_anomalous, raw_score, p, predicted. A picture whose file
            holds other bytes by now is not drawn: the map is not of them.
        maps: at most one a row.
        scale: of the model version.
        progress: told after each.
        inference_threshold: for the caption.
        name_tells_result: name them '{true label}_{predicted}_{name}', else by the image's name alone.
    """
    by_row = {int(row["row"]): row for row in rows.to_dict("records")}
    meter = ProgressMeter(progress, "drawing heatmaps", len(by_row), "heatmaps")
    taken: set[str] = set()
    for position, anomaly_map in maps:
        row = by_row.get(int(position))
        if row is None:
            continue
        try:
            data = read_known_content(Path(row["file"]), str(row["sha256"]))
            pixels = decode_bytes(data, row["file"], sha256=str(row["sha256"])).pixels
        except UnreadableImageError as error:
            logger.warning("no heatmap for %s: %s", row["image_path"], error.reason)
            continue
        label = "" if pd.isna(row["label"]) else str(row["label"])
        picture = draw_heatmap(
            pixels,
            anomaly_map,
            scale,
            title=str(row["image_path"]),
            p=float(row["p"]),
            raw_score=float(row["raw_score"]),
            predicted=str(row["predicted"]),
            true_label=label,
            is_anomalous=None if pd.isna(row["is_anomalous"]) else bool(row["is_anomalous"]),
            inference_threshold=inference_threshold,
        )
        if name_tells_result:
            name = heatmap_name(str(row["image_path"]), label, str(row["predicted"]), taken)
        else:
            name = unique_name(str(row["image_path"]), taken)
        save_picture(picture, folder / name)
        meter.advance()
        yield SavedHeatmap(int(position), name, picture)


def copy_for_review(
    folder: Path, predictions: pd.DataFrame, review_certainty: float, most: int, taken: set[str]
) -> dict[int, str]:
    """Copy the images that a person should see: all NG, most anomalous first, then OK ones of low certainty.

    Copies keep the names of their sources and have the bytes that were scored. Where a file holds others by now, there
    is no copy. Beyond ``most`` copies the rest is only noted, in the log.

    Returns:
        Row -> name of its copy; '' where it was worth a look but not copied.
    """
    ng = predictions[predictions["predicted"] == NG].sort_values("p", ascending=False, kind="stable")
    unsure = predictions[(predictions["predicted"] == OK) & (predictions["certainty"] < review_certainty)]
    wanted = pd.concat([ng, unsure.sort_values("certainty", kind="stable")])
    names: dict[int, str] = {}
    copied = 0
    for row in wanted.to_dict("records"):
        names[int(row["row"])] = ""
        if copied >= most:
            continue
        name = unique_name(str(row["image_path"]), taken, picture=False)
        try:
            (folder / name).write_bytes(read_known_content(Path(row["file"]), str(row["sha256"])))
        except (UnreadableImageError, OSError) as error:
            reason = error.reason if isinstance(error, UnreadableImageError) else error
            logger.warning("no copy of %s for review: %s", row["image_path"], reason)
            continue
        names[int(row["row"])] = name
        copied += 1
    if len(wanted) > copied:
        logger.warning(
            "%d images are worth a look, %d were copied to output/ (at most %d are); output.csv marks them all in the "
            "column review",
            len(wanted),
            copied,
            most,
        )
    return names
