"""A model that inspects: detector, image size, threshold and calibration in one folder, and results for files.

The folder holds ``model.safetensors`` and ``detector.json`` (see ``detectors.storage``); nothing in it is pickled, and
both checksums are verified when it is loaded.
"""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import vad_lib
from vad_lib.errors import ModelFormatError, UnreadableImageError
from vad_lib.images.decoding import StoredPixels, decode_image
from vad_lib.preprocessing import Preprocessing
from vad_lib.progress import Progress, ProgressMeter, silent
from vad_lib.thresholds import Calibration, DecisionRule, Threshold

if TYPE_CHECKING:
    import torch

    from vad_lib.detectors.base import Detector, Scores
    from vad_lib.heatmaps import HeatmapScale
    from vad_lib.monitoring.reference import Reference
    from vad_lib.training import FittedDetector

READERS = 2
"""Threads that decode images ahead of the scoring."""
REFERENCE = "reference."
"""Begins the names of the tensors of ``InspectionModel.reference``; no detector has such names."""


class ModelInfo(BaseModel):
    """What a model says about itself."""

    model_config = ConfigDict(frozen=True)

    model_name: str = Field(description="The detector, as in the plan.")
    ok_class: str = Field(description="The normal label.")
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    n_train: int = Field(ge=0, description="Images that it learnt from.")
    fit_seconds: float = Field(default=0.0, ge=0)
    backbone: dict[str, Any] = Field(description="Name, what was asked for, source, file and sha256 of the weights.")
    arguments: dict[str, Any] = Field(description="The train arguments in force.")
    versions: dict[str, str] = Field(default_factory=lambda: library_versions())
    notices: tuple[str, ...] = Field(default=(), description="What the user should know.")
    extra: dict[str, Any] = Field(default_factory=dict, description="Anything else, JSON-ready.")

    @classmethod
    def of_fit(cls, fitted: FittedDetector, ok_class: str, **extra: Any) -> ModelInfo:
        """Describe a fitted detector."""
        return cls(
            model_name=fitted.detector.name,
            ok_class=ok_class,
            n_train=fitted.n_train,
            fit_seconds=round(fitted.seconds, 3),
            backbone=fitted.weights.to_json(),
            arguments=fitted.arguments.model_dump(mode="json"),
            notices=fitted.notices,
            extra=extra,
        )


@dataclass(frozen=True)
class PixelResult:
    """The result of one image.

    Attributes:
        raw_score: float32 value; larger is more anomalous.
        p: calibrated score in (0, 1), 0.5 at the trained threshold.
        certainty: 1 - H2(p), in 0..1.
        predicted: 'OK' or 'NG'.
        map: float32 (H, W) at the size that the detector saw, or None where none was asked for.
    """

    raw_score: float
    p: float
    certainty: float
    predicted: str
    map: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class ImageResult:
    """The result of one file: either scores, or the reason why there are none.

    Attributes:
        index: position of the file in the list that was given.
        file: as given.
        sha256: of the file's bytes; None where it could not be read.
        error: short reason where the image could not be read or scored; the fields of scores are None then.
    """

    index: int
    file: Path
    sha256: str | None
    raw_score: float | None
    p: float | None
    certainty: float | None
    predicted: str | None
    map: npt.NDArray[np.float32] | None
    error: str | None = None


