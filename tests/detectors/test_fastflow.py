"""FastFlow: anomalib's network and loss, our loop, and every argument seen in its effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.detectors.tile_images import as_dataset
from vad_lib.augmentation import Augmentation
from vad_lib.detectors.base import Epoch
from vad_lib.detectors.epochs import BestEpoch, monitored_value
from vad_lib.detectors.fastflow.detector import FastFlow
from vad_lib.detectors.fastflow.network import FlowNetwork
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.registry import load_detector
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import InputError, ModelFormatError, TrainingStopped
from vad_lib.preprocessing import Preprocessing
from vad_lib.progress import ProgressUpdate


def make(weights: BackboneWeights, **arguments: Any) -> FastFlow:
    """A small one: tests are about the loop, not about quality."""
    return FastFlow(weights, **{"flow_steps": 2, "input_size": (64, 64), "max_epochs": 2, "seed": 1, **arguments})


@pytest.fixture(scope="module")
def fitted(tiles: pd.DataFrame, random_resnet: BackboneWeights) -> FastFlow:
    return make(random_resnet).fit(as_dataset(tiles[:12]), validation=as_dataset(tiles[8:]))


@pytest.fixture(scope="module")
def unseen(tiles: pd.DataFrame) -> torch.Tensor:
    images = as_dataset(tiles[12:])
    return torch.stack([images[number] for number in range(4)])


@pytest.mark.spec("V15.01")
def test_loss_gradients_and_maps_are_those_of_anomalibs_network(random_resnet: BackboneWeights) -> None:
    from anomalib.models.image.fastflow.loss import FastflowLoss
    from anomalib.models.image.fastflow.torch_model import FastflowModel

    torch.manual_seed(0)
    ours = FlowNetwork(random_resnet, (64, 64), 3)
    theirs = FastflowModel((64, 64), "resnet18", pre_trained=False, flow_steps=3)
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(2, 3, 64, 64)
    ours.train()
    theirs.train()
    losses = [FastflowLoss()(*ours.flow(ours.features(images))), FastflowLoss()(*theirs(ours.normalise(images)))]
    assert float(losses[0].detach()) == pytest.approx(float(losses[1].detach()), rel=1e-6)
    for loss in losses:
        loss.backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-4)
    ours.eval()
    theirs.eval()
    with torch.inference_mode():
        expected = theirs(ours.normalise(images)).anomaly_map
        torch.testing.assert_close(ours.map_maker(ours.flow(ours.features(images))[0]), expected, rtol=1e-5, atol=1e-6)


def test_features_kept_in_memory_give_the_same_model_as_features_made_anew(
    tiles: pd.DataFrame, random_resnet: BackboneWeights, fitted: FastFlow
) -> None:
    anew = make(random_resnet, feature_budget=0).fit(as_dataset(tiles[:12]), validation=as_dataset(tiles[8:]))
    kept = fitted.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in anew.state_dict().items())


@pytest.mark.spec("V14.10")
def test_the_same_seed_gives_the_same_scores_and_another_seed_others(
    tiles: pd.DataFrame, random_resnet: BackboneWeights, fitted: FastFlow, unseen: torch.Tensor
) -> None:
    torch.rand(11)
    again = make(random_resnet).fit(as_dataset(tiles[:12]), validation=as_dataset(tiles[8:]))
    assert again.score(unseen).scores.tolist() == fitted.score(unseen).scores.tolist()
    other = make(random_resnet, seed=2).fit(as_dataset(tiles[:12]), validation=as_dataset(tiles[8:]))
    assert other.score(unseen).scores.tolist() != fitted.score(unseen).scores.tolist()


@pytest.mark.spec("V4.18")
def test_an_image_scores_the_same_bits_alone_and_in_a_batch(fitted: FastFlow, unseen: torch.Tensor) -> None:
    """Equal to the last bit, because on the CPU each image goes through the network by itself."""
    together = fitted.score(unseen).scores.tolist()
    assert together == [float(fitted.score(image[None]).scores[0]) for image in unseen]


def test_a_fit_lowers_the_loss_and_reports_each_epoch(tiles: pd.DataFrame, random_resnet: BackboneWeights) -> None:
    updates: list[ProgressUpdate] = []
    detector = make(random_resnet, max_epochs=4, monitor_metric="loss").fit(
        as_dataset(tiles[:12]), progress=updates.append
    )
    losses = [epoch.loss for epoch in detector.report.epochs]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == 4
    training = [update for update in updates if update.task == "Training FastFlow"]
    assert training[-1].done == training[-1].total == 48
    assert training[-1].note.startswith("epoch 4, loss was")


@pytest.mark.spec("V14.32")
def test_flow_steps_are_the_blocks_on_each_feature(random_resnet: BackboneWeights) -> None:
    network = make(random_resnet, flow_steps=5).network
    assert [len(flow.module_list) for flow in network.fast_flow_blocks] == [5, 5, 5]  # type: ignore[arg-type]


@pytest.mark.spec("V14.13")
def test_the_batch_size_is_the_number_of_images_in_a_step(
    tiles: pd.DataFrame, random_resnet: BackboneWeights, fitted: FastFlow, unseen: torch.Tensor
) -> None:
    other = make(random_resnet, batch_size=12).fit(as_dataset(tiles[:12]), validation=as_dataset(tiles[8:]))
    assert other.score(unseen).scores.tolist() != fitted.score(unseen).scores.tolist()


@pytest.mark.spec("V14.16", "V4.12")
@pytest.mark.parametrize("metric", ["image_AUROC", "image_F1Score", "loss"])
def test_the_epoch_that_is_best_by_the_monitored_metric_is_kept(
    tiles: pd.DataFrame, random_resnet: BackboneWeights, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vad_lib.detectors.fastflow.detector as module

    values = iter([0.5, 0.9, 0.7] if metric != "loss" else [3.0, 1.0, 2.0])
    monkeypatch.setattr(module, "monitored_value", lambda *_: next(values))
    long = make(random_resnet, max_epochs=3, monitor_metric=metric)
    long.fit(as_dataset(tiles[:8]), validation=as_dataset(tiles[8:]))
    assert [epoch.best for epoch in long.report.epochs] == [True, True, False]
    values = iter([0.5, 0.9] if metric != "loss" else [3.0, 1.0])
    short = make(random_resnet, max_epochs=2, monitor_metric=metric)
    short.fit(as_dataset(tiles[:8]), validation=as_dataset(tiles[8:]))
    assert all(torch.equal(value, long.state_dict()[name]) for name, value in short.state_dict().items())
    assert long.report.monitor == metric


@pytest.mark.spec("V4.13", "V14.14", "P7.04")
def test_training_ends_early_when_the_metric_stops_improving(
    tiles: pd.DataFrame, random_resnet: BackboneWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vad_lib.detectors.fastflow.detector as module

    monkeypatch.setattr(module, "monitored_value", lambda *_: 0.8)
    detector = make(random_resnet, max_epochs=10).fit(as_dataset(tiles[:4]), validation=as_dataset(tiles[8:]))
    assert len(detector.report.epochs) == 4
    assert detector.report.stopped_early


@pytest.mark.parametrize(
    ("metric", "results", "bests", "stops"),
    [
        # value, loss of each epoch
        ("image_AUROC", [(0.5, 9), (0.6, 8), (0.6, 7)], [True, True, True], False),  # equal AUROC, smaller loss
        ("image_AUROC", [(1.0, 9), (1.0, 8), (1.0, 7), (1.0, 6)], [True] * 4, True),  # nothing more to reach
        ("image_AUROC", [(0.9, 9), (0.8, 1), (0.7, 1), (0.6, 1)], [True, False, False, False], True),
        ("loss", [(5, 5), (4, 4), (6, 6), (3, 3)], [True, True, False, True], False),
        ("loss", [(-5, -5), (-6, -6)], [True, True], False),  # a likelihood may be above one
    ],
)
def test_best_and_last_epoch(metric: str, results: list[tuple[float, float]], bests: list[bool], stops: bool) -> None:
    best = BestEpoch(metric)
    found = []
    for number, (value, loss) in enumerate(results, 1):
        better = best.is_better(value, loss)
        if better:
            best.best = Epoch(number, loss, value, True, 0.0)
        found.append(better)
    assert found == bests
    assert best.should_stop is stops


def test_the_monitored_values_are_those_of_scikit_learn() -> None:
    scores = np.array([0.1, 0.4, 0.35, 0.8], np.float32)
    labels = np.array([False, False, True, True])
    assert monitored_value("image_AUROC", 0.0, scores, labels) == 0.75
    assert monitored_value("image_F1Score", 0.0, scores, labels) == pytest.approx(0.8)
    assert monitored_value("loss", 3.5, scores, labels) == 3.5


@pytest.mark.spec("V14.16", "V4.08")
def test_without_anomalous_validation_images_the_loss_decides_and_it_is_said(
    tiles: pd.DataFrame, random_resnet: BackboneWeights
) -> None:
    detector = make(random_resnet, max_epochs=1).fit(as_dataset(tiles[:4]), validation=as_dataset(tiles[4:8]))
    assert detector.report.monitor == "loss"
    assert "image_AUROC is not defined" in detector.report.notices[0]


@pytest.mark.spec("V14.27", "V14.19")
def test_augmentation_changes_what_is_learnt_and_draws_anew_in_each_epoch(
    tiles: pd.DataFrame, random_resnet: BackboneWeights, fitted: FastFlow, unseen: torch.Tensor
) -> None:
    augmentation = Augmentation(("brightness",), 1, 0.0, 0.5, 0.0, 0.0, 0.0, 0, seed=1)
    images = ImageDataset.from_rows(tiles[:12], Preprocessing((64, 64)), augmentation)
    detector = make(random_resnet).fit(images, validation=as_dataset(tiles[8:]))
    assert detector.score(unseen).scores.tolist() != fitted.score(unseen).scores.tolist()
    assert images.epoch == 2
    second = images[0].clone()
    images.epoch = 1
    assert not torch.equal(images[0], second)


def test_a_stopped_fit_leaves_the_detector_unfitted(tiles: pd.DataFrame, random_resnet: BackboneWeights) -> None:
    def stop_in_training(update: ProgressUpdate) -> None:
        if update.task == "Training FastFlow" and update.done > 12:
            raise KeyboardInterrupt

    detector = make(random_resnet, batch_size=12)
    before = {name: value.clone() for name, value in detector.network.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        detector.fit(as_dataset(tiles[:12]), progress=stop_in_training)
    assert not detector.fitted_
    assert all(torch.equal(value, before[name]) for name, value in detector.network.state_dict().items())
    with pytest.raises(ModelFormatError, match="not been fitted"):
        detector.score(torch.zeros(1, 3, 64, 64))


def test_a_stopped_second_fit_leaves_the_first(
    tiles: pd.DataFrame, random_resnet: BackboneWeights, unseen: torch.Tensor
) -> None:
    def stop(_: ProgressUpdate) -> None:
        raise TrainingStopped

    detector = make(random_resnet, max_epochs=1).fit(as_dataset(tiles[:4]))
    scores = detector.score(unseen).scores.tolist()
    with pytest.raises(TrainingStopped):
        detector.fit(as_dataset(tiles[:4]), progress=stop)
    assert detector.score(unseen).scores.tolist() == scores


def test_a_saved_detector_scores_the_same_bits(tmp_path: Path, fitted: FastFlow, unseen: torch.Tensor) -> None:
    fitted.save(tmp_path)
    again = load_detector(tmp_path)
    assert again.score(unseen).scores.tolist() == fitted.score(unseen).scores.tolist()


@pytest.mark.spec("V4.15")
def test_an_image_of_another_size_is_refused(fitted: FastFlow) -> None:
    with pytest.raises(ValueError, match=r"takes images of \(64, 64\)"):
        fitted.score(torch.zeros(1, 3, 64, 96))


def test_without_a_readable_image_nothing_is_learnt(tmp_path: Path, random_resnet: BackboneWeights) -> None:
    images = ImageDataset([tmp_path / "gone.png"], Preprocessing((64, 64)), shapes=[(64, 64)])
    with pytest.raises(InputError, match="None of the 1 training images"):
        make(random_resnet).fit(images)


@pytest.mark.slow
@pytest.mark.spec("V14.30", "V14.31")
@pytest.mark.parametrize(
    ("backbone", "side"), [("deit_base_distilled_patch16_384", 384), ("wide_resnet50_2", 256), ("cait_m48_448", 448)]
)
def test_every_backbone_of_the_guide_makes_a_map(backbone: str, side: int) -> None:
    network = FlowNetwork(BackboneWeights(backbone, None, "random", ""), (side, side), 1).eval()
    with torch.inference_mode():
        maps = network.map_maker(network.flow(network.features(torch.rand(1, 3, side, side)))[0])
    assert maps.shape == (1, 1, side, side)
