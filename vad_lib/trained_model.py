"""A fitted detector with everything about its fit that later steps tell, as one folder of readable files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vad_lib.forecast import Actual, Comparison, Forecast, compare
from vad_lib.json_record import JsonRecord
from vad_lib.models import InspectionModel, ModelInfo
from vad_lib.plan import TrainArguments
from vad_lib.preprocessing import Preprocessing

if TYPE_CHECKING:
    from vad_lib.detectors.base import Detector
    from vad_lib.heatmaps import HeatmapScale
    from vad_lib.monitoring.reference import Reference
    from vad_lib.thresholds import LearntThreshold
    from vad_lib.training import FittedDetector


class FitRecord(JsonRecord):
    """What is known about a fit.

    Attributes:
        info: what the model says about itself.
        train: the arguments in force, after automatic changes.
        preprocessing: from pixels to the detector's input, JSON-ready.
        epochs: one mapping of numbers an epoch; empty for a detector without epochs.
        numbers: counts and sizes of the fit worth showing.
        run_id: the MLflow run.
        plan_digest: of the plan in force.
        forecast: what the fit was expected to take.
        actual: what it took.
    """

    info: ModelInfo
    train: TrainArguments
    preprocessing: dict[str, Any]
    epochs: list[dict[str, Any]]
    numbers: dict[str, float]
    run_id: str
    plan_digest: str
    forecast: Forecast
    actual: Actual

    def comparisons(self, ms_per_image: float | None = None) -> list[Comparison]:
        """Return forecast and actual numbers side by side; ``ms_per_image`` is what scoring took, once it is known."""
        return compare(self.forecast, self.actual, ms_per_image)


@dataclass(frozen=True)
class TrainedModel:
    """A fitted detector and the record of its fit."""

    detector: Detector
    fit: FitRecord

    @classmethod
    def of_fit(
        cls,
        fitted: FittedDetector,
        ok_class: str,
        *,
        line: str,
        run_id: str,
        plan_digest: str,
        forecast: Forecast,
        peak_memory_bytes: int,
    ) -> TrainedModel:
        """Keep what a fit gave."""
        return cls(
            fitted.detector,
            FitRecord(
                info=ModelInfo.of_fit(fitted, ok_class, line=line, mlflow_run_id=run_id, plan_digest=plan_digest),
                train=fitted.arguments,
                preprocessing=fitted.preprocessing.to_json(),
                epochs=[asdict(epoch) for epoch in fitted.history],
                numbers=dict(fitted.report.numbers),
                run_id=run_id,
                plan_digest=plan_digest,
                forecast=forecast,
                actual=Actual.of_fit(fitted.detector, fitted.seconds, peak_memory_bytes),
            ),
        )

    @property
    def preprocessing(self) -> Preprocessing:
        """From pixels to the detector's input."""
        return Preprocessing.from_json(self.fit.preprocessing)

    @property
    def scores_like(self) -> str:
        """A sha256 of detector and preprocessing, without the threshold: equal ones give an image the same score."""
        told = [self.detector.describe(), self.preprocessing.to_json()]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def with_threshold(
        self, learnt: LearntThreshold, scale: HeatmapScale | None = None, reference: Reference | None = None
    ) -> InspectionModel:
        """Return the model that inspects."""
        return InspectionModel(
            self.detector, self.preprocessing, learnt.threshold, learnt.calibration, self.fit.info, scale, reference
        )

    def save(self, folder: Path) -> None:
        self.detector.save(folder / "detector")
        self.fit.save(folder)

    @classmethod
    def load(cls, folder: Path) -> TrainedModel:
        from vad_lib.detectors.registry import load_detector

        fit = FitRecord.load(folder)
        return cls(load_detector(folder / "detector", accelerator=fit.train.accelerator), fit)
