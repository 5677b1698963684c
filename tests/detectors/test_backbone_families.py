"""Any timm model that has the layers works with PatchCore, or is refused truthfully; nothing loads from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import timm
import torch

from tests.detectors.tile_images import as_dataset
from vad_lib.detectors.patchcore.detector import PatchCore
from vad_lib.detectors.patchcore.plan_arguments import LAYERS_OF_RESNET, RESNET, PatchCoreArguments
from vad_lib.detectors.registry import load_detector
from vad_lib.encoders.build import layer_names
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.errors import ModelFormatError, PlanError

FAMILIES = [
    # architecture, layers, side of the images, channels of the layers, patches of an image
    ("resnet18", ("layer3", "layer2"), 64, 128 + 256, 8 * 8),
    ("convnext_atto", ("stages.1", "stages.2"), 64, 80 + 160, 8 * 8),
    ("vit_tiny_patch16_224", ("blocks.9", "blocks.5"), 96, 2 * 192, 6 * 6),
    ("deit_tiny_distilled_patch16_224", ("blocks.5",), 96, 192, 6 * 6),
    ("eva02_tiny_patch14_224", ("blocks.5",), 70, 192, 5 * 5),
    # channels last
    ("swin_tiny_patch4_window7_224", ("layers.1", "layers.2"), 96, 192 + 384, 12 * 12),
    pytest.param("beit_base_patch16_224", ("blocks.5",), 224, 768, 14 * 14, marks=pytest.mark.slow),
]


@pytest.mark.spec("V14.33")
@pytest.mark.parametrize(("backbone", "layers", "side", "channels", "patches"), FAMILIES)
def test_a_family_of_backbones_is_read_from_its_file_fits_and_scores(
    tiles: pd.DataFrame,
    tmp_path: Path,
    backbone: str,
    layers: tuple[str, ...],
    side: int,
    channels: int,
    patches: int,
) -> None:
    torch.save(timm.create_model(backbone, pretrained=False).state_dict(), tmp_path / f"{backbone}.pth")
    weights = resolve_backbone_weights(backbone, tmp_path)
    detector = PatchCore(weights, layers, 0.5).fit(as_dataset(tiles[:3], side))
    assert detector.bank_ is not None
    assert detector.bank_.rows.shape[1] == channels
    assert detector.report.numbers["patches"] == 3 * patches
    given = [tensor for tensor in weights.load_state_dict().values() if tensor.ndim > 1]
    used = [tensor for key, tensor in detector.state_dict().items() if tensor.ndim > 1 and key != "memory_bank"]
    assert all(any(torch.equal(one, other) for other in given) for one in used[:8])
    detector.save(tmp_path / "model")
    image = as_dataset(tiles[12:], side)[0][None]
    scores = detector.score(image)
    assert scores.maps is not None
    assert scores.maps.shape == (1, side, side)
    assert load_detector(tmp_path / "model").score(image).scores == scores.scores


def test_the_features_of_a_vision_transformer_are_those_of_anomalib() -> None:
    from anomalib.models.components import TimmFeatureExtractor

    from vad_lib.encoders.build import create_backbone

    name, layers = "vit_tiny_patch16_224", ["blocks.3", "blocks.9"]
    ours = create_backbone(BackboneWeights(name, None, "random", ""), layers)
    theirs = TimmFeatureExtractor(name, layers, pre_trained=False).eval()
    theirs.feature_extractor.load_state_dict(ours.model.state_dict(), strict=False)  # type: ignore[union-attr, operator]
    images = torch.rand(1, 3, 96, 128)
    for mine, other in zip(ours(images), theirs(images).values(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize(
    ("backbone", "layers", "side"),
    [("eva02_tiny_patch14_224", ("blocks.5",), 64), ("efficientformer_l1", ("stages.3",), 64)],
)
def test_a_size_that_a_backbone_cannot_take_is_refused_before_the_fit(
    tiles: pd.DataFrame, backbone: str, layers: tuple[str, ...], side: int
) -> None:
    detector = PatchCore(BackboneWeights(backbone, None, "random", ""), layers)
    with pytest.raises(PlanError, match=rf"{backbone} cannot take images of {side} x {side} pixels.*Change img_size"):
        detector.fit(as_dataset(tiles[:3], side))


def test_layers_that_an_architecture_does_not_have_are_refused_with_those_that_it_has() -> None:
    with pytest.raises(PlanError, match=r"'layer2', but the layers of swin_tiny_patch4_window7_224 are layers\.0"):
        PatchCore(BackboneWeights("swin_tiny_patch4_window7_224", None, "random", ""), ("layer2",))


@pytest.mark.parametrize("name", ["hf-hub:somebody/model", "local-dir:/tmp/model", "../resnet18", "resnet18;x", "a b"])
def test_a_name_that_makes_timm_look_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ModelFormatError, match="is not the name of a timm model"):
        BackboneWeights(name, None, "random", "")


@pytest.mark.parametrize(
    "arguments",
    [
        {"checkpoint_path": "/tmp/a.pth"},
        {"pretrained": True},
        {"pretrained_cfg_overlay": {"file": "/tmp/a.pth"}},
        {"cache_dir": "/tmp"},
        {"pad_type": "hf-hub:somebody/model"},
        {"img_size": [{"file": 1}]},
    ],
)
def test_arguments_for_timm_that_name_a_file_or_an_address_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ModelFormatError, match="create_kwargs of resnet18"):
        BackboneWeights("resnet18", None, "random", "", arguments)


def test_a_sidecar_with_such_an_argument_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "resnet18.pth")
    (tmp_path / "resnet18.pth.json").write_text('{"create_kwargs": {"checkpoint_path": "/tmp/a.pth"}}')
    with pytest.raises(ModelFormatError, match="create_kwargs of resnet18 has checkpoint_path"):
        resolve_backbone_weights("resnet18", tmp_path)


@pytest.mark.parametrize("backbone", ["resnet18", "wide_resnet50_2", "resnext50_32x4d"])
def test_the_layers_of_residual_networks_that_are_known_without_timm_are_those_of_timm(backbone: str) -> None:
    assert RESNET.fullmatch(backbone)
    assert list(LAYERS_OF_RESNET) == layer_names(BackboneWeights(backbone, None, "random", ""))


def test_the_names_of_layers_are_looked_at_before_anything_is_loaded() -> None:
    with pytest.raises(PlanError, match="the layers of convnext_atto are stages"):
        PatchCoreArguments(patchcore_backbone="convnext_atto").require_usable()
    PatchCoreArguments(patchcore_backbone="resnet10t", patchcore_layers=("layer1",)).require_usable()
    PatchCoreArguments(patchcore_backbone="/somewhere/file.pth", patchcore_layers=("any",)).require_usable()
