"""The model class of the product behind the inspection, with a detector small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from brightness_model import write_image
from inspection_rig import Rig

from vad_lib.detectors.base import Scores
from vad_lib.models import InspectionModel, ModelInfo
from vad_lib.preprocessing import Preprocessing
from vad_lib.thresholds import Calibration, Threshold

if TYPE_CHECKING:
    import torch


class BrightnessDetector:
    """Scores the mean of an image; the map is the mean of its channels."""

    def score(self, batch: torch.Tensor, *, with_maps: bool = True) -> Scores:
        maps = batch.mean(dim=1).numpy()
        return Scores(maps.mean(axis=(1, 2)), maps if with_maps else None)


@pytest.fixture
def model() -> InspectionModel:
    detector: Any = BrightnessDetector()
    return InspectionModel(
        detector,
        Preprocessing((16, 16)),
        Threshold(value=0.4, method="chosen", n_normal=1, n_anomalous=1, rows_digest="0" * 64),
        Calibration(threshold=0.4, scale=0.1),
        ModelInfo(model_name="patchcore", ok_class="good", n_train=1, backbone={}, arguments={}),
    )


@pytest.mark.parametrize("inspection_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("chunk", [1, 4])
def test_an_inspection_gives_what_the_model_gives_for_the_files(
    rig: Rig, model: InspectionModel, tmp_path: Path, chunk: int
) -> None:
    for i in range(6):
        write_image(rig.inbox / f"{i}.png", 40 * i, size=16 + i)
    (rig.inbox / "broken.png").write_bytes(b"broken")
    result = rig.inspect(model, chunk=chunk, maps_folder=tmp_path / "maps")  # type: ignore[arg-type]
    direct = list(model.predict_files([Path(file) for file in result.predictions["file"]], with_maps=True))
    for name in ("sha256", "raw_score", "p", "certainty", "predicted"):
        assert result.predictions[name].tolist() == [getattr(each, name) for each in direct]
    for row, each in zip(result.predictions["row"], direct, strict=True):
        assert each.map is not None
        assert np.array_equal(result.load_map(row), each.map)
    assert result.refused["image_path"].tolist() == ["broken.png"]
    assert set(rig.db.predictions("bottles")["threshold_version"]) == {model.threshold.version}
