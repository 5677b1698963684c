"""Landed files as a dataset, for the artifact tree of their inspection: those of a batch, or of a stretch of time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from vad_lib.inspection.results import InspectionResult
from vad_lib.readiness.dataset import ValidatedDataset
from vad_lib.tables import DroppedRows, ValidatedRows


def landed_dataset(
    landings: pd.DataFrame, result: InspectionResult, *, folder: Path, ok_class: str = ""
) -> tuple[ValidatedDataset, InspectionResult]:
    """Return landings as a dataset with one row each, and the result with refused files at their rows.

    Landed files have no table: there is one column of paths, relative to the landing folder, and no label. Images were
    checked when they were inspected, so nothing is decoded again.

    Args:
        landings: in the order of rows of ``result``.
        result: of their inspection.
        folder: the landing folder.
        ok_class: the model's normal label.
    """
    position = {path: row for row, path in enumerate(landings["path"])}
    refused = result.refused.assign(row=[position.get(path, -1) for path in result.refused["image_path"]])
    dataset = ValidatedDataset(
        rows=ValidatedRows.validate(pd.DataFrame(columns=list(ValidatedRows.to_schema().columns))),
        dropped=DroppedRows.validate(result.refused.head(0)),
        image_facts=pd.DataFrame(),
        input_table=pd.DataFrame({"image_path": landings["path"].astype(object)}),
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
    return dataset, replace(result, refused=DroppedRows.validate(refused))
