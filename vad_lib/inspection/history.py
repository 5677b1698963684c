"""What was decided about incoming files, as a dataset and a result: those of a run, or of a stretch of time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from vad_lib.errors import InputError, UnreadableImageError
from vad_lib.images.decoding import decode_image
from vad_lib.inspection.model import Model, Served
from vad_lib.inspection.prediction_table import Row, predictions_table
from vad_lib.inspection.result import InspectionResult, refused_table
from vad_lib.inspection.worker import Worker, work_on
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.schema import BATCH, DONE, REFUSED, SUPERSEDED_RULES
from vad_lib.lines import Line
from vad_lib.progress import Progress, ProgressMeter, silent
from vad_lib.queue import expire, kept_leases, new_worker, queue_facts
from vad_lib.readiness.dataset import ValidatedDataset
from vad_lib.tables import DroppedRows, ValidatedRows


def inspect_queue(
    db: InspectionDatabase,
    line: Line,
    served: Served,
    *,
    run_id: str,
    most: int = 10_000,
    chunk: int = 8,
    maps_folder: Path | None = None,
    progress: Progress = silent,
) -> int:
    """Work on the queue of a line until nothing waits, as a run does; return how many images this call decided.

    Args:
        db: the inspection database.
        line: the inspection line.
        served: what scores.
        run_id: the Dagster run; ``result_of_run`` gives what it decided.
        most: files after which it ends, though more may wait.
        chunk: images read, scored and recorded together; a death costs at most so many.
        maps_folder: where anomaly maps go; None: no maps.
        progress: told about each chunk.

    Raises:
        InputError, Exception: as ``vad_lib.inspection.worker.work_on``.
    """
    expire(db)
    waiting = queue_facts(db).get(line.name)
    meter = ProgressMeter(progress, "inspecting", min(most, waiting.pending if waiting else 0))
    worker = Worker(new_worker(), BATCH, run_id, maps_folder)
    decided = 0
    with db.kept_open(), kept_leases(db, worker.name):
        more = True
        while more and decided < most:
            made, more = work_on(db, line, served, worker, min(chunk, most - decided))
            decided += len(made)
            meter.advance(len(made))
    return decided


def result_of_run(
    db: InspectionDatabase, line: str, run_id: str, *, maps_folder: Path | None = None, **how: Any
) -> tuple[ValidatedDataset, InspectionResult]:
    """Return the incoming files that a run decided, as a dataset and a result; ``how`` as for ``inspected_between``."""
    made = len(db.predictions(line, run_id=run_id))
    dataset, result = _as_result(db, line, db.incoming_files(line, run_id=run_id), maps_folder=maps_folder, **how)
    waiting = queue_facts(db).get(line)
    left = waiting.pending if waiting else 0
    return dataset, replace(result, scored=made, reused=len(result.predictions) - made, left=left)


def decided_online(
    db: InspectionDatabase, line: str, *, since: datetime, **how: Any
) -> tuple[ValidatedDataset, InspectionResult]:
    """Return the incoming files that services decided from a moment on; ``how`` as for ``inspected_between``."""
    files = db.incoming_files(line, decided_since=since)
    return _as_result(db, line, files[files["run_id"].isna()], **how)


def inspected_between(
    db: InspectionDatabase, line: str, *, since: datetime | None = None, before: datetime | None = None, **how: Any
) -> tuple[ValidatedDataset, InspectionResult]:
    """Return the incoming files that were decided in a stretch of time, whoever decided them. Nothing is scored.

    Args:
        db: the inspection database.
        line: name of the line.
        since: decided then or later; None: from the beginning.
        before: decided earlier than that; None: until now.
        how: ``folder`` (the watch folder), ``model_version`` (its prediction is taken where an image has several, else
            the newest), ``inference_threshold`` (on p, with which images are decided anew) and ``ok_class`` (the
            model's normal label).

    Raises:
        InputError: nothing was decided then.
    """
    files = db.incoming_files(line, decided_since=since, decided_before=before)
    if not files["state"].isin([DONE, REFUSED]).any():
        raise InputError(f"Nothing that arrived on the line {line!r} was decided in that time.")
    return _as_result(db, line, files, **how)


def _as_result(
    db: InspectionDatabase,
    line: str,
    files: pd.DataFrame,
    *,
    folder: Path,
    model_version: str,
    inference_threshold: float = 0.5,
    ok_class: str = "",
    maps_folder: Path | None = None,
) -> tuple[ValidatedDataset, InspectionResult]:
    shown = _shown(files)
    named = list(zip(map(int, shown.index), shown.itertuples(), strict=True))
    frame, map_files, versions = predictions_table(
        db,
        line,
        [
            Row(number, str(file.path), Path(str(file.folder)) / str(file.path), str(file.sha256))
            for number, file in named
            if file.state == DONE
        ],
        model_version=model_version,
        inference_threshold=inference_threshold,
        maps_folder=maps_folder,
    )
    refused = refused_table(
        [(number, str(file.path), str(file.rule), str(file.reason)) for number, file in named if file.state == REFUSED]
    )
    result = InspectionResult(frame, refused, map_files, reused=len(frame), versions=versions)
    return _dataset_of(shown, folder, ok_class), result


def _shown(files: pd.DataFrame) -> pd.DataFrame:
    """Every image that was decided has its row, also where a later one came under the same name.

    A refused version of a file is left out where another version followed it: what became of the file is said there.
    """
    files = files[files["state"].isin([DONE, REFUSED])].sort_values(["path", "file_id"], ignore_index=True)
    followed = files["path"].eq(files["path"].shift(-1))
    superseded = (files["state"] == REFUSED) & (followed | files["rule"].isin(SUPERSEDED_RULES))
    return files[~superseded].reset_index(drop=True)


def _dataset_of(shown: pd.DataFrame, folder: Path, ok_class: str) -> ValidatedDataset:
    """Incoming files have no table: there is one column of paths, relative to the watch folder, and no label.

    Images were checked when they were inspected, so nothing is decoded again.
    """
    return ValidatedDataset(
        rows=ValidatedRows.validate(pd.DataFrame(columns=list(ValidatedRows.to_schema().columns))),
        dropped=DroppedRows.validate(refused_table([])),
        image_facts=pd.DataFrame(),
        input_table=pd.DataFrame({"image_path": shown["path"].astype(object)}),
        data_folder=folder,
        path_column="image_path",
        label_column=None,
        source_files=(),
        made_from_images=True,
        ok_class=ok_class,
        threshold_method="",
        monitor_metric="",
        changes=(),
        findings=(),
        arguments={},
    )


def maps_of(
    result: InspectionResult, model: Model, batch_size: int = 8
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
                pixels.append(image.values)
        if pixels:
            for row, scored in zip(numbers, model.predict_pixels(pixels, with_maps=True), strict=True):
                if scored.map is not None:
                    yield row, scored.map
