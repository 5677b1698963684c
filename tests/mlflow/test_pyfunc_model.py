"""The model as MLflow calls it: tables with wrong columns, and rows that name no image."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from PIL import Image

from vad_dagster.mlflow_model import VisualAnomalyModel
from vad_dagster.registry import _signature
from vad_lib.models import ImageResult


class BrightFiles:
    """Calls every file NG that is there."""

    def predict_files(self, files: Sequence[Path], inference_threshold: float) -> Iterator[ImageResult]:
        for index, file in enumerate(files):
            there = file.is_file()
            scores = (1.0, 0.9, 0.5, "NG") if there else (None, None, None, None)
            yield ImageResult(index, file, None, *scores, None, None if there else "no such file")


class Stub(VisualAnomalyModel):
    """The model without a model folder."""

    def load_context(self, context: Any) -> None:
        self.model: Any = BrightFiles()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> mlflow.pyfunc.PyFuncModel:
    folder = tmp_path_factory.mktemp("pyfunc") / "model"
    mlflow.pyfunc.save_model(folder, python_model=Stub(), signature=_signature(), pip_requirements=[])
    return mlflow.pyfunc.load_model(str(folder))


@pytest.mark.parametrize("columns", [["image"], ["path", "label"], ["Image_Path"]])
def test_a_table_with_other_columns_is_refused(model: mlflow.pyfunc.PyFuncModel, columns: list[str]) -> None:
    with pytest.raises(Exception, match="image_path"):
        model.predict(pd.DataFrame({name: ["a.png", "b.png"] for name in columns}))


def test_a_bad_row_is_one_row_with_its_reason_and_the_others_have_results(
    model: mlflow.pyfunc.PyFuncModel, tmp_path: Path
) -> None:
    good = tmp_path / "good.png"
    Image.new("L", (8, 8)).save(good)
    found = model.predict(pd.DataFrame({"image_path": [None, str(good), "/nowhere.png", "", str(good)]}))
    assert list(found["predicted"]) == [None, "NG", None, None, "NG"]
    assert list(found["error"]) == [
        "neither image_path nor image_base64 is given",
        None,
        "no such file",
        "neither image_path nor image_base64 is given",
        None,
    ]
    encoded = base64.b64encode(good.read_bytes()).decode()
    found = model.predict(pd.DataFrame({"image_base64": ["%%%", encoded]}))
    assert list(found["predicted"]) == [None, "NG"]
    assert "is not base64" in found["error"][0]
    assert len(model.predict(pd.DataFrame({"image_path": [None]}, dtype=object))) == 1
