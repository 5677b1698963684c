"""The backbone that ships: it is the file that its card names, it builds, it is the fallback where it should be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.patchcore.detector import PatchCore
from vad_lib.detectors.registry import detector_from_description
from vad_lib.encoders import build, shipped
from vad_lib.encoders.build import create_backbone, layer_names
from vad_lib.encoders.store import sha256_of
from vad_lib.encoders.vadnet import LevelLight
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.errors import PlanError, WeightsMissingError
from vad_lib.preprocessing import Preprocessing

FILE = shipped.FOLDER / f"{shipped.NAME}.safetensors"


def test_the_weights_are_the_file_that_facts_and_card_name_and_are_small():
    digest = sha256_of(FILE)
    assert shipped.shipped_facts()["sha256"] == digest
    assert digest in (shipped.FOLDER / "model_card.md").read_text(encoding="utf-8")
    assert FILE.stat().st_size < 12_000_000


def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / FILE.name).write_bytes(FILE.read_bytes()[:-1] + b"x")
    (tmp_path / "vadnet10.json").write_text(json.dumps(shipped.shipped_facts()))
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(shipped.ModelFormatError, match="Install the package again"):
        shipped.shipped_backbones.__wrapped__()


def test_it_gives_the_layers_that_detectors_ask_for_at_any_size(tmp_path: Path):
    weights = resolve_backbone_weights("vadnet10", store=tmp_path)
    assert weights.source == "shipped"
    assert layer_names(weights)[1:] == ["layer1", "layer2", "layer3"]
    network = create_backbone(weights, ("layer1", "layer2", "layer3"))
    for height, width in ((224, 224), (100, 75), (32, 32)):
        shapes = [tuple(maps.shape[1:]) for maps in network(torch.rand(2, 3, height, width))]
        assert shapes == [(c, -(-height // s), -(-width // s)) for c, s in ((64, 4), (128, 8), (256, 16))]


def test_the_layers_of_a_backbone_are_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    weights, made = resolve_backbone_weights("vadnet10", store=tmp_path), []
    create = build.timm.create_model
    monkeypatch.setattr(build.timm, "create_model", lambda name, **how: made.append(how) or create(name, **how))
    build._layer_names.cache_clear()
    for _ in range(2):
        create_backbone(weights, ("layer1", "layer2", "layer3"))
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
    assert (weights.name, weights.source, weights.asked_for) == ("vadnet10", "shipped", "wide_resnet50_2")


@pytest.mark.parametrize(
    ("asked", "layers", "taken"),
    [
        ("resnet18", ("layer1", "layer2"), ("layer1", "layer2")),
        ("resnet18", ("layer3", "layer4"), ("layer2", "layer3")),
        ("vit_tiny_patch16_224", ("blocks.5",), ("layer2", "layer3")),
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
    assert np.array_equal(
        saved.score(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))).scores,
        detector.score(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))).scores,
    )


def test_the_plan_s_layers_are_not_replaced_where_it_names_the_shipped_backbone_itself(tmp_path: Path):
    with pytest.raises(PlanError, match=r"layers of vadnet10 are .*layer3"):
        PatchCore(resolve_backbone_weights("vadnet10", store=tmp_path), layers=("layer4",))


def test_the_measured_cost_names_every_set_and_both_numbers():
    sentence = shipped.measured_cost()
    for row in shipped.shipped_facts()["measured"]:
        assert f"{row['shipped']:.3f} instead of {row['imagenet']:.3f}" in sentence
    assert len(re.findall(r"\.\d{3}", sentence)) == 2 * len(shipped.shipped_facts()["measured"])


def _normalised(picture: np.ndarray) -> torch.Tensor:
    """A grey picture (H, W) in 0..1 as a network gets it."""
    rgb = torch.from_numpy(picture.astype(np.float32)).expand(1, 3, *picture.shape)
    return (rgb - torch.tensor(IMAGENET_DEFAULT_MEAN).view(1, 3, 1, 1)) / torch.tensor(IMAGENET_DEFAULT_STD).view(
        1, 3, 1, 1
    )


def test_levelling_takes_exposure_and_a_slow_change_of_light_out_of_a_picture():
    grain = 0.6 * (1 + 0.15 * np.random.default_rng(0).normal(0, 1, (96, 96)))
    lamp = np.linspace(0.4, 1.2, 96)
    level = LevelLight()
    inside = (0, slice(0, 3), slice(16, -16), slice(16, -16))
    plain, lit = level(_normalised(grain))[inside], level(_normalised(grain * lamp))[inside]
    assert (lit - plain).abs().mean() < 0.15 * plain.abs().mean()


def test_the_image_as_it_came_goes_beside_the_levelled_one():
    images = torch.rand(2, 3, 40, 56)
    both = LevelLight()(images)
    assert both.shape == (2, 6, 40, 56)
    assert torch.equal(both[:, 3:], images)


def test_pages_and_warnings_give_one_figure_for_one_comparison():
    root = Path(__file__).parents[2]
    for page in ("docs/benchmarks.md", "vad_lib/encoders/shipped/model_card.md"):
        text = (root / page).read_text(encoding="utf-8")
        told = text[text.index("`vadnet10`)") :][:800] if page.startswith("docs") else text
        for row in shipped.shipped_facts()["measured"]:
            for number in (row["shipped"], row["imagenet"]):
                assert f"{number:.3f}".removeprefix("0") in told, (page, row)
