"""AnomalyCLIP: the numbers of the published code, right in batches, from prompts, learnt vectors and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch.nn import functional
from typer.testing import CliRunner

from tests.detectors.tile_images import write_tiles
from tests.detectors.tiny_prompts import tiny_prompts
from tests.encoders.tiny_clip import config_with
from vad_dagster.cli.weights import app
from vad_lib.comparison.random_clip import write_random_clip
from vad_lib.detectors.anomalyclip.detector import AnomalyCLIP
from vad_lib.detectors.anomalyclip.head import PromptHead
from vad_lib.detectors.anomalyclip.learnt_file import Learnt, read_checkpoint, read_learnt
from vad_lib.detectors.anomalyclip.tower import create_tower
from vad_lib.detectors.anomalyclip.tuning import TuningData, extract, learn, tune
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.maps import Blur
from vad_lib.detectors.masked_images import MaskedImage
from vad_lib.detectors.registry import load_detector
from vad_lib.encoders.store import sha256_of
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.errors import InputError, ModelFormatError, PlanError
from vad_lib.preprocessing import Preprocessing
from vad_lib.randomness import seeded

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


@pytest.mark.spec("P3.01", "P3.02")
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


def test_an_image_has_its_own_probability_whatever_is_in_the_batch(
    reference: AnomalyCLIP, published: dict[str, torch.Tensor]
) -> None:
    images = published["s56.image"]
    together = reference.score(images)
    for number in range(3):
        alone = reference.score(images[number : number + 1])
        assert alone.scores[0] == together.scores[number]
        assert alone.maps is not None
        assert together.maps is not None
        np.testing.assert_array_equal(alone.maps[0], together.maps[number])
    assert len(set(together.scores.tolist())) == 3


def test_a_checkpoint_of_the_authors_becomes_a_small_file_of_tokens(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "anomalyclip_tiny" / "tiny_epoch_15.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAD_WEIGHTS", str(tmp_path))
        told = CliRunner().invoke(app, ["add", str(source), "--detector", "anomalyclip", "--name", "visa"])
    file = tmp_path / "prompts" / "visa.safetensors"
    assert (told.exit_code, told.output.replace("\n", "")) == (0, str(file))
    found = read_learnt("visa", tmp_path)
    state = torch.load(source, weights_only=True)["prompt_learner"]
    assert {name: tuple(value.shape) for name, value in found.tensors.items()} == {
        "ctx": (2, 12, 64),
        "deep": (8, 4, 64),
    }
    assert torch.equal(found.tensors["ctx"][1], state["ctx_neg"][0, 0].float())
    assert torch.equal(found.tensors["deep"][7], state["compound_prompts_text.7"].float())
    assert found.provenance["source"] == "tiny_epoch_15.pth"
    assert len(found.provenance["source_sha256"]) == 64
    assert file.stat().st_size < 30_000


def test_other_detectors_take_no_files_of_their_own(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["add", str(tmp_path / "x"), "--detector", "patchcore"])
    assert isinstance(told.exception, InputError)
    assert "takes no files of its own" in str(told.exception)


@pytest.mark.parametrize("fault", ["text", "missing", "width", "nan"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, fault: str) -> None:
    state: dict[str, Any] = {"ctx_pos": torch.ones(1, 1, 12, 8), "ctx_neg": torch.ones(1, 1, 12, 8)}
    state |= {f"compound_prompts_text.{number}": torch.ones(4, 8) for number in range(3)}
    torch.save({"prompt_learner": state}, tmp_path / "good.pth")
    assert read_checkpoint(tmp_path / "good.pth").tensors["deep"].shape == (3, 4, 8)
    if fault == "missing":
        del state["ctx_neg"]
    elif fault == "width":
        state |= {f"compound_prompts_text.{number}": torch.ones(4, 9) for number in range(3)}
    elif fault == "nan":
        state["ctx_pos"][0, 0, 3, 3] = torch.nan
    file = tmp_path / "epoch_15.pth"
    torch.save({"prompt_learner": state}, file) if fault != "text" else file.write_text("text")
    with pytest.raises(ModelFormatError, match=r"epoch_15\.pth"):
        read_checkpoint(file)


def test_a_missing_or_damaged_file_of_prompts_is_told_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prompts/ours\.safetensors.*vad weights add FILE --detector anomalyclip"):
        read_learnt("ours", tmp_path)
    save_file({"ctx": torch.ones(2, 12, 8)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFormatError, match="is not a file of learnt prompts"):
        read_learnt(str(tmp_path / "other.safetensors"))


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> BackboneWeights:
    folder = tmp_path_factory.mktemp("tiny") / "clip"
    write_random_clip(folder, config_with(vision_cfg={"layers": 2}))
    return resolve_backbone_weights(str(folder))


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> list[MaskedImage]:
    """Six tiles, three of them with a dark bar and its mask."""
    folder = tmp_path_factory.mktemp("masked")
    found = []
    for row in write_tiles(folder, 3, 3).itertuples():
        image, mask = Path(str(row.file)), None
        if row.is_anomalous:
            mask = folder / "masks" / image.name
            mask.parent.mkdir(exist_ok=True)
            Image.fromarray(np.where(np.asarray(Image.open(image)) == 10, 255, 0).astype(np.uint8)).save(mask)
        found.append(MaskedImage(image, mask))
    return found


@pytest.mark.parametrize(("kind", "levels"), [("prompts", (1, 2)), ("vectors", (2, 3))])
@pytest.mark.spec("P3.03")
def test_what_is_learnt_on_other_images_scores_and_needs_no_text_tower_afterwards(
    tiny_clip: BackboneWeights,
    random_resnet: BackboneWeights,
    masked: list[MaskedImage],
    tmp_path: Path,
    kind: str,
    levels: tuple[int, ...],
) -> None:
    weights = tiny_clip if kind == "prompts" else random_resnet
    learnt = tune(masked, weights, line_sha256=(), levels=levels, side=64, kind=kind, epochs=2)
    learnt.save(tmp_path / "learnt.safetensors")
    read = read_learnt(str(tmp_path / "learnt.safetensors"))
    assert (read.kind, len(read.images_sha256)) == (kind, 6)
    detector = AnomalyCLIP(weights, kind, levels, read.provenance, read).fit(NO_IMAGES)
    batch = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    found = detector.score(batch)
    assert found.maps is not None
    assert found.maps.shape == (2, 64, 64)
    detector.save(tmp_path / "model")
    assert not any("token_embedding" in name for name in detector.state_dict())
    np.testing.assert_array_equal(load_detector(tmp_path / "model").score(batch).scores, found.scores)


def test_learning_lowers_the_loss_and_changes_the_tokens_alone(
    tiny_clip: BackboneWeights, masked: list[MaskedImage]
) -> None:
    prompts = tiny_prompts().tensors
    head = PromptHead(tiny_clip, prompts["ctx"], prompts["deep"], 1)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    tower = create_tower(tiny_clip, (2,), "prompts")
    with seeded(0):
        losses = learn(head, extract(masked, tower, 64), epochs=20, batch_size=8)
    assert sum(losses[-1]) < 0.9 * sum(losses[0])
    changed = {name for name, value in head.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"context", "deep"}


def test_images_of_the_line_are_refused_before_learning_and_again_when_the_line_is_trained(
    tiny_clip: BackboneWeights, masked: list[MaskedImage]
) -> None:
    digest = sha256_of(masked[4].image)
    with pytest.raises(InputError, match=rf"1 of the images .* such as {masked[4].image}"):
        tune(masked, tiny_clip, line_sha256={digest}, levels=(2,), side=64)
    learnt = Learnt("prompts", tiny_prompts().tensors, {}, (digest,))
    line = ImageDataset([masked[4].image], Preprocessing((64, 64)), shapes=[(64, 64)], sha256=[digest])
    with pytest.raises(InputError, match="1 images of this line were among those"):
        AnomalyCLIP(tiny_clip, "prompts", (2,), {}, learnt).fit(NO_IMAGES, validation=line)
    with pytest.raises(InputError, match="normal and damaged images"):
        tune(masked[:3], tiny_clip, line_sha256=(), levels=(2,), side=64)


def test_what_does_not_go_together_is_refused_with_what_does(
    tiny_clip: BackboneWeights, random_resnet: BackboneWeights, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match="need a CLIP folder with a text tower, and resnet18 is none"):
        create_tower(random_resnet, (1,), "prompts")
    with pytest.raises(PlanError, match="names the block 24, but clip has local patches behind the blocks 1 to 2"):
        create_tower(tiny_clip, (24,), "prompts")
    with pytest.raises(PlanError, match="names the block 9, but resnet18 has 5 layers"):
        create_tower(random_resnet, (9,), "vectors")
    residual = config_with(vision_cfg={"layers": [1, 1, 1, 1], "width": 8, "image_size": 64})
    write_random_clip(tmp_path / "residual", residual)
    with pytest.raises(PlanError, match="is a plain transformer, which residual is not"):
        create_tower(resolve_backbone_weights(str(tmp_path / "residual")), (1,), "prompts")
    wide = Learnt("prompts", {"ctx": torch.ones(2, 12, 768), "deep": torch.ones(8, 4, 768)})
    with pytest.raises(
        ModelFormatError, match="text tower of width 768 and more than 8 blocks; clip has width 16 and 3"
    ):
        AnomalyCLIP(tiny_clip, "prompts", (2,), {}, wide).fit(NO_IMAGES)
    other = {"encoder_sha256": "0" * 64}
    with pytest.raises(ModelFormatError, match="belongs to another encoder"):
        AnomalyCLIP(tiny_clip, "prompts", (2,), other, tiny_prompts()).fit(NO_IMAGES)


def test_the_blur_is_that_of_scipy_also_on_maps_smaller_than_its_reach() -> None:
    for shape in ((2, 40, 30), (1, 5, 7)):
        maps = torch.rand(shape, generator=torch.Generator().manual_seed(3))
        expected = [ndimage.gaussian_filter(one, 4) for one in maps.numpy()]
        torch.testing.assert_close(Blur()(maps).numpy(), np.stack(expected), rtol=0, atol=1e-6)
