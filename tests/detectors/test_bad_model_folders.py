"""Whatever stands in the description of a model: it loads, or is refused as a model, and nothing else happens."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from tests.detectors.tile_images import as_dataset
from vad_lib.detectors.patchcore.detector import PatchCore
from vad_lib.detectors.storage import description_text, part_digests, read_model_folder, write_model_folder
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import ModelFormatError
from vad_lib.models import InspectionModel, ModelInfo
from vad_lib.preprocessing import Preprocessing
from vad_lib.thresholds import Calibration, Threshold

JUNK: tuple[Any, ...] = (None, {"checkpoint_path": "/tmp/a.pth"})


@pytest.fixture(scope="module")
def folder(tiles: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model."""
    detector = PatchCore(BackboneWeights("mobilenetv3_small_050", None, "random", ""), ("blocks.0",), 0.1)
    detector.fit(as_dataset(tiles[:2]))
    threshold = Threshold(value=1.0, method="chosen", n_normal=1, n_anomalous=1, rows_digest="0" * 64)
    info = ModelInfo(model_name="patchcore", ok_class="good", n_train=2, backbone={}, arguments={})
    calibration = Calibration(threshold=1.0, scale=1.0)
    made = tmp_path_factory.mktemp("model")
    InspectionModel(detector, Preprocessing((64, 64)), threshold, calibration, info).save(made)
    return made


def places(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield every place of a description, at any depth."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield (*path, key)
            yield from places(value, (*path, key))


def changed(description: dict[str, Any], path: tuple[str, ...], *value: Any) -> dict[str, Any]:
    """Return a description with another value in a place, or without the place."""
    content = copy.deepcopy(description)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    if value:
        inner[path[-1]] = value[0]
    else:
        del inner[path[-1]]
    return content


def test_whatever_is_missing_or_wrong_in_a_description_is_refused_as_a_model(folder: Path, tmp_path: Path) -> None:
    tensors, description = read_model_folder(folder)
    own = {key: value for key, value in description.items() if not key.endswith("sha256") and key != "format_version"}
    refused = 0
    for path in places(own):
        # a model that loads takes longest: nothing of what is only told makes a difference there
        if "memory_bank" in path or "info" in path[:-1]:
            continue
        for wrong in [(), *((junk,) for junk in JUNK)]:
            try:
                InspectionModel._from(changed(own, path, *wrong), tensors, "cpu")
            except ModelFormatError:
                refused += 1
    assert refused > 30
    write_model_folder(tmp_path, tensors, changed(own, ("detector", "name")))
    with pytest.raises(ModelFormatError, match="detector 'None', which is not installed"):
        InspectionModel.load(tmp_path)
    (tmp_path / "detector.json").write_text(description_text({"detector": []}))
    with pytest.raises(ModelFormatError):
        InspectionModel.load(tmp_path)


def test_a_threshold_that_is_not_its_calibrations_is_refused(folder: Path) -> None:
    tensors, description = read_model_folder(folder)
    for path in (("threshold", "value"), ("calibration", "threshold")):
        with pytest.raises(ModelFormatError, match="The model contradicts itself"):
            InspectionModel._from(changed(description, path, 2.0), tensors, "cpu")


def test_what_mlflow_serves_is_the_model_that_was_registered(folder: Path, tmp_path: Path) -> None:
    from vad_dagster.mlflow_model import VisualAnomalyModel

    registered = {"model_digest": part_digests(folder)}
    served = VisualAnomalyModel()
    served.load_context(SimpleNamespace(artifacts={"model": str(folder)}, model_config=registered))
    assert served.model.threshold.value == 1.0
    tensors, description = read_model_folder(folder)
    for place in (("threshold", "value"), ("calibration", "threshold")):
        description = changed(description, place, 2.0)
    tensors["bank"] = tensors.get("bank", next(iter(tensors.values()))) + 1
    write_model_folder(tmp_path / "changed", tensors, description)
    told = r"What differs: calibration, tensors, threshold\."
    with pytest.raises(ModelFormatError, match=told):
        served.load_context(SimpleNamespace(artifacts={"model": str(tmp_path / "changed")}, model_config=registered))
