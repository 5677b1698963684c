"""anomalib's models as a detector: anomalib's own scores on the same tensors, our weights, and nothing by accident."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.detectors.tile_images import write_tiles
from tests.plan.plan_texts import plan_text
from tools.anomalib_page import PAGE, with_models
from vad_lib.detectors.anomalib_models.building import weights_of_the_store
from vad_lib.detectors.anomalib_models.detector import AnomalibDetector
from vad_lib.detectors.anomalib_models.plan_arguments import AnomalibArguments
from vad_lib.detectors.anomalib_models.table import BUILT, NOT_BUILT
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.registry import load_detector
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.errors import InputError, ModelFormatError, PlanError, TrainingStopped, VadError
from vad_lib.export.formats import trace
from vad_lib.plan import parse_plan
from vad_lib.preprocessing import Preprocessing

SMALL_BACKBONE = {
    **dict.fromkeys(("dinomaly", "anomaly_dino", "inp_former", "general_ad"), "vit_small_patch14_dinov2"),
    "rad": "vit_small_patch16_dinov3",
    **dict.fromkeys(("reverse_distillation", "supersimplenet", "cflow", "dfm", "mh_patchcore", "glass"), "resnet18"),
    "patchflow": "resnet18",
}
"""Smaller networks than the models' own; of those that are not named here, their own."""
SIDE = {"supersimplenet": 128, "cflow": 128}
"""Pixels that a model needs at least; others are tried with 56 or 64."""


def images_of(rows: pd.DataFrame, model: str) -> ImageDataset:
    side = SIDE.get(model, 56 if "patch14" in BUILT[model].backbone else 64)
    return ImageDataset.from_rows(rows, Preprocessing((side, side)))


def detector_of(model: str, **others: Any) -> AnomalibDetector:
    name = SMALL_BACKBONE.get(model, BUILT[model].backbone)
    return AnomalibDetector(BackboneWeights(name, None, "random", ""), model, max_epochs=1, seed=1, **others)


