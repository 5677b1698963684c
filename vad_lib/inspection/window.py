"""What was decided about landed files in a stretch of time, whichever lane decided it, as an inspection's result."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vad_lib.errors import InputError, UnreadableImageError
from vad_lib.images.decoding import decode_image
from vad_lib.inspection.landed import landed_dataset
from vad_lib.inspection.ledger import PredictionFacts
from vad_lib.inspection.reporting import predictions_table
from vad_lib.inspection.results import InspectionResult, Item, refused_table
from vad_lib.inspection.scoring import Scorer
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.schema import DONE, REFUSED
from vad_lib.readiness.dataset import ValidatedDataset


def inspected_between(
    db: InspectionDatabase,
    line: str,
    *,
    folder: Path,
    model_version: str,
    inference_threshold: float = 0.5,
    since: datetime | None = None,
    before: datetime | None = None,
    ok_class: str = "",
) -> tuple[ValidatedDataset, InspectionResult]:
    """Return the landings that were decided in a stretch of time, as a dataset and a result. Nothing is scored.

    Args:
        db: the inspection database.
        line: name of the line.
        folder: the landing folder.
        model_version: its prediction is taken where an image has several, else the newest.
        inference_threshold: on p, with which p is decided anew.
        since: decided then or later; None: from the beginning.
        before: decided earlier than that; None: until now.
        ok_class: the model's normal label.

    Raises:
        InputError: nothing was decided then.
    """
    landings = db.landings(line, decided_since=since, decided_before=before)
    landings = landings[landings["state"].isin([DONE, REFUSED])]
    # a file that was written again is there once: as it is now
    landings = landings.drop_duplicates("path", keep="last").sort_values(["path", "seq"], ignore_index=True)
    if landings.empty:
        raise InputError(f"Nothing that landed on the line {line!r} was decided in that time.")
    done = landings[landings["state"] == DONE]
    facts = PredictionFacts(line, model_version, inference_threshold, "folder", None, None)
    items = [Item(row=int(str(row)), image_path=path, file=folder / path) for row, path in done["path"].items()]
    contents = {int(str(row)): str(sha) for row, sha in done["sha256"].items()}
    frame, _, versions = predictions_table(db, items, contents, facts, None)
    refused = landings[landings["state"] == REFUSED]
    result = InspectionResult(
        predictions=frame,
        refused=refused_table([(-1, str(row.path), str(row.rule), str(row.reason)) for row in refused.itertuples()]),
        reused=len(frame),
        versions=versions,
    )
    return landed_dataset(landings, result, folder=folder, ok_class=ok_class)


def maps_of(
    result: InspectionResult, model: Scorer, batch_size: int = 8
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Compute the anomaly maps of a result anew, row by row; files that are gone or changed have none."""
    rows = list(zip(result.predictions["row"], result.predictions["file"], result.predictions["sha256"], strict=True))
    for start in range(0, len(rows), batch_size):
        numbers, pixels = [], []
        for row, file, sha in rows[start : start + batch_size]:
            try:
                image = decode_image(Path(file))
            except UnreadableImageError:
                continue
            if image.sha256 == sha:
                numbers.append(int(row))
                pixels.append(image.pixels)
        if pixels:
            for row, scored in zip(numbers, model.predict_pixels(pixels, with_maps=True), strict=True):
                if scored.map is not None:
                    yield row, scored.map
