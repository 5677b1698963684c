"""The structure of AnomalyGPT: what learns and what does not, its losses, its two maps, and its own decision."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.detectors.tile_images import as_dataset, write_tiles
from vad_lib.augmentation import Augmentation
from vad_lib.comparison.image_sets import drawn_set
from vad_lib.comparison.pages import mean_table
from vad_lib.comparison.random_clip import write_random_clip
from vad_lib.comparison.running import Candidate, compare
from vad_lib.detectors.anomalygpt import detector as module
from vad_lib.detectors.anomalygpt.detector import AnomalyGPT, compare_decisions, hold_back
from vad_lib.detectors.anomalygpt.network import ImageDecoder, Memory, logistic_curve
from vad_lib.detectors.anomalygpt.plan_arguments import AnomalyGPTArguments
from vad_lib.detectors.base import FitSettings
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.losses import local_loss
from vad_lib.detectors.registry import load_detector
from vad_lib.encoders.clip import class_vectors
from vad_lib.encoders.fallback import NAME
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.errors import InputError, ModelFormatError, PlanError
from vad_lib.preprocessing import Preprocessing
from vad_lib.synthetic.demo_line import make_demo_line

LAYERS = ("layer1", "layer2")


@pytest.fixture(scope="module")
def normal(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """12 tiles of 32 x 32 pixels."""
    return as_dataset(write_tiles(tmp_path_factory.mktemp("gpt_tiles"), 12, side=32), 32)


@pytest.fixture(scope="module")
def batch(normal: ImageDataset) -> torch.Tensor:
    """A tile, and one with a bright square."""
    damaged = normal[1].clone()
    damaged[:, 8:20, 8:20] = 1.0
    return torch.stack([normal[0], damaged])


def make(weights: BackboneWeights, seed: int = 1, epochs: int = 2, **arguments: object) -> AnomalyGPT:
    """Return an unfitted detector as a plan makes it."""
    own = AnomalyGPTArguments(**{f"anomalygpt_{name}": value for name, value in arguments.items()})
    return AnomalyGPT.create(own, FitSettings(weights, seed=seed, max_epochs=epochs))


@pytest.fixture(scope="module")
def fitted(normal: ImageDataset, random_resnet: BackboneWeights) -> AnomalyGPT:
    return make(random_resnet, layers=LAYERS).fit(normal)


@pytest.mark.spec("P4.04")
def test_the_loss_is_focal_and_dice_as_computed_by_hand() -> None:
    abnormal, masks = torch.tensor([[[0.9, 0.2]]]), torch.tensor([[[True, False]]])
    focal = -(0.1**2 * math.log(0.9) + 0.2**2 * math.log(0.8)) / 2
    of_damage = 1 - (2 * 0.9 + 1) / (1.1 + 1 + 1)  # overlap .9, sums 1.1 and 1
    of_normal = 1 - (2 * 0.8 + 1) / (0.9 + 1 + 1)  # 1 - map: overlap .8, sums .9 and 1
    one_level = float(local_loss([abnormal], masks))
    assert one_level == pytest.approx(focal + of_damage + of_normal, abs=1e-4)
    assert float(local_loss([abnormal, abnormal], masks)) == pytest.approx(2 * one_level)


@pytest.mark.spec("P4.03")
def test_a_fit_changes_the_decoder_and_its_vectors_and_no_bit_of_the_encoder(
    normal: ImageDataset, random_resnet: BackboneWeights
) -> None:
    detector = make(random_resnet, layers=LAYERS)
    before = {name: value.clone() for name, value in detector.encoder.state_dict().items()}
    short, long = (make(random_resnet, epochs=epochs, layers=LAYERS).fit(normal).state_dict() for epochs in (1, 2))
    detector.fit(normal)
    assert all(torch.equal(value, before[name]) for name, value in detector.encoder.state_dict().items())
    assert not any(parameter.requires_grad for parameter in detector.encoder.parameters())
    changed = {name for name in short if not torch.equal(short[name], long[name])}
    learnt = {f"decoder.levels.{level}.linear.{part}" for level in (0, 1) for part in ("weight", "bias")}
    assert (
        learnt | {"decoder.vectors"} <= changed <= learnt | {"decoder.vectors", "centre", "spread", "slope", "offset"}
    )


@pytest.mark.spec("P4.04")
def test_adam_takes_steps_of_one_thousandth_and_sees_each_image_undamaged_and_damaged(
    normal: ImageDataset, random_resnet: BackboneWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, sizes, adam = [], [], torch.optim.Adam

    def optimiser(parameters: list[torch.Tensor], rate: float) -> torch.optim.Adam:
        rates.append(rate)
        return adam(parameters, rate)

    def loss(abnormal: list[torch.Tensor], masks: torch.Tensor) -> torch.Tensor:
        sizes.append((len(masks), int(masks.flatten(1).any(1).sum())))
        return local_loss(abnormal, masks)

    monkeypatch.setattr(torch.optim, "Adam", optimiser)
    monkeypatch.setattr(module, "local_loss", loss)
    make(random_resnet, epochs=1, layers=LAYERS).fit(normal)
    assert rates == [1e-3]
    assert sizes == [(8, 4), (8, 4), (4, 2), (4, 2)]  # 10 images to learn from, 2 that are held back


def test_defects_are_drawn_anew_in_each_epoch_and_those_on_images_held_back_stay_the_same(
    normal: ImageDataset, random_resnet: BackboneWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[int, list[bytes]] = {}
    draw = AnomalyGPT._draw

    def recorded(self: AnomalyGPT, image: torch.Tensor, index: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        made, mask = draw(self, image, index, number)
        drawn.setdefault(index, []).append(made.numpy().tobytes())
        return made, mask

    monkeypatch.setattr(AnomalyGPT, "_draw", recorded)
    make(random_resnet, epochs=3, layers=LAYERS).fit(normal)
    held_out, rest = hold_back(range(12))
    assert all(len(set(drawn[index])) == len(drawn[index]) == 3 for index in rest)
    # the same one in each of three epochs, and four that the map is calibrated with, which are looked at twice
    assert all(len(set(drawn[index])) == 5 and len(drawn[index]) == 3 + 2 * 4 for index in held_out)


@pytest.mark.spec("P4.02")
def test_the_score_is_the_largest_value_of_a_map_of_the_images_size_and_survives_saving(
    fitted: AnomalyGPT, batch: torch.Tensor, tmp_path: Path
) -> None:
    found = fitted.score(batch)
    assert found.maps is not None
    assert found.maps.shape == (2, 32, 32)
    assert ((found.maps >= 0) & (found.maps <= 1)).all()
    np.testing.assert_array_equal(found.maps.max((1, 2)), found.scores)
    fitted.save(tmp_path)
    np.testing.assert_array_equal(load_detector(tmp_path).score(batch.flip(0)).scores[::-1], found.scores)


def test_the_seed_gives_the_same_numbers_and_another_one_others(
    normal: ImageDataset, fitted: AnomalyGPT, random_resnet: BackboneWeights, batch: torch.Tensor
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(99)  # what the process has drawn before does not matter
        again = make(random_resnet, layers=LAYERS).fit(normal).state_dict()
    state = fitted.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in state.items())
    other = make(random_resnet, seed=2, layers=LAYERS).fit(normal)
    assert not np.array_equal(other.score(batch).scores, fitted.score(batch).scores)


@pytest.mark.spec("P4.02")
@pytest.mark.parametrize(("shots", "name", "parts"), [(0, "mean", 1), (2, "memory", 1), (2, "mean", 2)])
def test_without_shots_the_decoder_decides_alone_and_with_them_the_map_that_is_named(
    shots: int, name: str, parts: int, normal: ImageDataset, batch: torch.Tensor, random_resnet: BackboneWeights
) -> None:
    detector = make(random_resnet, layers=LAYERS, shots=shots, map=name).fit(normal)
    state = detector.state_dict()
    assert len(state["centre"]) == parts
    assert any(key.startswith("memory") for key in state) == (shots > 0)
    assert any(key.startswith("decoder") for key in state) == (name != "memory")
    assert bool(detector.report.epochs) == (name != "memory")
    again = AnomalyGPT.from_description(detector.describe(), state)
    np.testing.assert_array_equal(again.score(batch).scores, detector.score(batch).scores)


@pytest.mark.spec("P4.02")
def test_the_memory_is_at_distance_0_from_itself_and_takes_the_mean_over_levels() -> None:
    levels = [torch.rand((1, 3, 4, 4)), torch.rand((1, 5, 2, 2))]
    rows = [functional.normalize(level[0].flatten(1).T, dim=1) for level in levels]
    torch.testing.assert_close(Memory(rows)(levels, (4, 4)), torch.zeros(1, 4, 4))
    opposite = Memory([rows[0], -rows[1]])(levels, (2, 2))
    expected = torch.stack([torch.ones(4), (-(rows[1] @ rows[1].T)).amax(1)]).mean(0)
    torch.testing.assert_close(opposite.flatten(), 1 - expected)


@pytest.mark.spec("P4.01")
def test_a_level_is_projected_and_compared_with_both_vectors_by_hand() -> None:
    decoder = ImageDecoder([2], torch.eye(2), learnt=True)
    decoder.levels[0].load_state_dict(
        {
            "mean": torch.ones(2),
            "deviation": torch.full((2,), 2.0),
            "linear.weight": torch.eye(2),
            "linear.bias": torch.zeros(2),
        }
    )
    patches = torch.tensor([1.0, 9.0]).view(1, 2, 1, 1)  # standardised: (0, 4), which is the abnormal vector
    abnormal = decoder([patches], (1, 1))[0].item()
    assert abnormal == pytest.approx(1 / (1 + math.exp(-1 / 0.07)), abs=1e-7)


@pytest.mark.spec("P4.01")
def test_texts_give_the_vectors_where_the_encoder_has_a_text_tower_and_they_stay_as_they_are(
    normal: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}

    def recorded(weights: BackboneWeights, sentences: tuple[tuple[str, ...], tuple[str, ...]]) -> torch.Tensor:
        found["sentences"] = sentences = (sentences[0][:3], sentences[1][:3])  # all of them take seconds
        found["vectors"] = class_vectors(weights, sentences)
        return found["vectors"]

    monkeypatch.setattr(module, "class_vectors", recorded)
    write_random_clip(tmp_path / "clip")
    detector = make(resolve_backbone_weights(str(tmp_path / "clip")), epochs=1, object="brick").fit(normal)
    state = detector.state_dict()
    assert torch.equal(state["decoder.vectors"], found["vectors"])
    assert not any(name.startswith("encoder.text.") for name in state)
    assert found["sentences"][0][0] == "a cropped photo of a brick."


def test_a_tenth_of_the_images_is_held_back_evenly_and_all_of_them_are_used_twice_where_they_are_few() -> None:
    held_out, rest = hold_back(range(100))
    assert len(held_out) == 10
    assert not set(held_out) & set(rest)
    assert sorted(held_out + rest) == list(range(100))
    assert hold_back([5, 7, 9]) == ([5, 7, 9], [5, 7, 9])


def test_training_ends_where_images_held_back_gain_nothing_and_the_best_epoch_is_kept(
    normal: ImageDataset, random_resnet: BackboneWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEARNING_RATE", 10.0)  # goes astray at once
    report = make(random_resnet, epochs=15, layers=LAYERS).fit(normal).report
    assert report.stopped_early
    best = min(report.epochs, key=lambda epoch: epoch.metric)
    assert report.numbers["best_epoch"] == best.number
    assert len(report.epochs) == best.number + 3


@pytest.mark.spec("P4.07")
def test_the_curve_crosses_one_half_between_the_classes_and_never_falls() -> None:
    normal, damaged = torch.tensor([-1.0, -0.5, 0.0]), torch.tensor([1.0, 1.5, 2.0] * 4)
    slope, offset = logistic_curve(normal, damaged)
    assert slope > 0
    assert -offset / slope == pytest.approx(0.5, abs=0.02)
    slope, offset = logistic_curve(damaged, normal)
    assert slope > 0
    assert -offset / slope == pytest.approx(0.5, abs=0.02)


@pytest.mark.spec("P4.07")
def test_the_report_compares_the_maps_own_decision_with_a_learnt_threshold(fitted: AnomalyGPT) -> None:
    normal = torch.tensor([0.0, 0.1, 0.2, 0.1])
    numbers, notices = compare_decisions(normal, torch.tensor([2.0, 2.1, 2.2, 2.1] * 2))
    assert numbers == {
        "held_out_normals": 4,
        "held_out_drawn_defects": 8,
        "held_out_own_false_alarms": 0,
        "held_out_own_misses": 0,
        "held_out_learnt_false_alarms": 0,
        "held_out_learnt_misses": 0,
    }
    numbers, _ = compare_decisions(normal, torch.cat([normal[:2], torch.tensor([2.2, 2.1])]))
    assert numbers["held_out_own_misses"] == 2
    assert "4 normal images" in notices[0]
    assert {"held_out_own_misses", "held_out_learnt_misses"} <= set(fitted.report.numbers)
    assert compare_decisions(normal[:1], normal[:1])[1] == (
        "There are too few images to compare the map's own decision with a learnt threshold.",
    )


@pytest.mark.spec("P4.07", "P4.08")
def test_its_own_decision_finds_drawn_defects_with_the_encoder_that_is_always_there(tmp_path: Path) -> None:
    line = make_demo_line(tmp_path, 3, train_normal=30, valid_normal=12, valid_of_each_kind=3, side=96)
    found = compare(Candidate("anomalygpt", {"anomalygpt_encoder": NAME}), drawn_set(line), size=96, max_epochs=5)
    rows = found.rows
    flagged = rows["raw_score"] >= 0.5
    right = [float((flagged == anomalous)[rows["is_anomalous"] == anomalous].mean()) for anomalous in (False, True)]
    assert np.mean(right) > 0.7
    assert found.pixel_auroc is not None
    assert found.pixel_auroc > 0.8
    assert found.evaluation is not None
    assert found.evaluation.image_auroc > 0.8
    means = mean_table([found]).iloc[0]
    assert float(means["accuracy"]) == pytest.approx(found.evaluation.accuracy, abs=1e-3)
    assert float(means["pixel AUROC"]) == pytest.approx(found.pixel_auroc, abs=1e-3)


def test_images_that_are_augmented_or_have_no_room_are_read_anew(
    normal: ImageDataset, random_resnet: BackboneWeights, batch: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = make(random_resnet, epochs=1, layers=LAYERS).fit(normal).score(batch).scores
    monkeypatch.setattr(module, "FEATURE_BUDGET", 0)
    anew = make(random_resnet, epochs=1, layers=LAYERS).fit(normal).score(batch).scores
    np.testing.assert_allclose(anew, kept, atol=1e-3)
    monkeypatch.undo()
    brighter = Augmentation(("brightness",), 1, 0.0, 0.9, 0.0, 0.0, 0.0, 0, 1)
    augmented = ImageDataset(normal.files, normal.preprocessing, shapes=normal.prepared_shapes, augmentation=brighter)
    assert not make(random_resnet, layers=LAYERS)._look_at(augmented, lambda _: None).kept


def test_what_cannot_be_used_is_refused(
    normal: ImageDataset, random_resnet: BackboneWeights, batch: torch.Tensor, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match="anomalygpt_shots is 0"):
        AnomalyGPTArguments(anomalygpt_map="memory", anomalygpt_shots=0).require_usable()
    detector = make(random_resnet, layers=LAYERS)
    with pytest.raises(ModelFormatError, match="has not been fitted"):
        detector.score(batch)
    with pytest.raises(ModelFormatError, match="not those of this AnomalyGPT"):
        detector.load_state_dict({})
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(InputError, match="None of the 1 training images can be read"):
        detector.fit(ImageDataset([broken], Preprocessing((32, 32)), shapes=[(32, 32)]))


def test_a_single_image_is_enough_to_fit_and_a_forecast_is_made(
    normal: ImageDataset, random_resnet: BackboneWeights
) -> None:
    one = ImageDataset(normal.files[:1], normal.preprocessing, shapes=normal.prepared_shapes[:1])
    detector = make(random_resnet, epochs=1, layers=LAYERS).fit(one)
    assert "too few images" in detector.report.notices[0]
    forecast = make(random_resnet, epochs=10, layers=LAYERS).forecast(normal, None, 2**40)
    training = forecast.parts[1]
    assert "10 epochs" in training.name
    assert 0 < training.least_seconds < training.seconds
    assert forecast.problems == ()