@pytest.fixture(scope="module")
def few_tiles(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Validated rows of 8 normal and 2 defective tiles."""
    return write_tiles(tmp_path_factory.mktemp("few_tiles"), 8, 2)


@pytest.fixture(scope="module")
def padim(few_tiles: pd.DataFrame) -> AnomalibDetector:
    return detector_of("padim").fit(images_of(few_tiles[:8], "padim"))


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=() if row.quick else pytest.mark.slow) for name, row in BUILT.items()]
)
def test_scores_and_maps_are_anomalibs_own_on_the_saved_tensors_whatever_else_is_in_the_batch(
    model: str, few_tiles: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", _no_network)
    ours = detector_of(model).fit(images_of(few_tiles[:8], model))
    ours.save(tmp_path)
    unseen = images_of(few_tiles[7:], model)
    batch = torch.stack([unseen[number] for number in range(3)])

    found, loaded = ours.score(batch), load_detector(tmp_path)
    assert isinstance(loaded, AnomalibDetector)
    theirs = loaded.module_.model
    assert type(theirs).__module__ == f"anomalib.models.image.{model}.torch_model"
    assert np.isfinite(found.scores).all()
    for place, image in enumerate(batch):
        with torch.inference_mode():
            expected = theirs(ours.normalise(image[None]))
        np.testing.assert_allclose(found.scores[place], expected.pred_score.flatten().numpy(), atol=1e-4, rtol=1e-4)
        alone = loaded.score(image[None])
        assert alone.scores[0] == found.scores[place]
        assert found.maps is not None
        assert alone.maps is not None
        assert alone.maps[0].shape == image.shape[1:]
        np.testing.assert_array_equal(alone.maps[0], found.maps[place])
        np.testing.assert_allclose(found.maps[place], expected.anomaly_map.squeeze().numpy(), atol=1e-4, rtol=1e-4)
    assert loaded.score(batch, with_maps=False).maps is None


@pytest.mark.slow
@pytest.mark.parametrize("model", BUILT)
def test_torch_traces_the_network_where_the_table_says_that_it_is_exported(model: str, few_tiles: pd.DataFrame) -> None:
    detector = detector_of(model).fit(images_of(few_tiles[:8], model))
    assert detector.input_size is not None
    unseen = images_of(few_tiles[7:], model)
    batch = torch.stack([unseen[number] for number in range(3)])
    found = detector.score(batch)
    if not BUILT[model].exported:
        with pytest.raises(VadError, match="cannot be traced, so it cannot be exported"):
            trace(detector.graph(), detector.input_size)
        np.testing.assert_array_equal(detector.score(batch).scores, found.scores)
        return
    scores, maps = trace(detector.graph(), detector.input_size).module()(batch)
    np.testing.assert_allclose(scores.detach().numpy(), found.scores, rtol=1e-4)
    np.testing.assert_allclose(maps.detach().numpy(), found.maps, atol=1e-4, rtol=1e-4)


def test_the_same_seed_gives_the_same_model_and_another_one_another(
    padim: AnomalibDetector, few_tiles: pd.DataFrame
) -> None:
    images = images_of(few_tiles[:8], "padim")
    again = detector_of("padim").fit(images)
    for name, tensor in padim.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    other = AnomalibDetector(padim.weights, "padim", seed=2).fit(images)
    assert not torch.equal(other.state_dict()["idx"], again.state_dict()["idx"])


def test_the_backbone_has_the_tensors_of_the_store_and_only_the_student_is_trained(
    few_tiles: pd.DataFrame, real_resnet: BackboneWeights
) -> None:
    fitted = AnomalibDetector(real_resnet, "stfpm", ["layer1", "layer2"], max_epochs=1)
    fitted.fit(images_of(few_tiles[:8], "stfpm"))
    wanted = real_resnet.load_state_dict()
    state = fitted.state_dict()
    weights = {name: state[f"teacher_model.feature_extractor.{name}"] for name in wanted if name.startswith("layer1.0")}
    assert weights
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, wanted[name], msg=name)
        assert name.endswith("num_batches_tracked") or not torch.equal(
            tensor, state[f"student_model.feature_extractor.{name}"]
        )
    assert [epoch.number for epoch in fitted.report.epochs] == [1]
    assert fitted.report.epochs[0].loss > 0


def test_pretrained_networks_come_from_the_store_inside_only_and_timm_is_left_as_it_was(
    real_resnet: BackboneWeights,
) -> None:
    import timm

    before = timm.create_model
    with weights_of_the_store(real_resnet):
        network = timm.create_model("resnet18", pretrained=True, features_only=True, out_indices=[1, 2])
        drawn = timm.create_model("resnet18", pretrained=False)
    assert timm.create_model is before
    stored = real_resnet.load_state_dict()["layer1.0.conv1.weight"]
    assert torch.equal(network.state_dict()["layer1.0.conv1.weight"], stored)
    assert not torch.equal(drawn.state_dict()["layer1.0.conv1.weight"], stored)


def test_without_weights_nothing_is_trained_by_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAD_ALLOW_RANDOM_WEIGHTS", raising=False)
    weights = resolve_backbone_weights(AnomalibArguments(anomalib_model="dinomaly").backbone(), tmp_path)
    assert weights.is_fallback
    with pytest.raises(PlanError, match="dinomaly needs the weights of vit_base_patch14_reg4_dinov2, which are not on"):
        AnomalibDetector(weights, "dinomaly")
    assert AnomalibDetector(weights, "padim", ["layer1"]).layers == ("blocks.2", "blocks.4")


def test_arguments_that_do_not_go_together_are_refused_in_a_sentence(few_tiles: pd.DataFrame) -> None:
    random = BackboneWeights("resnet18", None, "random", "")
    with pytest.raises(PlanError, match="dfm reads layers of its own choice"):
        AnomalibDetector(random, "dfm", ["layer1"])
    with pytest.raises(PlanError, match=r"'layer9', but the layers of resnet18 are act1, layer1"):
        AnomalibDetector(random, "padim", ["layer9"])
    with pytest.raises(PlanError, match=r"padim cannot be made for resnet18 .*n_features.* anomalib_layers"):
        AnomalibDetector(random, "padim", ["layer1"]).fit(images_of(few_tiles[:4], "padim"))
    images = images_of(few_tiles[:4], "padim")
    images.prepared_shapes[0] = (32, 64)
    with pytest.raises(PlanError, match=r"one shape: give img_size as \[height, width\]"):
        AnomalibDetector(random, "padim").fit(images)


def test_a_plan_names_a_model_that_can_be_built_and_hears_why_another_cannot() -> None:
    plan = parse_plan(
        plan_text("{model_name: anomalib, img_size: [300, 256], model_parameters: {anomalib_model: inp_former}}")
    )
    assert plan.train.img_size == (252, 252)
    assert AnomalibArguments().size_for(200) == ((200, 200), "anomalib's padim takes images of one shape")
    with pytest.raises(PlanError, match="cannot be trained here: it downloads its own teacher"):
        parse_plan(plan_text("{model_name: anomalib, model_parameters: {anomalib_model: efficient_ad}}"))
    with pytest.raises(PlanError, match="must be dinomaly or anomaly_dino or"):
        parse_plan(plan_text("{model_name: anomalib, model_parameters: {anomalib_model: nothing}}"))


def test_progress_is_told_stops_the_fit_and_what_cannot_be_read_is_passed_over(
    few_tiles: pd.DataFrame, tmp_path: Path
) -> None:
    told: list[float] = []

    def stop(state: Any) -> None:
        told.append(state.done)
        raise TrainingStopped("stopped by the test")

    detector = detector_of("padim")
    with pytest.raises(TrainingStopped):
        detector.fit(images_of(few_tiles[:8], "padim"), progress=stop)
    assert len(told) == 1
    with pytest.raises(ModelFormatError, match="padim has not been fitted"):
        detector.state_dict()
    rows = write_tiles(tmp_path, 6)
    for file in rows["file"][:2]:
        Path(file).write_bytes(b"no image")
    images = images_of(rows, "padim")
    assert detector.fit(images).report.numbers["epochs"] == 1
    assert len(images.unreadable) == 2
    for file in rows["file"]:
        Path(file).write_bytes(b"no image")
    with pytest.raises(InputError, match="None of the 6 training images can be read"):
        detector.fit(images_of(rows, "padim"))


def test_a_ctrl_c_stops_the_fit_as_one_and_later_ones_are_heard(few_tiles: pd.DataFrame) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        detector_of("padim").fit(images_of(few_tiles[:8], "padim"), progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_forecast_counts_the_epochs_and_images_of_the_whole_fit(few_tiles: pd.DataFrame) -> None:
    trained = AnomalibDetector(BackboneWeights("resnet18", None, "random", ""), "stfpm", ["layer1"], max_epochs=50)
    forecast = trained.forecast(images_of(few_tiles[:8], "stfpm"), None, 2**40)
    assert [part.name for part in forecast.parts] == ["making the network", "training, 50 epochs"]
    one = trained.report.epochs[-1].seconds
    assert forecast.parts[1].seconds == pytest.approx(50 * one)
    assert not forecast.problems


def test_every_image_model_of_anomalib_is_built_or_has_a_reason_and_the_page_says_so() -> None:
    import anomalib.models.image

    folder = Path(anomalib.models.image.__file__).parent
    theirs = {place.name for place in folder.iterdir() if (place / "lightning_model.py").is_file()}
    assert set(BUILT) | set(NOT_BUILT) == theirs
    assert not set(BUILT) & set(NOT_BUILT)
    text = PAGE.read_text(encoding="utf-8")
    assert with_models(text) == text, "run python -m tools.anomalib_page"
    for name in theirs:
        assert re.search(rf"^\| `{name}` \|", text, flags=re.MULTILINE), name


def _no_network(*_: object) -> None:
    raise OSError("this test allows no network")
