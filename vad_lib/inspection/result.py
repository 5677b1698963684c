"""What an inspection gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from vad_lib.tables import DroppedRows


@dataclass(frozen=True)
class InspectionResult:
    """What is known about every file that was given.

    Attributes:
        predictions: one row a readable image that is no duplicate (``tables.Predictions``), in order of ``row``;
            results recorded earlier are among them.
        refused: one row a refused file (``tables.DroppedRows``).
        map_files: row -> file with the anomaly map, float32 (H, W), where maps were asked for and the detector makes
            them; read it with ``load_map``.
        scored: images that this call scored.
        reused: images whose result was recorded before, by whomever.
        left: files that could not be decided now; they are offered again by themselves.
        versions: model version -> how many of ``predictions`` it made. More than one only where a version was
            promoted meanwhile.
        seconds: spent in this call.
    """

    predictions: pd.DataFrame
    refused: pd.DataFrame
    map_files: Mapping[int, Path] = field(default_factory=dict)
    scored: int = 0
    reused: int = 0
    left: int = 0
    versions: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def load_map(self, row: int) -> npt.NDArray[np.float32]:
        """Return the anomaly map of a row, float32 (H, W) in the detector's resolution.

        Raises:
            KeyError: the row has no map.
        """
        loaded: npt.NDArray[np.float32] = np.load(self.map_files[row], allow_pickle=False)
        return loaded


def refused_table(refusals: Sequence[tuple[int, str, str, str]]) -> pd.DataFrame:
    """Make a ``tables.DroppedRows`` of (row, image_path, rule, reason)."""
    frame = pd.DataFrame(refusals, columns=["row", "image_path", "rule", "reason"])
    return DroppedRows.validate(frame.astype({"row": int, "image_path": object, "rule": object, "reason": object}))
