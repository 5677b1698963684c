"""What pictures of a line looked like when its model was trained; it is kept in the model's folder, so it moves along.

Raw values are kept, not what follows from them: thresholds and limits may change without a new training.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vad_lib.errors import UnreadableImageError
from vad_lib.images.decoding import decode_image
from vad_lib.monitoring.camera import MEASURES, measure_camera
from vad_lib.readiness.pose import LEAST_IMAGES, SAMPLE, SIDE, UsualPose, edges_of

MOST_IMAGES = 256
"""So many training images are measured; how sure a mean is grows with the root of their number only."""
GRID = 16
"""Places of an anomaly map, along each side."""
Floats = npt.NDArray[np.float32]
logger = logging.getLogger("vad.monitoring")


@dataclass(frozen=True, eq=False)
class Reference:
    """Measures of normal images. What could not be measured has no rows, or nan in them.

    Attributes:
        camera: of training images, ``MEASURES`` of each, float32 (N, 7).
        edges: median edges of the same, float32 (224, 224); (0, 0) where there were too few.
        shifts: of the same to the right and down, pixels at 224 x 224, float32 (N, 2); nan where it cannot be trusted.
        rotations: of the first 64 of them, degrees, float32 (M,); nan where it cannot be trusted.
        scores: raw scores of the normal validation images, float32 (V,).
        places: of anomaly maps of normal validation images, the highest value at each place, float32 (maps, 16, 16).
    """

    camera: Floats
    edges: Floats
    shifts: Floats
    rotations: Floats
    scores: Floats
    places: Floats

    @classmethod
    def learn(cls, files: Sequence[Path], scores: npt.ArrayLike, places: Sequence[Floats] = ()) -> Reference:
        """Measure training images.

        Args:
            files: normal images; at most 256 of them are read, spread evenly. Unreadable ones are passed over.
            scores: raw scores of the normal validation images.
            places: ``places_of`` anomaly maps of normal validation images.
        """
        step = -(-len(files) // MOST_IMAGES) or 1
        with ThreadPoolExecutor(2) as pool:
            measured = [found for found in pool.map(_measure, files[::step]) if found is not None]
        camera = np.stack([found[0] for found in measured]) if measured else np.empty((0, len(MEASURES)))
        edges = [found[1] for found in measured]
        nothing = np.empty((0, 0))
        median, shifts, rotations = nothing, np.empty((0, 2)), np.empty(0)
        if len(edges) >= LEAST_IMAGES:
            median = np.median(np.stack(edges), axis=0)
            usual = UsualPose(median.astype(np.float32))
            shifts = np.array([usual.shift(each) or (np.nan, np.nan) for each in edges])
            rotations = np.array([_rotation(usual, each) for each in edges[:SAMPLE]])
        heights = np.stack(places) if len(places) else np.empty((0, GRID, GRID))
        parts = (camera, median, shifts, rotations, np.asarray(scores), heights)
        return cls(*(np.asarray(part, dtype=np.float32) for part in parts))

    def with_scores(self, scores: npt.ArrayLike) -> Reference:
        """Return the same with other scores, as of a model that learnt more; its maps have to be learnt anew."""
        none = np.empty((0, GRID, GRID), dtype=np.float32)
        return dataclasses.replace(self, scores=np.asarray(scores, dtype=np.float32), places=none)

    def tensors(self) -> dict[str, Floats]:
        """Return all arrays by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Any]) -> Reference | None:
        """Return what ``tensors`` gave; None where a name is missing, as in a model that was made without one."""
        names = [field.name for field in dataclasses.fields(cls)]
        if not set(names) <= tensors.keys():
            return None
        return cls(*(np.asarray(tensors[name], dtype=np.float32) for name in names))


def _measure(file: Path) -> tuple[Floats, Floats] | None:
    try:
        pixels = decode_image(file).pixels
    except UnreadableImageError:
        return None
    return measure_camera(pixels), edges_of(pixels)


def _rotation(usual: UsualPose, edges: Floats) -> float:
    rotation, _, _, _, assessable = usual.estimate(edges)
    return rotation if assessable else np.nan


def places_of(anomaly_map: Floats) -> Floats:
    """Return the highest value at each of 16 x 16 places of an anomaly map, float32 (16, 16).

    Args:
        anomaly_map: (H, W), each side at least 16; a smaller one has several places a pixel.
    """
    height, width = anomaly_map.shape
    rows, columns = ((np.arange(GRID) * side // GRID) for side in (height, width))
    return np.maximum.reduceat(np.maximum.reduceat(anomaly_map, rows, axis=0), columns, axis=1).astype(np.float32)


def edges_are_known(reference: Reference) -> bool:
    """Whether there is a usual picture to compare with."""
    return reference.edges.shape == (SIDE, SIDE)
