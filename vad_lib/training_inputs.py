"""What a training is made from: told before it, so that nothing is trained twice, and after it, so that twins are seen.

:func:`digest_of_inputs` is quick: it looks at files as the file system describes them, and opens no image.
:func:`digest_of_model` is exact: it knows the contents of the images.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vad_lib.detectors.registry import find_detector
from vad_lib.encoders.store import read_sidecar, weight_files
from vad_lib.images.paths import as_meant
from vad_lib.models import library_versions
from vad_lib.plan import ExperimentalPlan

if TYPE_CHECKING:
    import pandas as pd

    from vad_lib.ground_truth import InputTable
    from vad_lib.models import ModelInfo
    from vad_lib.plan import TrainArguments
    from vad_lib.readiness import ValidatedDataset
    from vad_lib.thresholds import Threshold


def digest_of_inputs(
    plan: ExperimentalPlan,
    table: InputTable,
    weights_folder: Path,
    *,
    labels: pd.DataFrame | None = None,
    enough_inspected: bool = False,
) -> str:
    """Return a sha256 of what a training is made from.

    That is the table, the files that it names, people's labels, the plan's part in a training, the weights and the
    code. Whether the image of a label can still be had does not count: to know it, every image would have to be read.

    Args:
        plan: of the line, without what an operator entered.
        table: as it was read, without the rows of labels.
        weights_folder: the weights store.
        labels: that hold on the line, with sha256 of the image and label.
        enough_inspected: whether the line has inspected the images that ``threshold_from_first`` waits for.
    """
    backbone = find_detector(plan.train.model_name).own(plan.train.model_parameters).backbone()
    mine = [
        file
        for file in weight_files(weights_folder)
        if file.name.startswith(backbone) or read_sidecar(file).get("architecture") == backbone
    ]
    paths = [path for path in table.table.get(table.path_column, ()) if isinstance(path, str) and path.strip()]
    return _sha256(
        {
            "folder": str(table.data_folder),
            "columns": list(map(str, table.table.columns)),
            "cells": table.table.to_numpy().tolist(),
            "images": [_facts_of(table.data_folder / as_meant(table.data_folder, path)) for path in paths],
            "plan": {name: getattr(plan, name).model_dump(mode="json") for name in ("input", "readiness", "train")},
            "weights": [[file.name, _facts_of(file)] for file in mine],
            "code": library_versions(),
            "labels": [] if labels is None else sorted(zip(labels["sha256"], labels["label"], strict=True)),
            "enough_inspected": enough_inspected,
        }
    )


def digest_of_model(dataset: ValidatedDataset, train: TrainArguments, info: ModelInfo, threshold: Threshold) -> str:
    """Return a sha256 of everything that makes a model what it is. Two versions with the same one are twins.

    A threshold that was learnt follows from the rest; one that a person chose, or that comes from inspected images, is
    a thing of its own.

    Args:
        dataset: that it was fitted and validated on.
        train: the arguments in force.
        info: of the model; its weights and the versions of the code count.
        threshold: in force.
    """
    chosen = None if threshold.rule else threshold.value
    return _sha256(
        {
            "dataset": dataset.digest,
            "ok_class": dataset.ok_class,
            "train": train.model_dump(mode="json"),
            "weights": info.backbone.get("sha256"),
            "code": info.versions,
            "threshold": [threshold.method, threshold.percentile, chosen, threshold.note],
        }
    )


def _facts_of(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
