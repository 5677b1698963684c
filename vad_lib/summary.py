"""The inference summary: the small file that a fleet manager reads after each inspection.

Six fields, as its readers expect them: result, score, date, note, probability, version. What they say can be changed
for a product by another strategy (`load_strategy`), not by an edit here; whatever it says is held to the limits.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from vad_lib.errors import PlanError
from vad_lib.settings import settings
from vad_lib.tables import NG, OK

logger = logging.getLogger(__name__)

MOST_RESULT_CHARACTERS = 32
MOST_NOTE_CHARACTERS = 128


class InferenceSummary(BaseModel):
    """The contents of ``inference_summary.yaml``. Values beyond the limits are brought inside, with a warning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    result: str = Field(
        description="One image: its predicted label. Several: the count of each. At most 32 characters."
    )
    score: float = Field(description="Certainty, averaged over the images; 0..1, 2 decimals; outside becomes 0.0.")
    date: str = Field(description="UTC, 'YYYY-MM-DD HH:MM:SS'.")
    note: str = Field(default="", description="At most 128 characters.")
    probability: dict[str, float] = Field(
        default_factory=dict, description="For each label, averaged over the images; 2 decimals; the sum is exactly 1."
    )
    version: str = Field(description="Of the model that judged.")

    @field_validator("result")
    @classmethod
    def _cut_result(cls, value: str) -> str:
        return _cut("result", value, MOST_RESULT_CHARACTERS)

    @field_validator("note")
    @classmethod
    def _cut_note(cls, value: str) -> str:
        return _cut("note", value, MOST_NOTE_CHARACTERS)

    @field_validator("score")
    @classmethod
    def _keep_score_inside(cls, value: float) -> float:
        if not 0 <= value <= 1:
            logger.warning("the score of the inference summary is %s, outside 0..1: 0.0 is written", value)
            return 0.0
        return round(value, 2)

    @field_validator("date")
    @classmethod
    def _check_date(cls, value: str) -> str:
        datetime.strptime(value, "%Y-%m-%d %H:%M:%S")
        return value

    @field_validator("probability")
    @classmethod
    def _sum_to_one(cls, value: dict[str, float]) -> dict[str, float]:
        return round_probability(value) if value else {}

    def write(self, file: Path) -> None:
        """Write the summary as YAML, the fields in their usual order."""
        text = yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)
        file.write_text(text, encoding="utf-8")


SummaryStrategy = Callable[[pd.DataFrame, str, str], InferenceSummary]
"""Takes predictions (``tables.Predictions``), the model's version and a note."""


def summarise(
    predictions: pd.DataFrame, version: str, note: str = "", *, strategy: SummaryStrategy | None = None
) -> InferenceSummary:
    """Summarise the predictions of one inspection.

    Args:
        predictions: see ``tables.Predictions``; the columns p, certainty and predicted are read. May be empty.
        version: of the model that judged.
        note: for people.
        strategy: what the summary says; default: the one that ``$VAD_SUMMARY_STRATEGY`` names, else `count_labels`.
    """
    if strategy is None:
        named = settings().summary_strategy
        strategy = load_strategy(named) if named else count_labels
    return strategy(predictions, version, note)


def count_labels(predictions: pd.DataFrame, version: str, note: str = "") -> InferenceSummary:
    """Say the label of a single image, or how many images have each label; with mean certainty and mean p."""
    predicted = predictions["predicted"]
    counts = {label: int((predicted == label).sum()) for label in (OK, NG)}
    if len(predictions) == 0:
        return InferenceSummary(
            result=result_of_counts(counts), score=0.0, date=now(), note=note or "no image inspected", version=version
        )
    p = float(predictions["p"].mean())
    return InferenceSummary(
        result=str(predicted.iloc[0]) if len(predictions) == 1 else result_of_counts(counts),
        score=float(predictions["certainty"].mean()),
        date=now(),
        note=note,
        probability={OK: 1 - p, NG: p},
        version=version,
    )


def result_of_counts(counts: Mapping[str, int]) -> str:
    """Write counts in the form 'OK:49990 NG:10', which stays within 32 characters for two labels below 10**11."""
    return " ".join(f"{label}:{count}" for label, count in counts.items())


def round_probability(probability: Mapping[str, float]) -> dict[str, float]:
    """Round to 2 decimals; the largest value takes the remainder, so that the sum is exactly 1.

    Raises:
        ValueError: a value outside 0..1, or a sum that is not 1 (beyond rounding).

    >>> round_probability({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    {'a': 0.34, 'b': 0.33, 'c': 0.33}
    """
    if any(not 0 <= value <= 1 for value in probability.values()) or abs(sum(probability.values()) - 1) > 1e-6:
        raise ValueError(f"probabilities must lie in 0..1 and sum to 1, not {dict(probability)}")
    hundredths = {label: round(value * 100) for label, value in probability.items()}
    largest = max(hundredths, key=hundredths.__getitem__)
    hundredths[largest] += 100 - sum(hundredths.values())
    return {label: value / 100 for label, value in hundredths.items()}


def load_strategy(name: str) -> SummaryStrategy:
    """Import a strategy by 'package.module:function'.

    Raises:
        PlanError: no such module or function.
    """
    module_name, _, function_name = name.partition(":")
    try:
        strategy: Any = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PlanError(
            f"the summary strategy {name!r} cannot be imported ({error}); VAD_SUMMARY_STRATEGY takes "
            "'package.module:function', a function of (predictions, version, note) that returns an InferenceSummary"
        ) from error
    if not callable(strategy):
        raise PlanError(f"the summary strategy {name!r} is not a function")
    checked: SummaryStrategy = strategy
    return checked


def now() -> str:
    """Return the date of now as the summary writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _cut(field: str, value: str, most: int) -> str:
    if len(value) <= most:
        return value
    logger.warning("the %s of the inference summary has %d characters: cut to %d", field, len(value), most)
    return value[:most]
