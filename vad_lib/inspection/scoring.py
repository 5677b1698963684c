"""Ask a model about pixels, so that one image on which it fails costs the others nothing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from vad_lib.atomic_files import write_whole
from vad_lib.thresholds import Calibration, Threshold, certainty, decide


class PixelScores(NamedTuple):
    """A model's answer for one image."""

    raw_score: float
    map: npt.NDArray[np.float32] | None


class Scorer(Protocol):
    """What an inspection needs of a model: ``vad_lib.models.InspectionModel`` is one."""

    @property
    def threshold(self) -> Threshold:
        """On the raw score."""

    @property
    def calibration(self) -> Calibration:
        """From raw score to p."""

    def predict_pixels(self, images: Sequence[npt.NDArray[np.uint8]], *, with_maps: bool = False) -> Sequence[Any]:
        """Return one result an image, each with ``raw_score`` and ``map``.

        Args:
            images: uint8, (H, W) or (H, W, 3), of any sizes.
            with_maps: whether maps are wanted.
        """


def score_chunk(
    model: Scorer, images: Sequence[npt.NDArray[np.uint8]], with_maps: bool
) -> list[PixelScores | Exception]:
    """Score images together, and one by one where that fails; an image that fails alone has its error in its place."""
    try:
        return [*_ask(model, images, with_maps)]
    except Exception as error:
        if len(images) == 1:
            return [error]
    return [score_chunk(model, [image], with_maps)[0] for image in images]


def _ask(model: Scorer, images: Sequence[npt.NDArray[np.uint8]], with_maps: bool) -> list[PixelScores]:
    results = []
    for answer in model.predict_pixels(images, with_maps=with_maps):
        score = float(answer.raw_score)
        if not np.isfinite(score):
            raise ValueError(f"its score is {score}")
        results.append(PixelScores(score, answer.map))
    if len(results) != len(images):
        raise ValueError(f"{len(results)} scores for {len(images)} images")
    return results


def judge(
    raw_scores: Sequence[float], calibration: Calibration, inference_threshold: float
) -> list[tuple[float, float, str]]:
    """Return (p, certainty, predicted) of each raw score."""
    p = calibration(np.asarray(raw_scores, dtype=np.float64))
    sure = certainty(p)
    predicted = decide(p, inference_threshold)
    return [(float(a), float(b), str(c)) for a, b, c in zip(p, sure, predicted, strict=True)]


def save_map(folder: Path, sha256: str, anomaly_map: npt.NDArray[np.float32]) -> None:
    """Write a map whole or not at all, as ``<sha256>.npy``, float32."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    np.save(stream, np.asarray(anomaly_map, dtype=np.float32), allow_pickle=False)
    write_whole(folder / f"{sha256}.npy", stream.getvalue(), durable=False)
