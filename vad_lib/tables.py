"""The columns of every table that passes from step to step, as pandera models.

This module is their documentation. ``row`` is the position (from 0) of a row in the ground-truth table as it was read;
it joins every later table with the user's own columns, whatever those are called.
"""

from __future__ import annotations

import pandas as pd
import pandera.pandas as pa
from pandera.typing.pandas import Series

OK = "OK"
"""The predicted label of a normal image."""
NG = "NG"
"""The predicted label of an anomalous image ("no good")."""


class ConfirmedLabels(pa.DataFrameModel):
    """What people say about images that the line inspected: one row an image content, the label that holds."""

    label_id: Series[int] = pa.Field(ge=1, unique=True, description="Number of the label in the inspection database.")
    label: Series[str] = pa.Field(isin=[OK, NG], description="What the part is, as the person sees it.")
    kind: Series[str] = pa.Field(nullable=True, description="Of NG: the kind of defect, where the person said it.")
    person: Series[str] = pa.Field(description="Who says so.")
    created_at: Series[pd.DatetimeTZDtype] = pa.Field(
        dtype_kwargs={"unit": "ns", "tz": "UTC"}, description="When it was said."
    )
    note: Series[str] = pa.Field(nullable=True, description="Why, where the person wrote it.")
    prediction_id: Series[int] = pa.Field(ge=1, description="Number of the prediction on which it was said.")
    model_version: Series[str] = pa.Field(description="The version that predicted.")
    predicted: Series[str] = pa.Field(isin=[OK, NG], description="What that version said.")
    sha256: Series[str] = pa.Field(str_length=64, unique=True, description="Of the image's bytes.")
    path: Series[str] = pa.Field(description="Where the image lay when it was inspected.")
    file: Series[str] = pa.Field(nullable=True, description="The line's own copy of the image; empty where it is lost.")
    mask: Series[str] = pa.Field(nullable=True, description="A picture of the boxes that the person drew, where so.")

    class Config:
        strict = True
        coerce = True


class ValidatedRows(pa.DataFrameModel):
    """Rows that passed readiness."""

    row: Series[int] = pa.Field(ge=0, unique=True, description="Position in the ground-truth table as read.")
    image_path: Series[str] = pa.Field(description="As written in the table.")
    file: Series[str] = pa.Field(description="Absolute path on this machine.")
    label: Series[str] = pa.Field(nullable=True, description="The user's label; empty at inference without labels.")
    is_anomalous: Series[pa.typing.pandas.BOOL] = pa.Field(  # nullable boolean
        nullable=True, description="True where label differs from ok_class; missing where there is no label."
    )
    split: Series[str] = pa.Field(
        isin=["train", "valid", "excluded", "inference"],
        description="train: normal rows that fit the model; valid; excluded: anomalous rows marked train; inference.",
    )
    sha256: Series[str] = pa.Field(str_length=64, description="Of the file's bytes; identifies the image.")
    width: Series[int] = pa.Field(gt=0, description="Pixels, upright (after EXIF rotation).")
    height: Series[int] = pa.Field(gt=0, description="Pixels, upright (after EXIF rotation).")
    channels: Series[int] = pa.Field(isin=[1, 3], description="After the defined treatment of other modes.")

    class Config:
        strict = True
        coerce = True


class DroppedRows(pa.DataFrameModel):
    """Rows or files that were set aside, each with the reason."""

    row: Series[int] = pa.Field(ge=-1, description="Position in the ground-truth table; -1 for a file without a row.")
    image_path: Series[str] = pa.Field(nullable=True)
    rule: Series[str] = pa.Field(description="Name of the rule that dropped it, such as 'unreadable_image'.")
    reason: Series[str] = pa.Field(description="What is wrong with it, naming file or column.")

    class Config:
        strict = True
        coerce = True


class ValidationScores(pa.DataFrameModel):
    """Raw scores of the validation rows."""

    row: Series[int] = pa.Field(ge=0, unique=True)
    image_path: Series[str]
    file: Series[str]
    label: Series[str]
    is_anomalous: Series[bool]
    raw_score: Series[float] = pa.Field(description="The detector's score; larger is more anomalous.")

    class Config:
        strict = True
        coerce = True


class ThresholdTable(pa.DataFrameModel):
    """Performance on the validation rows for each threshold that changes a decision, in increasing order."""

    threshold: Series[float] = pa.Field(description="On the raw score; NG where raw_score >= threshold.")
    p: Series[float] = pa.Field(gt=0, lt=1, description="The same threshold on p: what inference_threshold takes.")
    accuracy: Series[float] = pa.Field(ge=0, le=1, nullable=True, description="Missing without rows.")
    precision: Series[float] = pa.Field(ge=0, le=1, nullable=True, description="Missing where nothing is NG.")
    recall: Series[float] = pa.Field(ge=0, le=1, nullable=True, description="Missing without anomalous rows.")
    f1: Series[float] = pa.Field(ge=0, le=1, nullable=True)
    tp: Series[int] = pa.Field(ge=0)
    fp: Series[int] = pa.Field(ge=0)
    tn: Series[int] = pa.Field(ge=0)
    fn: Series[int] = pa.Field(ge=0)
    false_alarm_rate: Series[float] = pa.Field(ge=0, le=1, nullable=True, description="fp / (fp + tn)")
    miss_rate: Series[float] = pa.Field(ge=0, le=1, nullable=True, description="fn / (fn + tp)")
    chosen: Series[bool] = pa.Field(description="True for the one row that is the learnt threshold.")

    class Config:
        strict = True
        coerce = True


class Predictions(pa.DataFrameModel):
    """One row an image that was scored."""

    row: Series[int] = pa.Field(ge=0, unique=True)
    image_path: Series[str]
    file: Series[str]
    sha256: Series[str] = pa.Field(str_length=64)
    label: Series[str] = pa.Field(nullable=True, description="The true label where it is known.")
    is_anomalous: Series[pa.typing.pandas.BOOL] = pa.Field(nullable=True)
    raw_score: Series[float]
    p: Series[float] = pa.Field(gt=0, lt=1, description="Calibrated score; 0.5 exactly at the trained threshold.")
    certainty: Series[float] = pa.Field(ge=0, le=1, description="1 - H2(p), base 2.")
    predicted: Series[str] = pa.Field(isin=[OK, NG])

    class Config:
        strict = True
        coerce = True
