"""WinCLIP: anomalib's numbers with a random CLIP, words of one's own, and no text tower in what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.encoders.tiny_clip import config_with
from vad_lib.comparison.random_clip import write_random_clip
from vad_lib.detectors.base import FitSettings
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.registry import load_detector
from vad_lib.detectors.winclip.detector import WinClip
from vad_lib.detectors.winclip.plan_arguments import ABNORMAL_STATES, NORMAL_STATES, TEMPLATES, WinClipArguments
from vad_lib.detectors.winclip.windows import spread, windows_of
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.errors import InputError, PlanError
from vad_lib.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random CLIP for images of 32 pixels with 4 x 4 patches."""
    folder = tmp_path_factory.mktemp("clip") / "tiny"
    write_random_clip(folder)
    return folder


@pytest.fixture(scope="module")
def normal(tiles: pd.DataFrame) -> ImageDataset:
    return ImageDataset.from_rows(tiles[~tiles["is_anomalous"]], Preprocessing((32, 32)))


def make(folder: Path, **options: Any) -> WinClip:
    weights = resolve_backbone_weights(str(folder))
    return WinClip.create(WinClipArguments(winclip_encoder=str(folder), **options), FitSettings(weights))


def pictures(count: int = 3, side: int = 32) -> torch.Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(side))


def anomalibs(folder: Path, ours: WinClip, monkeypatch: pytest.MonkeyPatch, reference: torch.Tensor | None) -> Any:
    """Return anomalib's model of the same CLIP and the same vectors of texts."""
    from anomalib.models.image.winclip import torch_model

    monkeypatch.setattr(torch_model, "BACKBONE", f"local-dir:{folder}")
    monkeypatch.setattr(torch_model, "PRETRAINED", None)
    model = torch_model.WinClipModel().eval()
    transformer, windows = model.clip.visual.transformer, model._get_window_embeddings
    forward = transformer.forward

    def tokens_second(tokens: torch.Tensor) -> torch.Tensor:
        return forward(tokens.transpose(0, 1)).transpose(0, 1)

    def of_windows(*arguments: Any) -> Any:
        # anomalib hands the tokens over in the order (tokens, windows, C) of older versions of open_clip
        with monkeypatch.context() as patch:
            patch.setattr(transformer, "forward", tokens_second)
            return windows(*arguments)

    monkeypatch.setattr(model, "_get_window_embeddings", of_windows)
    model._text_embeddings = ours.texts_
    if reference is not None:
        with torch.no_grad():
            model.setup(reference_images=reference)
    return model


@pytest.mark.parametrize("shots", [0, 2])
def test_scores_and_maps_are_those_of_anomalib(
    shots: int, folder: Path, normal: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = make(folder, winclip_shots=shots).fit(normal)
    normalise = ours.network.normalise
    reference = None
    if shots:
        reference = normalise(torch.stack([normal[0], normal[len(normal) - 1]]))
    theirs = anomalibs(folder, ours, monkeypatch, reference)
    found = ours.score(pictures())
    with torch.no_grad():
        expected = theirs(normalise(pictures()))
    np.testing.assert_allclose(found.scores, expected.pred_score.squeeze(), atol=1e-6)
    np.testing.assert_allclose(found.maps, expected.anomaly_map, atol=1e-6)
    assert np.ptp(found.scores) > 1e-4


def test_the_words_are_those_of_the_paper_and_of_anomalib() -> None:
    from anomalib.models.image.winclip import prompting

    assert (list(NORMAL_STATES), list(ABNORMAL_STATES)) == (prompting.NORMAL_STATES, prompting.ANOMALOUS_STATES)
    assert set(prompting.TEMPLATES) <= set(TEMPLATES)
    assert len(set(TEMPLATES)) == 22
    normal, abnormal = WinClipArguments(winclip_object="metal nut").sentences()
    assert (len(normal), len(abnormal)) == (7 * 22, 4 * 22)
    assert "a blurry photo of the metal nut without flaw." in normal
    assert "a photo of a damaged metal nut for visual inspection." in abnormal


def test_the_vectors_of_the_texts_are_means_of_vectors_of_length_1(folder: Path, normal: ImageDataset) -> None:
    from open_clip.tokenizer import tokenize

    words = {"winclip_normal_states": ["{}", "fine {}"], "winclip_abnormal_states": ["cracked {}"]}
    detector = make(folder, winclip_templates=["a photo of {}."], winclip_object="tile", winclip_shots=0, **words)
    found = detector.fit(normal).texts_
    model = write_random_clip(folder)
    with torch.no_grad():
        each = model.encode_text(tokenize(["a photo of tile.", "a photo of fine tile.", "a photo of cracked tile."]))
    unit = each / each.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found, torch.stack([unit[:2].mean(0), unit[2]]))


