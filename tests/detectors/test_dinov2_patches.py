"""PatchCore's preset for DINOv2: AnomalyDINO's scores with our memory bank, and what the preset asks of a plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.plan.plan_texts import plan_text
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.patchcore.detector import PatchCore
from vad_lib.detectors.patchcore.nearest import MemoryBank
from vad_lib.detectors.patchcore.plan_arguments import DINOV2, PatchCoreArguments
from vad_lib.detectors.registry import load_detector
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.errors import PlanError
from vad_lib.export.formats import trace, write_onnx
from vad_lib.plan import parse_plan
from vad_lib.preprocessing import Preprocessing
from vad_lib.randomness import seeded

SIZE = Preprocessing((56, 70))


@pytest.fixture(scope="module")
def random_dinov2(tmp_path_factory: pytest.TempPathFactory) -> BackboneWeights:
    """A store with a file of random weights of DINOv2's small network."""
    store = tmp_path_factory.mktemp("dinov2")
    with seeded(3):
        save_file(timm.create_model(DINOV2, num_classes=0).state_dict(), store / f"{DINOV2}.safetensors")
    return resolve_backbone_weights(DINOV2, store)


@pytest.fixture(scope="module")
def fitted(tiles: pd.DataFrame, random_dinov2: BackboneWeights) -> PatchCore:
    detector = PatchCore(random_dinov2, ["blocks.11"], coreset_sampling_ratio=1.0, preset="dinov2")
    return detector.fit(ImageDataset.from_rows(tiles[:6], SIZE))


@pytest.fixture(scope="module")
def unseen(tiles: pd.DataFrame) -> torch.Tensor:
    images = ImageDataset.from_rows(tiles[10:], SIZE)
    return torch.stack([images[number] for number in range(len(images))])


def test_patches_bank_scores_and_maps_are_those_of_anomalys_dino_on_the_same_file(
    fitted: PatchCore, tiles: pd.DataFrame, unseen: torch.Tensor
) -> None:
    from anomalib.models.image.anomaly_dino.torch_model import AnomalyDINOModel

    from vad_lib.detectors.anomalib_models.building import weights_of_the_store

    with weights_of_the_store(fitted.weights):
        theirs = AnomalyDINOModel(encoder_name=DINOV2)
    images = ImageDataset.from_rows(tiles[:6], SIZE)
    with torch.inference_mode():
        theirs.train()(fitted.embedder.normalise(torch.stack([images[number] for number in range(6)])))
        theirs.fit()
        expected = theirs.eval()(fitted.embedder.normalise(unseen))
    assert fitted.bank_ is not None
    order = [bank[bank[:, 0].argsort()] for bank in (fitted.bank_.rows, theirs.memory_bank)]
    torch.testing.assert_close(order[0], order[1], atol=1e-5, rtol=0)
    found = fitted.score(unseen)
    np.testing.assert_allclose(found.scores, expected.pred_score[:, 0].numpy(), atol=1e-5, rtol=1e-5)
    assert found.maps is not None
    np.testing.assert_allclose(found.maps, expected.anomaly_map[:, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("screened", [False, True])
def test_an_image_has_the_same_score_alone_without_maps_and_loaded(
    fitted: PatchCore, unseen: torch.Tensor, tmp_path: Path, screened: bool
) -> None:
    fitted.save(tmp_path)
    loaded = load_detector(tmp_path)
    assert isinstance(loaded, PatchCore)
    for detector in (fitted, loaded):
        assert detector.bank_ is not None
        detector.bank_ = MemoryBank(detector.bank_.rows, screened=screened)
    together = fitted.score(unseen)
    for place, image in enumerate(unseen):
        alone = loaded.score(image[None])
        assert alone.scores[0] == together.scores[place]
        assert alone.maps is not None
        assert together.maps is not None
        np.testing.assert_array_equal(alone.maps[0], together.maps[place])
    np.testing.assert_array_equal(fitted.score(unseen, with_maps=False).scores, together.scores)


def test_the_exported_network_gives_the_same_scores_and_maps(fitted: PatchCore, unseen: torch.Tensor) -> None:
    found = fitted.score(unseen)
    with torch.inference_mode():
        scores, maps = fitted.graph()(unseen)
    np.testing.assert_allclose(scores.numpy(), found.scores, atol=1e-6)
    np.testing.assert_allclose(maps.numpy(), found.maps, atol=1e-6)


@pytest.mark.slow
def test_the_onnx_file_gives_the_same_scores_and_maps_in_batches_of_any_size(
    fitted: PatchCore, unseen: torch.Tensor, tmp_path: Path
) -> None:
    import onnxruntime

    write_onnx(trace(fitted.graph(), (56, 70)), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    for batch in (unseen, unseen[:1]):
        found = fitted.score(batch)
        scores, maps = session.run(None, {"images": batch.numpy()})
        np.testing.assert_allclose(scores, found.scores, atol=1e-5)
        np.testing.assert_allclose(maps, found.maps, atol=1e-5)


def test_the_preset_brings_backbone_layer_and_whole_patches_where_the_plan_keeps_the_defaults() -> None:
    plan = parse_plan(
        plan_text("{model_name: patchcore, img_size: [256, 300], model_parameters: {patchcore_preset: dinov2}}")
    )
    own = PatchCoreArguments(patchcore_preset="dinov2")
    own.require_usable()
    assert (own.backbone(), own.layers()) == (DINOV2, ("blocks.11",))
    assert plan.train.img_size == (252, 294)
    assert "multiples of 14 pixels" in plan.changes[0].reason
    large = PatchCoreArguments(patchcore_preset="dinov2", patchcore_backbone="vit_large_patch14_dinov2")
    assert large.layers() == ("blocks.23",)
    named = PatchCoreArguments(patchcore_preset="dinov2", patchcore_layers=("blocks.7", "blocks.99"))
    with pytest.raises(PlanError, match=r"names blocks\.99"):
        named.require_usable()
    assert PatchCoreArguments().size_for((256, 300)) == ((256, 300), "")
