"""The precision of a model: what bfloat16 means, and that it is computed alike everywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.encoders.tiny_clip import config_with
from vad_lib.comparison.random_clip import write_random_clip
from vad_lib.compiled import load_for_scoring
from vad_lib.detectors.fastflow.network import FlowNetwork
from vad_lib.detectors.patchcore.detector import PatchCore
from vad_lib.detectors.patchcore.nearest import MemoryBank
from vad_lib.encoders import precision
from vad_lib.encoders.encoder import create_encoder
from vad_lib.encoders.precision import arithmetic
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.errors import ModelFormatError, VadError
from vad_lib.export import export_model
from vad_lib.models import InspectionModel, ModelInfo
from vad_lib.preprocessing import Preprocessing
from vad_lib.thresholds import Calibration, Threshold

RESNET = BackboneWeights("resnet10t", None, "random", "", asked_for="resnet10t")
CPU = torch.device("cpu")


@pytest.fixture
def without_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without units for bfloat16."""
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: False)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(1))


def rounded(values: torch.Tensor) -> torch.Tensor:
    return values.bfloat16().float()


@pytest.mark.spec("M1.04")
@pytest.mark.usefixtures("without_units")
def test_products_are_of_rounded_numbers_and_everything_else_stays_float32(images: torch.Tensor) -> None:
    layer = nn.Conv2d(3, 4, 3)
    with arithmetic("bfloat16", CPU):
        found, sums = layer(images), images + 1e-6
    assert layer.bias is not None
    expected = functional.conv2d(rounded(images), rounded(layer.weight), rounded(layer.bias))
    assert torch.equal(found, rounded(expected))
    assert torch.equal(sums, images + 1e-6)
    with arithmetic("float32", CPU):
        assert torch.equal(layer(images), functional.conv2d(images, layer.weight, layer.bias))


@pytest.mark.usefixtures("without_units")
def test_a_processor_without_units_computes_what_one_with_units_does_up_to_rounding(images: torch.Tensor) -> None:
    encoder = create_encoder(replace(RESNET, precision="bfloat16"), ("layer1", "layer2"))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # what is done where there are units
        expected = encoder.network(encoder.normalise(images))  # type: ignore[operator]
    single = create_encoder(RESNET, ("layer1", "layer2"))
    single.load_state_dict(encoder.state_dict())
    for ours, theirs, exact in zip(encoder(images).patches, expected, single(images).patches, strict=True):
        assert ours.dtype == torch.float32
        assert 1e-4 < float((ours - exact).norm() / exact.norm()) < 0.05
        assert float((ours - theirs.float()).norm() / exact.norm()) < 0.05


@pytest.mark.usefixtures("without_units")
def test_features_and_vectors_of_a_clip_are_float32_and_differ_from_those_of_the_float32_model(
    images: torch.Tensor, tmp_path: Path
) -> None:
    write_random_clip(tmp_path / "clip", config_with(vision_cfg={"layers": 2}))
    weights = resolve_backbone_weights(str(tmp_path / "clip"))
    with torch.no_grad():
        exact = create_encoder(weights, text=False)(images)
        found = create_encoder(replace(weights, precision="bfloat16"), text=False)(images)
    for ours, theirs in zip((found.vectors, *found.patches), (exact.vectors, *exact.patches), strict=True):
        assert ours.dtype == torch.float32
        assert 0 < float((ours - theirs).norm() / theirs.norm()) < 0.05


@pytest.mark.usefixtures("without_units")
def test_flows_learn_in_bfloat16_and_their_gradients_are_near_those_of_float32() -> None:
    gradients = []
    for chosen in ("float32", "bfloat16"):
        torch.manual_seed(0)
        network = FlowNetwork(replace(RESNET, precision=chosen), (16, 16), 1)  # type: ignore[arg-type]
        features = network.features(torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(2)))
        hidden, _ = network.flow(features)
        assert {level.dtype for level in hidden} == {torch.float32}
        sum(level.square().mean() for level in hidden).backward()  # type: ignore[union-attr]
        gradients.append(torch.cat([one.grad.flatten() for one in network.trainable() if one.grad is not None]))
    assert 0 < float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 0.1


def test_an_unknown_precision_of_a_model_is_refused() -> None:
    described = RESNET.to_json()
    assert BackboneWeights.from_json({**described, "precision": "bfloat16"}).precision == "bfloat16"
    assert BackboneWeights.from_json({key: described[key] for key in described if key != "precision"}) == RESNET
    with pytest.raises(ModelFormatError, match="'float16'; it can be float32 or bfloat16"):
        BackboneWeights.from_json({**described, "precision": "float16"})


@pytest.mark.spec("M1.04")
def test_a_bfloat16_model_is_scored_by_torch_and_not_exported_and_both_say_why(tmp_path: Path) -> None:
    detector = PatchCore(replace(RESNET, precision="bfloat16"), ("layer1",))
    detector.bank_ = MemoryBank(torch.rand((4, 64)))
    threshold = Threshold(value=1.0, method="chosen", n_normal=1, n_anomalous=1, rows_digest="0" * 64)
    info = ModelInfo(model_name="patchcore", ok_class="good", n_train=1, backbone={}, arguments={})
    calibration = Calibration(threshold=1.0, scale=1.0)
    model = InspectionModel(detector, Preprocessing((32, 32)), threshold, calibration, info)
    model.save(tmp_path / "model")
    loaded, choice = load_for_scoring(tmp_path / "model", cache=tmp_path / "cache", setting="auto")
    assert loaded.detector.weights.precision == "bfloat16"
    assert (choice.backend, loaded.detector.runner) == ("torch", None)
    assert "bfloat16" in choice.reason
    with pytest.raises(VadError, match="Train the line with precision: float32"):
        export_model(loaded, [tmp_path / "image.png"], "onnx", tmp_path / "export")
