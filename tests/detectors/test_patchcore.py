"""PatchCore: anomalib's scores, our speed, and every argument seen in its effect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.detectors.tile_images import as_dataset, write_tiles
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.patchcore.detector import PatchCore
from vad_lib.detectors.patchcore.nearest import MemoryBank
from vad_lib.detectors.registry import load_detector
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import InputError, ModelFormatError, PlanError, TrainingStopped
from vad_lib.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def fitted(tiles: pd.DataFrame, random_resnet: BackboneWeights) -> PatchCore:
    return PatchCore(random_resnet, coreset_sampling_ratio=0.2, seed=1).fit(as_dataset(tiles[:12]))


@pytest.fixture(scope="module")
def unseen(tiles: pd.DataFrame) -> torch.Tensor:
    images = as_dataset(tiles[12:])
    return torch.stack([images[number] for number in range(4)])


@pytest.mark.spec("V4.17", "V15.02")
@pytest.mark.parametrize("screened", [False, True])
def test_scores_and_maps_are_those_of_anomalib(shared_data: Path, real_resnet: BackboneWeights, screened: bool) -> None:
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    from vad_lib.encoders.build import load_weights

    train = sorted((shared_data / "mvtec_bottle" / "train" / "good").iterdir())[:8]
    test = sorted((shared_data / "mvtec_bottle" / "test").glob("*/*"))[::9]
    size = Preprocessing((160, 192))
    ours = PatchCore(real_resnet).fit(ImageDataset(train, size, shapes=[(320, 320)] * len(train)))
    images = ImageDataset(test, size, shapes=[(320, 320)] * len(test))
    batch = torch.stack([images[number] for number in range(len(test))])
    assert ours.bank_ is not None
    ours.bank_ = MemoryBank(ours.bank_.rows, screened=screened)
    found = ours.score(batch)
    assert np.array_equal(ours.score(batch, with_maps=False).scores, found.scores)
    theirs = PatchcoreModel(backbone="resnet18", layers=("layer2", "layer3"), pre_trained=False).eval()
    load_weights(theirs.feature_extractor.feature_extractor, real_resnet)
    theirs.memory_bank = ours.bank_.rows
    with torch.inference_mode():
        expected = theirs(ours.embedder.normalise(batch))
    np.testing.assert_allclose(found.scores, expected.pred_score.numpy(), rtol=1e-4)
    assert found.maps is not None
    np.testing.assert_allclose(found.maps, expected.anomaly_map[:, 0].numpy(), rtol=2e-4)


def test_scoring_does_not_import_anomalib(tmp_path: Path, fitted: PatchCore) -> None:
    """Its import costs seconds, which every process that inspects would pay."""
    fitted.save(tmp_path)
    code = (
        "import sys, torch; from pathlib import Path; from vad_lib.detectors.registry import load_detector; "
        "load_detector(Path(sys.argv[1])).score(torch.zeros(1, 3, 64, 64)); "
        "sys.exit('anomalib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


@pytest.mark.spec("V4.18")
def test_an_image_scores_the_same_bits_alone_and_in_a_batch(fitted: PatchCore, unseen: torch.Tensor) -> None:
    """Equal to the last bit, because on the CPU each image goes through backbone and search by itself."""
    together = fitted.score(unseen)
    alone = [fitted.score(unseen[number : number + 1]) for number in range(4)]
    assert together.scores.tolist() == [float(one.scores[0]) for one in alone]
    assert together.maps is not None
    assert all(np.array_equal(together.maps[number], alone[number].maps[0]) for number in range(4))  # type: ignore[index]


@pytest.mark.spec("V14.10")
def test_the_same_seed_gives_the_same_scores_whatever_was_drawn_before(
    tiles: pd.DataFrame, random_resnet: BackboneWeights, fitted: PatchCore, unseen: torch.Tensor
) -> None:
    torch.rand(17)
    np.random.default_rng()
    again = PatchCore(random_resnet, coreset_sampling_ratio=0.2, seed=1, batch_size=5).fit(as_dataset(tiles[:12]))
    assert again.score(unseen).scores.tolist() == fitted.score(unseen).scores.tolist()
    other = PatchCore(random_resnet, coreset_sampling_ratio=0.2, seed=2).fit(as_dataset(tiles[:12]))
    assert other.score(unseen).scores.tolist() != fitted.score(unseen).scores.tolist()


def test_a_fit_leaves_the_generators_of_the_process_alone(tiles: pd.DataFrame, random_resnet: BackboneWeights) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    PatchCore(random_resnet, coreset_sampling_ratio=0.05).fit(as_dataset(tiles[:3]))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.spec("V14.34")
@pytest.mark.parametrize("ratio", [0.05, 0.5])
def test_the_coreset_ratio_is_the_share_of_patches_that_is_kept(
    tiles: pd.DataFrame, random_resnet: BackboneWeights, ratio: float
) -> None:
    detector = PatchCore(random_resnet, coreset_sampling_ratio=ratio).fit(as_dataset(tiles[:6]))
    patches = 6 * 8 * 8  # layer2 has stride 8
    assert detector.report.numbers["patches"] == patches
    assert detector.report.numbers["memory_bank_rows"] == int(patches * ratio)


@pytest.mark.spec("V14.35")
def test_the_layers_decide_what_is_remembered_and_their_order_does_not_matter(
    tiles: pd.DataFrame, random_resnet: BackboneWeights
) -> None:
    images = as_dataset(tiles[:4])
    one = PatchCore(random_resnet, ("layer1",), 0.1).fit(images)
    assert one.bank_ is not None
    assert one.bank_.rows.shape == (int(4 * 16 * 16 * 0.1), 64)
    forward = PatchCore(random_resnet, ("layer2", "layer3"), 0.1).fit(images)
    backward = PatchCore(random_resnet, ("layer3", "layer2"), 0.1).fit(images)
    assert forward.bank_ is not None
    assert backward.bank_ is not None
    assert torch.equal(forward.bank_.rows, backward.bank_.rows)


@pytest.mark.spec("V14.35")
def test_an_unknown_layer_is_refused_with_the_right_names(random_resnet: BackboneWeights) -> None:
    with pytest.raises(PlanError, match=r"'layer9'.*resnet18 are act1, layer1, layer2, layer3, layer4"):
        PatchCore(random_resnet, ("layer2", "layer9"))


@pytest.mark.spec("V4.16", "V14.11", "V14.12")
@pytest.mark.parametrize("size", [(48, 80), 40])
def test_rectangular_sizes_and_mixed_shapes_are_scored(
    tmp_path: Path, random_resnet: BackboneWeights, size: int | tuple[int, int]
) -> None:
    wide = write_tiles(tmp_path / "wide", 3, width=90)
    tall = write_tiles(tmp_path / "tall", 3, side=90, width=60)
    rows = pd.concat([wide, tall.assign(row=tall["row"] + 3)], ignore_index=True)
    images = ImageDataset.from_rows(rows, Preprocessing(size))
    detector = PatchCore(random_resnet, coreset_sampling_ratio=0.2, batch_size=4).fit(images)
    shapes = {number: detector.score(images[number][None]).maps.shape[1:] for number in (0, 3)}  # type: ignore[union-attr]
    expected = {0: (40, 56), 3: (60, 40)} if size == 40 else {0: size, 3: size}
    assert shapes == expected


@pytest.mark.spec("V9.03")
def test_a_grey_image_scores_as_the_same_image_in_three_equal_channels(tmp_path: Path, fitted: PatchCore) -> None:
    from PIL import Image

    rows = write_tiles(tmp_path, 1)
    Image.open(rows["file"][0]).convert("RGB").save(tmp_path / "colour.png")
    images = ImageDataset(
        [Path(rows["file"][0]), tmp_path / "colour.png"], Preprocessing((64, 64)), shapes=[(64, 64)] * 2
    )
    scores = fitted.score(torch.stack([images[0], images[1]])).scores
    assert scores[0] == scores[1]


def test_a_defect_scores_higher_than_new_normal_images(tmp_path: Path, real_resnet: BackboneWeights) -> None:
    rows = write_tiles(tmp_path, 30, 6, side=96)
    detector = PatchCore(real_resnet, coreset_sampling_ratio=0.2).fit(as_dataset(rows[:24], 96))
    images = as_dataset(rows[24:], 96)
    scores = detector.score(torch.stack([images[number] for number in range(12)])).scores
    assert scores[:6].max() < scores[6:].min()


def test_one_training_image_is_enough_and_one_unreadable_one_is_left_out(
    tmp_path: Path, random_resnet: BackboneWeights
) -> None:
    rows = write_tiles(tmp_path, 3)
    Path(rows["file"][1]).write_bytes(b"no image")
    images = as_dataset(rows)
    detector = PatchCore(random_resnet, coreset_sampling_ratio=0.1).fit(images)
    assert list(images.unreadable) == [1]
    assert detector.report.numbers["patches"] == 2 * 64
    only = PatchCore(random_resnet, coreset_sampling_ratio=0.001).fit(as_dataset(rows[:1]))
    assert only.report.numbers["memory_bank_rows"] == 1
    Path(rows["file"][0]).unlink()
    with pytest.raises(InputError, match="None of the 1 training images"):
        PatchCore(random_resnet).fit(as_dataset(rows[:1]))


def test_a_stopped_fit_leaves_no_memory(tiles: pd.DataFrame, random_resnet: BackboneWeights) -> None:
    def stop(_: object) -> None:
        raise TrainingStopped

    detector = PatchCore(random_resnet)
    with pytest.raises(TrainingStopped):
        detector.fit(as_dataset(tiles[:3]), progress=stop)
    assert detector.bank_ is None
    with pytest.raises(ModelFormatError, match="no memory"):
        detector.score(torch.zeros(1, 3, 64, 64))


def test_a_saved_detector_scores_the_same_bits(tmp_path: Path, fitted: PatchCore, unseen: torch.Tensor) -> None:
    fitted.save(tmp_path / "model")
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == ["detector.json", "model.safetensors"]
    again = load_detector(tmp_path / "model")
    assert again.score(unseen).scores.tolist() == fitted.score(unseen).scores.tolist()


@pytest.mark.spec("V14.15")
def test_a_gpu_that_is_not_there_is_refused(random_resnet: BackboneWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PlanError, match=r"accelerator is gpu.*Set accelerator: cpu"):
        PatchCore(random_resnet, accelerator="gpu")


def test_what_is_no_batch_of_images_is_refused(fitted: PatchCore) -> None:
    with pytest.raises(ValueError, match="float32"):
        fitted.score(torch.zeros(3, 64, 64))
