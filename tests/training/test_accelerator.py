"""accelerator: gpu on a machine without one: every way in says so, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vad_lib.detectors.patchcore.detector import PatchCore
from vad_lib.detectors.patchcore.nearest import MemoryBank
from vad_lib.detectors.registry import load_detector
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.errors import PlanError
from vad_lib.forecast import forecast_training
from vad_lib.plan.arguments import TrainArguments, model_parameters
from vad_lib.readiness.dataset import ValidatedDataset
from vad_lib.training import fit_detector

pytestmark = [
    pytest.mark.usefixtures("random_weights"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
]
NO_GPU = r"accelerator is gpu, but torch finds no CUDA device.*Set accelerator: cpu"


@pytest.mark.parametrize("name", ["patchcore", "fastflow"])
def test_fit_and_forecast_say_that_there_is_no_gpu(dataset: ValidatedDataset, tmp_path: Path, name: str) -> None:
    parameters = model_parameters(patchcore_backbone="resnet18")
    train = TrainArguments(model_name=name, accelerator="gpu", model_parameters=parameters)
    for work in (fit_detector, forecast_training):
        with pytest.raises(PlanError, match=NO_GPU):
            work(dataset, train, weights_store=tmp_path)


def test_a_saved_model_that_shall_run_on_a_gpu_says_so_and_runs_on_the_cpu(tmp_path: Path) -> None:
    detector = PatchCore(resolve_backbone_weights("resnet18", tmp_path / "none"))
    detector.bank_ = MemoryBank(torch.rand(4, 384))
    detector.save(tmp_path / "model")
    with pytest.raises(PlanError, match=NO_GPU):
        load_detector(tmp_path / "model", accelerator="gpu")
    batch = torch.rand(1, 3, 64, 64)
    assert load_detector(tmp_path / "model").score(batch).scores == detector.score(batch).scores
