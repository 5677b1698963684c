"""What passes between assets where no type of vad_lib does: each writes itself to a folder of readable files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from vad_lib.json_record import RECORD_FILE, JsonRecord
from vad_lib.metrics import Evaluation
from vad_lib.promotion import PromotionDecision

if TYPE_CHECKING:
    from vad_lib.lines import Line
    from vad_lib.readiness import ValidatedDataset


def last_dataset(line: Line) -> ValidatedDataset | None:
    """Return what the last training on this machine was given; None where the line was trained elsewhere, or never."""
    from vad_lib.readiness import ValidatedDataset

    folder = line.store / "validated_dataset"
    return ValidatedDataset.load(folder) if folder.is_dir() else None


class ChampionOnRows(BaseModel):
    """The version that serves, measured on the validation rows of another."""

    model_config = ConfigDict(frozen=True)

    version: str = Field(default="", description="Number in the registry; empty where none serves.")
    label: str = ""
    evaluation: Evaluation | None = None
    problem: str = Field(default="", description="Why it could not be measured, if so.")
    beside: str = Field(default="", description="The other one beside it on the same rows, with intervals and tests.")


class ModelEvaluation(JsonRecord):
    """How good a model is on the validation rows, beside the champion on the same rows; and the version it became."""

    version: str = Field(description="Number in the registry.")
    evaluation: Evaluation
    champion: ChampionOnRows
    doubts: tuple[str, ...] = Field(default=(), description="Why a first version should not serve unseen.")


class ChampionRecord(JsonRecord):
    """Which version serves, and by which rule or person it got there."""

    line: str
    version: str = Field(description="Empty where none serves.")
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
