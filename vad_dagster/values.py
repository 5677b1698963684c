"""What passes between assets where no type of vad_lib does: each writes itself to a folder of readable files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from vad_lib.forecast import Comparison, Forecast, Truth, compare
from vad_lib.metrics import Evaluation
from vad_lib.models import InspectionModel, ModelInfo
from vad_lib.plan import TrainArguments
from vad_lib.preprocessing import Preprocessing
from vad_lib.promotion import PromotionDecision
from vad_lib.thresholds import Calibration, Threshold

if TYPE_CHECKING:
    from vad_lib.detectors.base import Detector
    from vad_lib.heatmaps import HeatmapScale
    from vad_lib.training import FittedDetector

RECORD_FILE = "record.json"


class Record(BaseModel):
    """A value that is one JSON file."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD_FILE).write_text(self.model_dump_json(indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls.model_validate_json((folder / RECORD_FILE).read_text(encoding="utf-8"))


class _TrainedRecord(Record):
    info: ModelInfo
    train: TrainArguments
    preprocessing: dict[str, Any]
    epochs: list[dict[str, Any]]
    numbers: dict[str, float]
    run_id: str
    plan_digest: str
    forecast: Forecast | None = None
    truth: Truth | None = None


@dataclass(frozen=True)
class TrainedModel:
    """A fitted detector and everything about its fit that later steps tell.

    Attributes:
        detector: fitted.
        preprocessing: from pixels to its input.
        info: what the model says about itself.
        train: the arguments in force, after automatic changes.
        epochs: one mapping of numbers an epoch; empty for a detector without epochs.
        numbers: counts and sizes of the fit worth showing.
        run_id: the MLflow run.
        plan_digest: of the plan in force.
        forecast: what the fit was expected to take; None in a store that an earlier version wrote, as is ``truth``.
        truth: what it took.
    """

    detector: Detector
    preprocessing: Preprocessing
    info: ModelInfo
    train: TrainArguments
    epochs: list[dict[str, Any]]
    numbers: dict[str, float]
    run_id: str
    plan_digest: str
    forecast: Forecast | None = None
    truth: Truth | None = None

    @classmethod
    def of_fit(
        cls,
        fitted: FittedDetector,
        ok_class: str,
        *,
        line: str,
        run_id: str,
        plan_digest: str,
        forecast: Forecast | None = None,
        truth: Truth | None = None,
    ) -> TrainedModel:
        """Keep what a fit gave."""
        return cls(
            detector=fitted.detector,
            preprocessing=fitted.preprocessing,
            info=ModelInfo.of_fit(fitted, ok_class, line=line, mlflow_run_id=run_id, plan_digest=plan_digest),
            train=fitted.arguments,
            epochs=[asdict(epoch) for epoch in fitted.history],
            numbers=dict(fitted.report.numbers),
            run_id=run_id,
            plan_digest=plan_digest,
            forecast=forecast,
            truth=truth,
        )

    def comparisons(self, ms_per_image: float | None = None) -> list[Comparison]:
        """Return forecast and truth side by side; ``ms_per_image`` is the truth of scoring, once it is known."""
        if self.forecast is None or self.truth is None:
            return []
        return compare(self.forecast, self.truth, ms_per_image)

    def with_threshold(self, learnt: LearntThreshold, scale: HeatmapScale | None = None) -> InspectionModel:
        """Return the model that inspects."""
        return InspectionModel(
            self.detector, self.preprocessing, learnt.threshold, learnt.calibration, self.info, scale
        )

    def save(self, folder: Path) -> None:
        self.detector.save(folder / "detector")
        _TrainedRecord(
            info=self.info,
            train=self.train,
            preprocessing=self.preprocessing.to_json(),
            epochs=self.epochs,
            numbers=self.numbers,
            run_id=self.run_id,
            plan_digest=self.plan_digest,
            forecast=self.forecast,
            truth=self.truth,
        ).save(folder)

    @classmethod
    def load(cls, folder: Path) -> TrainedModel:
        from vad_lib.detectors.registry import load_detector

        record = _TrainedRecord.load(folder)
        return cls(
            detector=load_detector(folder / "detector", accelerator=record.train.accelerator),
            preprocessing=Preprocessing.from_json(record.preprocessing),
            info=record.info,
            train=record.train,
            epochs=record.epochs,
            numbers=record.numbers,
            run_id=record.run_id,
            plan_digest=record.plan_digest,
            forecast=record.forecast,
            truth=record.truth,
        )


class _ThresholdRecord(Record):
    threshold: Threshold
    calibration: Calibration


@dataclass(frozen=True)
class LearntThreshold:
    """The threshold in force, its calibration, and the sweep that it was picked from (``tables.ThresholdTable``)."""

    threshold: Threshold
    calibration: Calibration
    table: pd.DataFrame

    def save(self, folder: Path) -> None:
        _ThresholdRecord(threshold=self.threshold, calibration=self.calibration).save(folder)
        self.table.to_parquet(folder / "threshold_table.parquet", index=False)

    @classmethod
    def load(cls, folder: Path) -> LearntThreshold:
        record = _ThresholdRecord.load(folder)
        return cls(record.threshold, record.calibration, pd.read_parquet(folder / "threshold_table.parquet"))


class ModelEvaluation(Record):
    """How good a model is on the validation rows, beside the champion on the same rows; and the version it became."""

    line: str
    version: str = Field(description="Number in the registry.")
    run_id: str = Field(description="The MLflow run that holds everything about it.")
    evaluation: Evaluation
    champion_version: str = Field(default="", description="The version that served when this one was evaluated.")
    champion: Evaluation | None = Field(default=None, description="The champion on the same rows.")
    champion_problem: str = Field(default="", description="Why the champion could not be measured, if so.")
    threshold_version: str
    plan_digest: str
    automatic_promotion: bool
    artifacts: str = Field(description="Folder of the train artifacts.")


class ChampionRecord(Record):
    """Which version serves, and by which rule or person it got there."""

    line: str
    version: str
    previous_version: str = ""
    decision: PromotionDecision
    by: str = Field(description="'rule: …' or 'person: …'.")
    evaluation: Evaluation | None = None


@dataclass(frozen=True)
class InspectionOutcome:
    """What an inspection run found: predictions, refused files, and which version judged."""

    predictions: pd.DataFrame
    refused: pd.DataFrame
    facts: dict[str, Any]

    def save(self, folder: Path) -> None:
        self.predictions.to_parquet(folder / "predictions.parquet", index=False)
        self.refused.to_parquet(folder / "refused.parquet", index=False)
        (folder / RECORD_FILE).write_text(json.dumps(self.facts, indent=2, default=str), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> InspectionOutcome:
        return cls(
            pd.read_parquet(folder / "predictions.parquet"),
            pd.read_parquet(folder / "refused.parquet"),
            json.loads((folder / RECORD_FILE).read_text(encoding="utf-8")),
        )
