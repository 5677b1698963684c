"""What an inspection needs and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from vad_lib.landing.scanning import FileKey


@dataclass(frozen=True)
class Item:
    """One file to inspect.

    ``seq`` and ``key`` are those of its landing, where it landed; ``begun`` counts inspections that died with it in
    hand, ``begun_alone`` those in which nothing else was, and ``trouble`` is what the last one could say about it. A
    file that landed must lie in ``folder``.
    """

    row: int
    image_path: str
    file: Path
    label: str | None = None
    is_anomalous: bool | None = None
    seq: int | None = None
    key: FileKey | None = None
    begun: int = 0
    begun_alone: int = 0
    trouble: str = ""
    folder: Path | None = None


@dataclass(frozen=True)
class Refusal:
    """Why an item gets no prediction. ``lasting`` is false where another attempt may go better."""

    item: Item
    rule: str
    reason: str
    sha256: str | None = None
    lasting: bool = True


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
        left: landings that could not be decided now; they are asked for again by themselves.
        versions: model version -> how many of ``predictions`` it made. More than one only where a version was
            promoted between two runs of the same batch.
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
    from vad_lib.tables import DroppedRows

    frame = pd.DataFrame(refusals, columns=["row", "image_path", "rule", "reason"])
    return DroppedRows.validate(frame.astype({"row": int, "image_path": object, "rule": object, "reason": object}))
