"""Everything that is known when a training is over: what the artifacts, the report and the registry are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel

from vad_lib.forecast import Comparison
from vad_lib.heatmaps import HeatmapScale
from vad_lib.metrics import Evaluation, evaluate
from vad_lib.readiness.dataset import ValidatedDataset
from vad_lib.thresholds import LearntThreshold


@dataclass(frozen=True)
class TrainingRecord:
    """A finished training.

    Attributes:
        dataset: what it was trained and validated on.
        train: the arguments of the train step as resolved.
        rows: the validation rows as judged, see `LearntThreshold.judged`.
        learnt: threshold, calibration and sweep.
        model_folder: the saved model; its checkpoint is made from it.
        heatmap_scale: of this model version; None where the detector makes no maps.
        weights: facts of the backbone weights, such as name, source, sha256.
        epochs: one mapping an epoch, such as number, loss, metric; empty for a detector without epochs.
        facts: other facts to record, such as seconds, image_size, model_version, line, plan_digest.
        notices: what the user should know about the fit.
        comparisons: what the fit was forecast to take, beside what it took.
        made_from: a digest of what the model was made from; see `training_inputs.digest_of_model`.
        scores_like: a digest that models with the same scores have; see `TrainedModel.scores_like`.
    """

    dataset: ValidatedDataset
    train: BaseModel
    rows: pd.DataFrame
    learnt: LearntThreshold
    model_folder: Path
    heatmap_scale: HeatmapScale | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)
    epochs: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    notices: Sequence[str] = ()
    comparisons: Sequence[Comparison] = ()
    made_from: str = ""
    scores_like: str = ""

    @property
    def model_name(self) -> str:
        return str(getattr(self.train, "model_name", "model"))

    @property
    def line(self) -> str:
        """The line's name, or the folder of its data where no line is known."""
        return str(self.facts.get("line", "")) or self.dataset.data_folder.name

    @cached_property
    def evaluation(self) -> Evaluation:
        """Of the decisions on the validation rows."""
        return evaluate(self.rows["raw_score"], self.rows["is_anomalous"], self.rows["predicted"])
