"""Ask a model about pixels, so that one image on which it fails costs the others nothing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from vad_lib.atomic_files import write_whole
from vad_lib.images.decoding import StoredPixels
from vad_lib.monitoring import Monitor, MonitorSettings
from vad_lib.thresholds import Calibration, DecisionRule, Threshold


class PixelScores(NamedTuple):
    """A model's answer for one image."""

    raw_score: float
    map: npt.NDArray[np.float32] | None


class Model(Protocol):
    """What an inspection needs of a model: ``vad_lib.models.InspectionModel`` is one."""

    @property
    def threshold(self) -> Threshold:
        """On the raw score."""

    @property
    def calibration(self) -> Calibration:
        """From raw score to p."""

    def predict_pixels(self, images: Sequence[StoredPixels], *, with_maps: bool = False) -> Sequence[Any]:
        """Return one result an image, each with ``raw_score`` and ``map``.

        Args:
            images: uint8, (H, W) or (H, W, 3), or uint16 (H, W) of 16-bit grey; of any sizes.
            with_maps: whether maps are wanted.
        """


def score_chunk(model: Model, images: Sequence[StoredPixels], with_maps: bool) -> list[PixelScores | Exception]:
    """Score images together, and one by one where that fails; an image that fails alone has its error in its place."""
    try:
        return [*_ask(model, images, with_maps)]
    except Exception as error:
        if len(images) == 1:
            return [error]
    return [score_chunk(model, [image], with_maps)[0] for image in images]


def _ask(model: Model, images: Sequence[StoredPixels], with_maps: bool) -> list[PixelScores]:
    results = []
    for answer in model.predict_pixels(images, with_maps=with_maps):
        score = float(answer.raw_score)
        if not np.isfinite(score):
            raise ValueError(f"its score is {score}")
        results.append(PixelScores(score, answer.map))
    if len(results) != len(images):
        raise ValueError(f"{len(results)} scores for {len(images)} images")
    return results


@dataclass(frozen=True)
class Served:
    """A model in service: which one it is, and how its scores are decided.

    Attributes:
        model: what scores.
        version: the registry's label of it; part of what makes a prediction unique.
        inference_threshold: on p; NG at or above it.
        monitor: watches over what it decides; None: nobody does.
    """

    model: Model
    version: str
    inference_threshold: float = 0.5
    monitor: Monitor | None = None

    @cached_property
    def rule(self) -> DecisionRule:
        """What decides."""
        return DecisionRule(self.model.calibration, self.inference_threshold)


def monitor_of(model: Any, inference_threshold: float, settings: MonitorSettings | None) -> Monitor | None:
    """Return what watches over the decisions of a model; None where the plan wants none."""
    if settings is None:
        return None
    return Monitor(getattr(model, "reference", None), DecisionRule(model.calibration, inference_threshold), settings)


PROBE = np.full((64, 64, 3), 127, dtype=np.uint8)


def is_well(model: Model) -> bool:
    """Whether the model can score an ordinary image: else it is to blame for failing, and no file is."""
    return not isinstance(score_chunk(model, [PROBE], False)[0], Exception)


def map_file(folder: Path, sha256: str) -> Path:
    """Return where the anomaly map of an image content lies."""
    return folder / f"{sha256}.npy"


def save_map(folder: Path, sha256: str, anomaly_map: npt.NDArray[np.float32]) -> None:
    """Write a map whole or not at all, as ``<sha256>.npy``, float32."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    np.save(stream, np.asarray(anomaly_map, dtype=np.float32), allow_pickle=False)
    write_whole(map_file(folder, sha256), stream.getvalue(), durable=False)
