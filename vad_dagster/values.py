"""What passes between assets where no type of vad_lib does: each writes itself to a folder of readable files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from vad_lib.metrics import Evaluation
from vad_lib.promotion import PromotionDecision
from vad_lib.thresholds import Calibration, Threshold

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
        import json

        self.predictions.to_parquet(folder / "predictions.parquet", index=False)
        self.refused.to_parquet(folder / "refused.parquet", index=False)
        (folder / RECORD_FILE).write_text(json.dumps(self.facts, indent=2, default=str), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> InspectionOutcome:
        import json

        return cls(
            pd.read_parquet(folder / "predictions.parquet"),
            pd.read_parquet(folder / "refused.parquet"),
            json.loads((folder / RECORD_FILE).read_text(encoding="utf-8")),
        )
