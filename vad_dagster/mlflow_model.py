"""The model as MLflow serves it (models-from-code): a thin pyfunc around the model folder, with nothing pickled.

MLflow copies this file beside the model and runs it on load. Works in any process that can import vad_lib, of which
each registered version carries its own copy.

Input, one row an image, either column:
    image_path    path of an image file that this process can read
    image_base64  the bytes of the file, base64
Parameter:
    inference_threshold  on p, default 0.5 (the trained threshold)
Output, one row an image in the same order: raw_score, p in (0, 1), certainty in 0..1, predicted (OK or NG), error. A
broken image, or a row that names none, has no scores and says why in error; it does not fail the others. A frame that
has neither column is refused.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd


class VisualAnomalyModel(mlflow.pyfunc.PythonModel):
    """Loads the model folder and predicts images."""

    def load_context(self, context: Any) -> None:
        from vad_lib.detectors.storage import refuse_changed
        from vad_lib.models import InspectionModel

        folder = Path(context.artifacts["model"])
        refuse_changed(folder, context.model_config["model_digest"])
        self.model = InspectionModel.load(folder)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        if not {"image_path", "image_base64"} & set(model_input.columns):
            raise ValueError("The table has neither a column image_path nor a column image_base64: give one of them.")
        threshold = float((params or {}).get("inference_threshold", 0.5))
        files: dict[int, Path] = {}
        errors: dict[int, str] = {}
        with tempfile.TemporaryDirectory(prefix="vad_predict_") as folder:
            for number, row in enumerate(model_input.to_dict("records")):
                try:
                    files[number] = _as_file(row, Path(folder), number)
                except ValueError as error:
                    errors[number] = str(error)
            results = list(self.model.predict_files(list(files.values()), inference_threshold=threshold))
        columns = ["raw_score", "p", "certainty", "predicted", "error"]
        told = {number: [None] * 4 + [reason] for number, reason in errors.items()}
        told |= {
            number: [getattr(result, name) for name in columns] for number, result in zip(files, results, strict=True)
        }
        frame = pd.DataFrame([told[number] for number in range(len(model_input))], columns=columns)
        return frame.astype({"raw_score": float, "p": float, "certainty": float})


def _as_file(row: Mapping[Hashable, Any], folder: Path, number: int) -> Path:
    """Return the path given, or write the bytes given to a file of our own.

    Raises:
        ValueError: neither is given, or the bytes are not base64.
    """
    encoded = row.get("image_base64")
    from vad_lib.images.paths import IMAGE_FORMATS, format_of

    if isinstance(encoded, str) and encoded:
        try:
            content = base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise ValueError(f"image_base64 is not base64 ({error})") from error
        file = folder / f"{number}{IMAGE_FORMATS.get(format_of(content), ('',))[0]}"
        file.write_bytes(content)
        return file
    path = row.get("image_path")
    if isinstance(path, str) and path:
        return Path(path)
    raise ValueError("neither image_path nor image_base64 is given")


mlflow.models.set_model(VisualAnomalyModel())