class InspectionModel:
    """Scores images and decides.

    Args:
        detector: fitted.
        preprocessing: the one it was fitted with.
        threshold: on the raw score.
        calibration: from raw score to p.
        info: about the model.
        heatmap_scale: colours of its heatmaps; None where it makes none.
        reference: measures of normal images, by which drift is seen; None where it was made without.
    """

    def __init__(
        self,
        detector: Detector,
        preprocessing: Preprocessing,
        threshold: Threshold,
        calibration: Calibration,
        info: ModelInfo,
        heatmap_scale: HeatmapScale | None = None,
        reference: Reference | None = None,
    ) -> None:
        self.detector = detector
        self.preprocessing = preprocessing
        self.threshold = threshold
        self.calibration = calibration
        self.info = info
        self.heatmap_scale = heatmap_scale
        self.reference = reference

    def with_threshold(self, threshold: Threshold) -> InspectionModel:
        """Return the same model with another threshold; nothing is fitted again."""
        calibration = self.calibration.moved_to(threshold.value)
        parts = (self.info, self.heatmap_scale, self.reference)
        return InspectionModel(self.detector, self.preprocessing, threshold, calibration, *parts)

    def predict_files(
        self,
        files: Sequence[Path],
        batch_size: int = 8,
        progress: Progress = silent,
        with_maps: bool = False,
        inference_threshold: float = 0.5,
    ) -> Iterator[ImageResult]:
        """Yield one result for each file, in the order of ``files``.

        Images are decoded by threads ahead of the scoring. A file that cannot be read or scored has its reason in
        ``error`` and takes nothing from the others. The batch size does not change any result.

        Args:
            files: image files.
            batch_size: images scored together; twice as many are held in memory.
            progress: told of every batch.
            with_maps: whether maps are wanted.
            inference_threshold: on p; NG from there on.
        """
        meter = ProgressMeter(progress, "Inspecting", len(files))
        with ThreadPoolExecutor(READERS, thread_name_prefix="vad-decode") as pool:
            waiting: deque[tuple[int, Future[_Read]]] = deque()
            rest = iter(enumerate(files))
            while True:
                while len(waiting) < 2 * batch_size and (following := next(rest, None)) is not None:
                    index, file = following
                    waiting.append((index, pool.submit(_read, index, Path(file), self.preprocessing)))
                if not waiting:
                    return
                reads = [waiting.popleft()[1].result() for _ in range(min(batch_size, len(waiting)))]
                yield from self._results(reads, with_maps, inference_threshold)
                meter.advance(len(reads))

    def predict_pixels(
        self,
        images: Sequence[StoredPixels],
        *,
        with_maps: bool = False,
        inference_threshold: float = 0.5,
    ) -> list[PixelResult]:
        """Score decoded images, uint8 (H, W) grey or (H, W, 3) RGB or uint16 (H, W), of any sizes, or fail with one."""
        prepared = [self.preprocessing.prepare(pixels) for pixels in images]
        scored = self._score(prepared, with_maps)
        return self._decide(scored, inference_threshold)

    def _results(self, reads: list[_Read], with_maps: bool, inference_threshold: float) -> Iterator[ImageResult]:
        good = [read for read in reads if read.image is not None]
        outcomes: dict[int, PixelResult | str] = {read.index: read.error or "" for read in reads}
        for read, outcome in zip(good, self._decide_each(good, with_maps, inference_threshold), strict=True):
            outcomes[read.index] = outcome
        for read in reads:
            outcome = outcomes[read.index]
            if isinstance(outcome, str):
                yield ImageResult(read.index, read.file, read.sha256, None, None, None, None, None, outcome)
            else:
                yield ImageResult(
                    read.index,
                    read.file,
                    read.sha256,
                    outcome.raw_score,
                    outcome.p,
                    outcome.certainty,
                    outcome.predicted,
                    outcome.map,
                )

    def _decide_each(self, reads: list[_Read], with_maps: bool, inference_threshold: float) -> list[PixelResult | str]:
        """Score together; where that fails, one by one, so that only the image at fault has no result."""
        images = [read.image for read in reads if read.image is not None]
        try:
            return list(self._decide(self._score(images, with_maps), inference_threshold))
        except Exception as error:
            if len(reads) <= 1:
                return [f"could not be scored ({error})" for _ in reads]
            return [self._decide_each([read], with_maps, inference_threshold)[0] for read in reads]

    def _score(
        self, prepared: list[torch.Tensor], with_maps: bool
    ) -> list[tuple[float, npt.NDArray[np.float32] | None]]:
        import torch

        by_shape: dict[tuple[int, ...], list[int]] = {}
        for position, image in enumerate(prepared):
            by_shape.setdefault(tuple(image.shape), []).append(position)
        found: dict[int, tuple[float, npt.NDArray[np.float32] | None]] = {}
        for positions in by_shape.values():
            scores: Scores = self.detector.score(
                torch.stack([prepared[position] for position in positions]), with_maps=with_maps
            )
            for place, position in enumerate(positions):
                found[position] = float(scores.scores[place]), None if scores.maps is None else scores.maps[place]
        return [found[position] for position in range(len(prepared))]

    def _decide(
        self, scored: list[tuple[float, npt.NDArray[np.float32] | None]], inference_threshold: float
    ) -> list[PixelResult]:
        judged = DecisionRule(self.calibration, inference_threshold).judge([raw for raw, _ in scored])
        return [
            PixelResult(raw, float(p), float(certainty), str(predicted), anomaly_map)
            for (raw, anomaly_map), p, certainty, predicted in zip(scored, *judged, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """Return everything but the tensors, JSON-ready."""
        return {
            "detector": self.detector.describe(),
            "preprocessing": self.preprocessing.to_json(),
            "threshold": self.threshold.model_dump(mode="json", exclude={"version"}),
            "threshold_version": self.threshold.version,
            "calibration": self.calibration.model_dump(mode="json"),
            "heatmap_scale": None if self.heatmap_scale is None else self.heatmap_scale.model_dump(mode="json"),
            "info": self.info.model_dump(mode="json"),
        }

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` and ``detector.json``; the latter last, so that a folder with it is whole."""
        import torch

        from vad_lib.detectors.storage import write_model_folder

        arrays = self.reference.tensors() if self.reference else {}
        known = {f"{REFERENCE}{name}": torch.from_numpy(array) for name, array in arrays.items()}
        write_model_folder(folder, {**self.detector.state_dict(), **known}, self.describe())

    @classmethod
    def load(cls, folder: Path, *, accelerator: str = "cpu") -> InspectionModel:
        """Load what ``save`` wrote.

        Raises:
            ModelFormatError: a file is missing, damaged, changed by hand, or of another version.
            PlanError: a GPU was asked for and there is none.
        """
        from vad_lib.detectors.storage import read_model_folder

        tensors, description = read_model_folder(Path(folder))
        return cls._from(description, tensors, accelerator)

    @classmethod
    def load_checkpoint(cls, file: Path, *, accelerator: str = "cpu") -> InspectionModel:
        """Load the checkpoint of a train tree; nothing but tensors and text is read from it.

        Raises:
            ModelFormatError: it is not such a file, or is damaged.
        """
        from vad_lib.detectors.storage import read_checkpoint

        tensors, description = read_checkpoint(file)
        return cls._from(description, tensors, accelerator)

    @classmethod
    def _from(cls, description: dict[str, Any], tensors: dict[str, torch.Tensor], accelerator: str) -> InspectionModel:
        from vad_lib.detectors.registry import detector_from_description
        from vad_lib.heatmaps import HeatmapScale
        from vad_lib.monitoring.reference import Reference

        known = {name: tensors.pop(name).numpy() for name in list(tensors) if name.startswith(REFERENCE)}
        reference = Reference.of_tensors({name.removeprefix(REFERENCE): array for name, array in known.items()})
        try:
            scale = description["heatmap_scale"]
            described = description["detector"]
            parts = (
                Preprocessing.from_json(description["preprocessing"]),
                Threshold.model_validate(description["threshold"]),
                Calibration.model_validate(description["calibration"]),
                ModelInfo.model_validate(description["info"]),
                None if scale is None else HeatmapScale.model_validate(scale),
            )
        except (KeyError, TypeError, ValidationError) as error:
            raise ModelFormatError(f"The model's description is incomplete: {error}.") from error
        threshold, calibration = parts[1], parts[2]
        if not calibration.belongs_to(threshold):
            raise ModelFormatError(
                f"The model contradicts itself: its threshold is {threshold.value:.6g}, and its calibration is about "
                f"{calibration.threshold:.6g}. It was changed by hand: copy it again, or train the line again."
            )
        # last, because it takes longest
        return cls(detector_from_description(described, tensors, accelerator=accelerator), *parts, reference)


@dataclass(frozen=True)
class _Read:
    index: int
    file: Path
    sha256: str | None
    image: torch.Tensor | None
    error: str | None


def _read(index: int, file: Path, preprocessing: Preprocessing) -> _Read:
    try:
        decoded = decode_image(file)
        prepared = preprocessing.prepare(decoded.values)
    except UnreadableImageError as error:
        return _Read(index, file, None, None, error.reason)
    except Exception as error:  # whatever one file does to a decoder must stay with that file
        return _Read(index, file, None, None, f"could not be read ({error})")
    return _Read(index, file, decoded.sha256, prepared, None)


def library_versions() -> dict[str, str]:
    """Return the versions that a model's scores depend on."""
    found = {"vad": vad_lib.__version__, "python": platform.python_version()}
    for name in ("torch", "torchvision", "timm", "anomalib", "numpy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