@pytest.mark.parametrize("shots", [0, 3])
def test_a_saved_model_has_no_text_tower_and_scores_alike_in_any_batch(
    shots: int, folder: Path, normal: ImageDataset, tmp_path: Path
) -> None:
    detector = make(folder, winclip_shots=shots).fit(normal)
    detector.save(tmp_path)
    names = detector.state_dict()
    assert {name.split(".")[0] for name in names} == {"visual", "texts"} | ({"memory"} if shots else set())
    assert names["texts"].shape == (2, 16)
    loaded = load_detector(tmp_path)
    together, turned = detector.score(pictures()), loaded.score(pictures().flip(0))
    np.testing.assert_array_equal(turned.scores[::-1], together.scores)
    np.testing.assert_array_equal(turned.maps[::-1], together.maps)  # type: ignore[index]
    assert together.maps is not None
    assert together.maps.shape == (3, 32, 32)
    assert detector.report.numbers["images_remembered"] == shots


def test_zero_shots_look_at_no_image_and_a_remembered_image_is_less_strange(
    folder: Path, normal: ImageDataset, tmp_path: Path
) -> None:
    nothing = ImageDataset([], Preprocessing((32, 32)), shapes=[])
    zero = make(folder, winclip_shots=0).fit(nothing)
    assert zero.score(pictures()).scores.shape == (3,)
    with_memory = make(folder, winclip_shots=1).fit(normal)
    seen, other = normal[0][None], pictures(1)
    gain = [float(with_memory.score(one).scores[0] - zero.score(one).scores[0] / 2) for one in (seen, other)]
    assert gain[0] < 1e-6 < gain[1]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(InputError, match="None of the 1 training images"):
        make(folder).fit(ImageDataset([broken], Preprocessing((32, 32)), shapes=[(32, 32)]))


def test_a_score_of_a_patch_is_the_harmonic_mean_over_the_windows_that_hold_it() -> None:
    assert windows_of((3, 3), 2).tolist() == [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]
    found = spread(torch.tensor([1.0, 0.75, 0.5, 0.25]), (3, 3), 2)
    expected = [[1, 6 / 7, 0.75], [2 / 3, 0.48, 0.375], [0.5, 1 / 3, 0.25]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_what_cannot_be_compared_with_texts_is_refused_with_what_to_do(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(PlanError, match=r"resnet18 has no text tower.*vad weights add FOLDER"):
        WinClip(BackboneWeights("resnet18", None, "random", ""))
    resnet = config_with(vision_cfg={"layers": [1, 1, 1, 1], "width": 32})
    write_random_clip(tmp_path / "resnet", resnet)
    with pytest.raises(PlanError, match="a vision transformer; resnet is of another kind"):
        make(tmp_path / "resnet")
    with pytest.raises(PlanError, match="2 x 2 patches; WinCLIP needs 3 each way"):
        make(folder, winclip_shots=0).fit(ImageDataset([], Preprocessing((16, 16)), shapes=[])).score(pictures(1, 16))


def test_a_plan_names_words_of_its_own_and_one_without_a_place_is_a_fault() -> None:
    with pytest.raises(ValueError, match=r"has no \{\} in 'broken'"):
        WinClipArguments(winclip_abnormal_states=["broken"])


def test_without_shots_neither_fit_nor_forecast_needs_an_image(folder: Path) -> None:
    images = ImageDataset([], Preprocessing((32, 32)), shapes=[])
    forecast = make(folder, winclip_shots=0).forecast(images, None, 2**40)
    assert forecast.ms_per_image > 0
    assert forecast.parts[0].seconds > 0
