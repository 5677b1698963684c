"""AnomalyCLIP: the numbers of the published code, right in batches, from prompts, learnt vectors and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from tests.detectors.tile_images import as_dataset
from tests.encoders.tiny_clip import config_with, write_tiny_clip
from vad_lib.detectors.anomalyclip.detector import AnomalyCLIP
from vad_lib.detectors.anomalyclip.head import PromptHead
from vad_lib.detectors.anomalyclip.learnt_file import Learnt, read_checkpoint, read_learnt
from vad_lib.detectors.anomalyclip.tuning import TuningData, TuningImage, extract, learn, tune
from vad_lib.detectors.images import ImageDataset
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.errors import InputError, ModelFormatError, PlanError
from vad_lib.preprocessing import Preprocessing

LEVELS = (6, 12, 18, 24)
NO_IMAGES = ImageDataset([], Preprocessing((56, 56)), shapes=[])


@pytest.fixture(scope="module")
def published(shared_data: Path) -> dict[str, torch.Tensor]:
    """What the published code computed."""
    return load_file(shared_data / "anomalyclip_tiny" / "expected.safetensors")


@pytest.fixture(scope="module")
def checkpoint(shared_data: Path) -> Learnt:
    return read_checkpoint(shared_data / "anomalyclip_tiny" / "tiny_epoch_15.pth")


@pytest.fixture(scope="module")
def reference_clip(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> BackboneWeights:
    """The folder of the CLIP that it was computed with; images are normalised already."""
    source = shared_data / "anomalyclip_tiny"
    sizes = json.loads((source / "config.json").read_text())["config"]
    folder = tmp_path_factory.mktemp("reference") / "clip"
    folder.mkdir()
    vision = {"image_size": sizes["image_resolution"], "layers": sizes["vision_layers"], "head_width": 64}
    vision |= {"width": sizes["vision_width"], "patch_size": sizes["vision_patch_size"]}
    text = {"context_length": sizes["context_length"], "vocab_size": sizes["vocab_size"]}
    text |= {name: sizes[f"transformer_{name}"] for name in ("width", "heads", "layers")}
    config = {"embed_dim": sizes["embed_dim"], "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    content = {"model_cfg": config, "preprocess_cfg": {"mean": [0, 0, 0], "std": [1, 1, 1]}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    (folder / "open_clip_model.safetensors").symlink_to(source / "tiny_clip.safetensors")
    return resolve_backbone_weights(str(folder))


@pytest.fixture(scope="module")
def reference(reference_clip: BackboneWeights, checkpoint: Learnt) -> AnomalyCLIP:
    """A detector with all four levels of the published code."""
    return AnomalyCLIP(reference_clip, "prompts", LEVELS, {}, checkpoint).fit(NO_IMAGES)


@pytest.mark.spec("P3.01")
@pytest.mark.parametrize("side", [56, 70])
def test_each_number_is_that_of_the_published_code(
    reference: AnomalyCLIP, published: dict[str, torch.Tensor], side: int
) -> None:
    images = published[f"s{side}.image"]
    vectors = reference.network.vectors()

    def close(ours: torch.Tensor, theirs: str) -> None:
        torch.testing.assert_close(ours, published[f"s{side}.{theirs}"], rtol=0, atol=1e-5)

    close(vectors.image, "text_features")
    with torch.no_grad():
        found = reference.network.tower(images)
        close(functional.normalize(found.vectors, dim=1), "image_features")
        maps = vectors.patch_probabilities(found, (side, side))
        close(torch.stack(maps), "layer_maps")
        close(torch.stack(maps).sum(0), "fused_map")
    scores = reference.score(images)
    close(torch.from_numpy(scores.scores), "image_probability")
    assert scores.maps is not None
    close(torch.from_numpy(scores.maps), "smoothed_map")


@pytest.mark.spec("P3.01")
def test_learning_takes_the_steps_of_the_published_code(
    reference: AnomalyCLIP,
    reference_clip: BackboneWeights,
    checkpoint: Learnt,
    published: dict[str, torch.Tensor],
) -> None:
    head = PromptHead(reference_clip, checkpoint.tensors["ctx"], checkpoint.tensors["deep"], len(LEVELS))
    with torch.no_grad():
        found = reference.network.tower(published["s56.image"])
    data = TuningData(found.vectors, found.patches, published["train.mask"] > 0.5, published["train.label"].long())
    losses = learn(head, data, epochs=3, batch_size=8)
    torch.testing.assert_close(torch.tensor(losses), published["train.losses"], rtol=1e-3, atol=1e-3)
    after = torch.cat([published["train.ctx_pos_after"][0], published["train.ctx_neg_after"][0]])
    torch.testing.assert_close(head.context.detach(), after, rtol=0, atol=1e-3)
    assert not torch.allclose(head.context, checkpoint.tensors["ctx"], atol=1e-3)
