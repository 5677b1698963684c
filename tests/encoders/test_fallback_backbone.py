"""The backbone that is always there: it is the file that was measured, it builds, and it is the fallback."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.patchcore.detector import PatchCore
from vad_lib.detectors.registry import detector_from_description
from vad_lib.encoders import build, fallback
from vad_lib.encoders.build import create_backbone, load_weights
from vad_lib.encoders.weights import add_weights, resolve_backbone_weights
from vad_lib.errors import ModelFormatError, PlanError, WeightsMissingError
from vad_lib.preprocessing import Preprocessing

ROOT = Path(__file__).parents[2]


def test_the_file_of_the_package_is_the_one_that_was_measured_or_is_refused(monkeypatch: pytest.MonkeyPatch):
    assert fallback.fallback_backbone() is not None
    monkeypatch.setattr(fallback, "SHA256", "0" * 64)
    with pytest.raises(ModelFormatError, match="Install the package again"):
        fallback.fallback_backbone.__wrapped__()


def test_its_weights_are_those_of_the_network_though_they_have_other_names(tmp_path: Path):
    """Two facts of a classifier: it is certain about a photograph, and what it says is right."""
    import timm
    from skimage import data

    weights = resolve_backbone_weights(fallback.NAME, store=tmp_path)
    network = timm.create_model(fallback.NAME, pretrained=False).eval()
    load_weights(network, weights)
    pixels = torch.from_numpy(data.chelsea()[:300, 75:375]).permute(2, 0, 1)[None].float() / 255
    pixels = torch.nn.functional.interpolate(pixels, size=(224, 224), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (weights.mean, weights.std))
    with torch.inference_mode():
        found = network((pixels - mean) / std).softmax(1)[0]
    cats = found[281:286].sum()  # ImageNet's tabby, tiger cat, Persian, Siamese and Egyptian cat
    assert cats > 0.5


def test_the_same_file_serves_from_the_weights_store_too(tmp_path: Path):
    ours = resolve_backbone_weights(fallback.NAME, store=tmp_path)
    assert ours.file is not None
    added = add_weights(ours.file, store=tmp_path)
    assert (added.name, added.sha256, added.mean, added.in_order) == (ours.name, ours.sha256, ours.mean, True)
    image = torch.rand(1, 3, 64, 64)
    a, b = (create_backbone(each, fallback.LAYERS)(image) for each in (ours, added))
    assert all(torch.equal(first, second) for first, second in zip(a, b, strict=True))


def test_it_gives_the_layers_that_detectors_ask_for_at_any_size(tmp_path: Path):
    weights = resolve_backbone_weights(fallback.NAME, store=tmp_path)
    assert weights.source == "package"
    network = create_backbone(weights, ("blocks.1", "blocks.2", "blocks.4"))
    for height, width in ((224, 224), (100, 75), (32, 32)):
        shapes = [tuple(maps.shape[1:]) for maps in network(torch.rand(2, 3, height, width))]
        assert shapes == [(c, -(-height // s), -(-width // s)) for c, s in ((24, 4), (40, 8), (112, 16))]


def test_the_layers_of_a_backbone_are_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    weights, made = resolve_backbone_weights(fallback.NAME, store=tmp_path), []
    create = build.timm.create_model
    monkeypatch.setattr(build.timm, "create_model", lambda name, **how: made.append(how) or create(name, **how))
    build._layer_names.cache_clear()
    for _ in range(2):
        create_backbone(weights, ("blocks.1", "blocks.2"))
    assert sum("features_only" in how and "out_indices" not in how for how in made) == 1


def test_it_stands_in_for_a_backbone_that_cannot_be_had_unless_that_is_forbidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("VAD_ALLOW_RANDOM_WEIGHTS", raising=False)
    monkeypatch.setenv("VAD_FALLBACK_BACKBONE", "0")
    with pytest.raises(WeightsMissingError, match=r"VAD_FALLBACK_BACKBONE=0 forbids.*instead of"):
        resolve_backbone_weights("wide_resnet50_2", store=tmp_path)
    monkeypatch.delenv("VAD_FALLBACK_BACKBONE")
    weights = resolve_backbone_weights("wide_resnet50_2", store=tmp_path)
    assert (weights.name, weights.asked_for, weights.is_fallback) == (fallback.NAME, "wide_resnet50_2", True)


@pytest.mark.parametrize(
    ("asked", "layers", "taken"),
    [
        ("resnet18", ("layer3", "layer4"), fallback.LAYERS),
        ("tf_efficientnet_lite3", ("blocks.1", "blocks.2"), ("blocks.1", "blocks.2")),
        ("vit_tiny_patch16_224", ("blocks.5",), fallback.LAYERS),
    ],
)
def test_a_fallback_backbone_has_layers_of_its_own_where_it_lacks_those_of_the_plan(
    asked: str, layers: tuple[str, ...], taken: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("VAD_ALLOW_RANDOM_WEIGHTS", raising=False)
    monkeypatch.delenv("VAD_FALLBACK_BACKBONE", raising=False)
    weights = resolve_backbone_weights(asked, store=tmp_path)
    detector = PatchCore(weights, layers=layers, coreset_sampling_ratio=0.5)
    assert detector.layers == taken
    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    detector.fit(ImageDataset([tmp_path / "a.png"], Preprocessing((32, 32)), shapes=[(32, 32)]))
    told = [notice for notice in detector.report.notices if "Instead of the layers" in notice]
    assert bool(told) == (layers != taken)
    saved = detector_from_description(detector.describe(), detector.state_dict())
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(saved.score(image).scores, detector.score(image).scores)


def test_the_plan_s_layers_are_not_replaced_where_it_names_the_fallback_itself(tmp_path: Path):
    with pytest.raises(PlanError, match=r"layers of tf_efficientnet_lite0 are .*blocks\.4"):
        PatchCore(resolve_backbone_weights(fallback.NAME, store=tmp_path), layers=("layer4",))


def test_the_measured_cost_names_every_set_and_both_numbers():
    sentence = fallback.measured_cost()
    for row in fallback.measured():
        assert f"{row['fallback']:.3f} instead of {row['resnet18']:.3f}" in sentence
    assert len(re.findall(r"\.\d{3}", sentence)) == 2 * len(fallback.measured())


def test_pages_give_the_figures_that_warnings_give():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    table = text[text.index("| set | normal images to fit") :].split("\n\n")[0]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"{fallback.measured()[0][name]:.3f}".removeprefix("0") in readme for name in ("fallback", "resnet18"))
    for row in fallback.measured():
        for number in (row["fallback"], row["resnet18"]):
            assert f"{number:.3f}".removeprefix("0") in table, row
