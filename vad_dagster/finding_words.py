"""What descriptions of findings need of a line's plan, of its last training and of its model versions."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row

from vad_dagster.plans import plan_of
from vad_dagster.registry import LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_dagster.values import last_dataset
from vad_lib.errors import VadError
from vad_lib.lines import Line
from vad_lib.words.context import LineFacts, MapOf
from vad_lib.words.nearest import KnownImage

if TYPE_CHECKING:
    from vad_lib.heatmaps import HeatmapScale
    from vad_lib.images.decoding import DecodedImage
    from vad_lib.models import InspectionModel

logger = logging.getLogger("vad.words")


def line_facts(line: Line, map_of: MapOf) -> LineFacts:
    """Return what is known about a line beside its database.

    Args:
        line: the inspection line.
        map_of: makes anomaly maps anew.

    Raises:
        InputError, PlanError: the plan cannot be read.
    """
    allowed = plan_of(line).operation.allow_images_to_leave
    try:
        dataset = last_dataset(line)
    except VadError as error:  # a description without references is better than none
        logger.warning("the rows of the last training cannot be read", extra={"line": line.name, "error": str(error)})
        dataset = None
    if dataset is None:
        return LineFacts(line.name, allowed, map_of=map_of)
    rows = dataset.rows
    is_anomalous = rows["is_anomalous"].fillna(False).astype(bool)
    normal = rows[rows["is_anomalous"].eq(False).fillna(False)]
    kinds = rows.loc[is_anomalous, "label"].dropna().astype(str).value_counts()
    return LineFacts(
        line.name,
        allowed,
        # one label for everything that is wrong, such as 'bad', is no kind
        kinds=tuple(kinds.index) if len(kinds) > 1 else (),
        normals=tuple(
            KnownImage(Path(str(file)), str(digest))
            for file, digest in zip(normal["file"], normal["sha256"], strict=True)
        ),
        map_of=map_of,
    )


def map_with_contour(
    model: Any, scale: HeatmapScale | None, image: DecodedImage
) -> tuple[NDArray[np.float32], float] | None:
    """Return the anomaly map that a model makes of an image, and its contour; None where it makes none."""
    if scale is None:
        return None
    (result,) = model.predict_pixels([image.values], with_maps=True)
    return None if result.map is None else (result.map, scale.contour)


class ModelMaps:
    """Makes the maps of predictions with the versions that made them; the one that was used last stays loaded."""

    def __init__(self, tracking: MLflowTracking) -> None:
        self._tracking = tracking
        self._turn = threading.Lock()
        self._loaded: tuple[str, InspectionModel] | None = None

    def __call__(self, record: Row[Any], image: DecodedImage) -> tuple[NDArray[np.float32], float] | None:
        """Return the map of a prediction with its contour; None where the version makes no maps.

        Raises:
            Exception: the version cannot be had any more.
        """
        with self._turn:
            if self._loaded is None or self._loaded[0] != record.model_version:
                self._loaded = record.model_version, self._load(record.line, record.model_version)
            model = self._loaded[1]
            return map_with_contour(model, model.heatmap_scale, image)

    def _load(self, line: str, label: str) -> InspectionModel:
        from vad_lib.models import InspectionModel

        registry = LineRegistry(self._tracking, line)
        return InspectionModel.load(registry.folder(registry.version(label.rpartition("/")[2])))
