"""Heads on embeddings: each against scikit-learn or numbers worked out by hand, and each as a whole detector."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor
from torch.nn import functional

from vad_lib.detectors.base import FitSettings
from vad_lib.detectors.embedding import heads
from vad_lib.detectors.embedding.classifier import ClassifierHead, ClipClassifier, Examples
from vad_lib.detectors.embedding.detector import EmbeddingDetector
from vad_lib.detectors.embedding.features import join_patches
from vad_lib.detectors.embedding.heads import ForestHead, Head, LofHead, MahalanobisHead, NearestHead, SimilarityHead
from vad_lib.detectors.embedding.similarity import ClipSimilarity
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.registry import find_detector, load_detector, registered
from vad_lib.encoders.encoder import create_encoder
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import InputError, ModelFormatError
from vad_lib.plan import TrainArguments, model_parameters
from vad_lib.preprocessing import Preprocessing

KINDS = [name for name, row in registered().items() if str(row.place).startswith("vad_lib.detectors.embedding.")]
LAYERS = ("layer1", "layer2")


def at(*degrees: float) -> torch.Tensor:
    """Return points on the unit circle."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def cloud(count: int, channels: int = 8, seed: int = 0) -> torch.Tensor:
    """Return rows around a point that is far from the origin."""
    return torch.randn((count, channels), generator=torch.Generator().manual_seed(seed)) + 5.0


@pytest.fixture
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forest of 20 trees, which are as right as 300 and fitted sooner."""
    monkeypatch.setattr(heads, "TREES", 20)


def test_the_nearest_neighbours_of_five_points_are_those_worked_out_by_hand() -> None:
    head = NearestHead(1).fit(at(0, 60, 90, 180, 270))
    assert head.score(at(30)).item() == pytest.approx(1 - math.cos(math.radians(30)), abs=1e-6)
    three = NearestHead(3).fit(3.0 * at(0, 60, 90, 180, 270))  # the length of a row has no effect
    expected = 1 - (2 * math.cos(math.radians(30)) + math.cos(math.radians(60))) / 3
    assert three.score(7.0 * at(30)).item() == pytest.approx(expected, abs=1e-6)
    # each point by the four others: 0 is nearest to 60, 180 and 270 are as far from 90 and 0
    left_out = head.held_out(at(0, 60, 90, 180, 270))
    by_hand = [0.5, 1 - math.cos(math.radians(30)), 1 - math.cos(math.radians(30)), 1.0, 1.0]
    np.testing.assert_allclose(left_out, by_hand, atol=1e-6)


def test_the_local_outlier_factor_of_five_points_follows_from_its_definition() -> None:
    rows, k = at(0, 10, 25, 70, 75).double(), 2
    head = LofHead(k).fit(rows.float())
    distance = 1 - rows @ rows.T

    def neighbours(row: np.ndarray, itself: int | None = None) -> list[int]:
        return [int(place) for place in np.argsort(row) if place != itself][:k]

    near = [neighbours(distance[place].numpy(), place) for place in range(5)]
    radius = [float(distance[place, near[place][-1]]) for place in range(5)]

    def density(row: torch.Tensor, mine: list[int]) -> float:
        return 1 / np.mean([max(radius[other], float(row[other])) for other in mine])

    densities = [density(distance[place], near[place]) for place in range(5)]
    new = 1 - at(45).double() @ rows.T
    mine = neighbours(new[0].numpy())
    factor = np.mean([densities[other] for other in mine]) / density(new[0], mine)
    assert head.score(at(45)).item() == pytest.approx(factor, rel=1e-4)
    assert head.seen()[0].item() == pytest.approx(
        np.mean([densities[other] for other in near[0]]) / densities[0], rel=1e-4
    )


def test_the_isolation_score_of_five_points_follows_from_the_depth_in_each_tree() -> None:
    rows = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [0.1, 0.1], [3.0, 3.0]])
    head = ForestHead(seed=3).fit(rows)

    def expected_depth(count: int) -> float:  # c(n) of the paper, equation 1
        if count <= 2:
            return count - 1.0
        return 2 * (math.log(count - 1) + np.euler_gamma) - 2 * (count - 1) / count

    def depth(tree: Any, row: np.ndarray) -> float:
        node = steps = 0
        while tree.children_left[node] >= 0:
            goes_left = row[tree.feature[node]] <= tree.threshold[node]
            node, steps = int((tree.children_left if goes_left else tree.children_right)[node]), steps + 1
        return steps + expected_depth(int(tree.n_node_samples[node]))

    for row, score in zip(rows.numpy(), head.score(rows).tolist(), strict=True):
        mean = np.mean([depth(tree.tree_, row) for tree in head.model.estimators_])
        assert score == pytest.approx(2 ** (-mean / expected_depth(5)), rel=1e-5)
    assert head.score(rows).argmax() == 4


def test_forest_factor_and_distance_are_those_of_scikit_learn_called_directly(few_trees: None) -> None:
    rows, new = cloud(60), cloud(20, seed=1)
    forest = IsolationForest(n_estimators=20, max_samples=60, random_state=42).fit(rows.numpy())
    np.testing.assert_allclose(ForestHead().fit(rows).score(new), -forest.score_samples(new.numpy()), rtol=1e-6)
    factor = LocalOutlierFactor(n_neighbors=20, metric="cosine", novelty=True).fit(rows.numpy())
    np.testing.assert_allclose(LofHead().fit(rows).score(new), -factor.score_samples(new.numpy()), rtol=1e-6)
    covariance = LedoitWolf().fit(rows.double().numpy())
    np.testing.assert_allclose(
        MahalanobisHead().fit(rows).score(new), np.sqrt(covariance.mahalanobis(new.double().numpy())), rtol=1e-4
    )


@pytest.mark.spec("P2.03", "P2.04")
def test_the_rules_set_by_hand_decide_as_scikit_learn_does_with_that_contamination(few_trees: None) -> None:
    rows, new = cloud(60), cloud(200, seed=1)
    for share, rule in ((0.2, "contamination_20"), (0.4, "contamination_40")):
        forest = IsolationForest(n_estimators=20, max_samples=60, random_state=42, contamination=share)
        ours = ForestHead().fit(rows)
        np.testing.assert_array_equal(
            ours.score(new).double() > ours.rules()[rule], forest.fit(rows.numpy()).predict(new.numpy()) < 0
        )
    factor = LocalOutlierFactor(n_neighbors=20, metric="cosine", novelty=True, contamination=0.45).fit(rows.numpy())
    head = LofHead().fit(rows)
    flagged = head.score(new).double() > head.rules()["contamination_45"]
    np.testing.assert_array_equal(flagged, factor.predict(new.numpy()) < 0)
    assert flagged.float().mean() > 0.3  # the rule calls many normal rows NG, which is why it is only printed


@pytest.mark.spec("P2.01")
def test_a_copy_of_a_reference_has_the_lowest_score_and_any_other_image_breaks_the_rule_of_similarity_1() -> None:
    head = SimilarityHead().fit(cloud(30))
    copies, others = head.score(cloud(30)), head.score(cloud(30, seed=1))
    limit = head.rules()["similarity_1"]
    assert copies.max() <= limit < others.min()
    assert (head.held_out(cloud(30)) > limit).all()


@pytest.mark.parametrize("kind", [NearestHead, MahalanobisHead, ForestHead, LofHead])
def test_a_percentile_of_the_held_out_scores_keeps_its_promise_on_fresh_normal_rows(
    kind: type[Head], few_trees: None
) -> None:
    head = kind()
    limit = head.held_out(cloud(150)).quantile(0.9)
    alarms = (head.fit(cloud(150)).score(cloud(400, seed=1)) > limit).float().mean()
    assert alarms <= 0.1 + 2 * math.sqrt(0.1 * 0.9 / 150 + 0.1 * 0.9 / 400)


def test_components_are_whitened_before_the_forest_and_too_few_images_are_refused() -> None:
    assert ForestHead(components=3).fit(cloud(40)).score(cloud(5)).shape == (5,)
    with pytest.raises(InputError, match=r"2 normal images are too few .* needs 3 at least"):
        LofHead().fit(cloud(2))


def examples(seed: int = 0) -> Examples:
    rows = torch.cat([cloud(40, seed=seed), cloud(40, seed=seed + 1) + 1.5])
    return Examples(rows, torch.arange(80) >= 40, torch.arange(40).repeat(2))


@pytest.mark.spec("P2.02")
def test_the_classifier_tells_two_clouds_apart_and_the_seed_gives_the_same_numbers() -> None:
    new = torch.cat([cloud(30, seed=5), cloud(30, seed=6) + 1.5])
    head = ClassifierHead(seed=1).fit_examples(examples())
    scores = head.score(new)
    assert (scores[:30] < 0).float().mean() > 0.8
    assert (scores[30:] > 0).float().mean() > 0.8
    assert torch.equal(ClassifierHead(seed=1).fit_examples(examples()).score(new), scores)
    assert not torch.equal(ClassifierHead(seed=2).fit_examples(examples()).score(new), scores)
    logits = [member((new - head.mean) / head.deviation) for member in head.members]
    assert torch.allclose(torch.stack([each[:, 1] - each[:, 0] for each in logits]).mean(0), scores)


def test_each_image_is_judged_by_the_one_network_that_has_not_learnt_from_it() -> None:
    head = ClassifierHead(max_epochs=2, seed=1).fit_examples(examples())
    image = torch.arange(40)
    apart = torch.stack([head.apart(image, fold) for fold in range(5)])
    assert (apart.sum(0) == 1).all()
    scores = head.score_held_out(examples().rows[:40], image)
    for fold, member in enumerate(head.members):
        rows = (examples().rows[:40][apart[fold]] - head.mean) / head.deviation
        logits = member(rows)
        assert torch.allclose(scores[apart[fold]], logits[:, 1] - logits[:, 0])


def test_layers_of_different_sizes_are_joined_on_the_finest_grid_with_equal_weight() -> None:
    fine, coarse = torch.rand((1, 3, 8, 8)), 100 * torch.rand((1, 5, 4, 4))
    joined = join_patches([fine, coarse])
    assert joined.shape == (1, 8, 8, 8)
    torch.testing.assert_close(joined[0, 2, 3, :3], functional.normalize(fine, dim=1)[0, :, 2, 3] / math.sqrt(2))
    torch.testing.assert_close(joined.norm(dim=3), torch.ones(1, 8, 8))


def make(kind: str, patch_level: bool, weights: BackboneWeights, **options: Any) -> EmbeddingDetector:
    """Return an unfitted detector on two layers of a network with random weights."""
    options |= {f"{kind}_layers": LAYERS, f"{kind}_patch_level": patch_level}
    if kind == "clip_similarity":
        options.setdefault("clip_similarity_second_encoder", "")
    row = find_detector(kind)
    train = TrainArguments(model_name=kind, model_parameters=model_parameters(**options))
    detector = row.load_class().create(row.own(train.model_parameters), FitSettings(weights, max_epochs=3))
    assert isinstance(detector, EmbeddingDetector)
    return detector


@pytest.fixture(scope="module")
def normal(tiles: pd.DataFrame) -> ImageDataset:
    return ImageDataset.from_rows(tiles[~tiles["is_anomalous"]], Preprocessing((64, 64)))


@pytest.fixture(scope="module")
def batch(tiles: pd.DataFrame) -> torch.Tensor:
    """Two normal and two defective tiles."""
    images = ImageDataset.from_rows(tiles.iloc[[0, 1, -2, -1]], Preprocessing((64, 64)))
    return torch.stack([images[place] for place in range(4)])


@pytest.mark.parametrize("patch_level", [False, True], ids=["image", "patches"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_detector_scores_alike_in_any_batch_and_makes_maps_of_patches_only(
    kind: str,
    patch_level: bool,
    normal: ImageDataset,
    batch: torch.Tensor,
    random_resnet: BackboneWeights,
    few_trees: None,
    tmp_path: Path,
) -> None:
    detector = make(kind, patch_level, random_resnet).fit(normal)
    detector.save(tmp_path)
    scores = detector.score(batch)
    turned = load_detector(tmp_path).score(batch.flip(0))
    np.testing.assert_array_equal(turned.scores[::-1], scores.scores)
    assert scores.scores.dtype == np.float32
    if not patch_level:
        assert scores.maps is None
        return
    assert scores.maps is not None
    assert turned.maps is not None
    np.testing.assert_array_equal(turned.maps[::-1], scores.maps)
    assert scores.maps.shape == (4, 64, 64)
    assert detector.score(batch, with_maps=False).maps is None
    if kind not in ("clip_classifier", "clip_isolation_forest"):  # random weights are too little for these
        assert scores.scores[:2].max() < scores.scores[2:].min()


def test_what_scikit_learn_learns_otherwise_than_it_did_is_refused(
    normal: ImageDataset, random_resnet: BackboneWeights
) -> None:
    detector = make("clip_lof", False, random_resnet).fit(normal)
    tensors = detector.state_dict()
    tensors["head.probes"] = tensors["head.probes"] + 0.1
    with pytest.raises(ModelFormatError, match=r"scikit-learn .* learns something else"):
        detector.from_description(detector.describe(), tensors)


@pytest.mark.spec("P2.01", "P2.02", "P2.03", "P2.04", "P2.07")
@pytest.mark.parametrize("kind", ["clip_similarity", "clip_classifier", "clip_isolation_forest", "clip_lof"])
def test_the_report_of_a_fit_says_what_the_rules_set_by_hand_would_have_decided(
    kind: str, normal: ImageDataset, random_resnet: BackboneWeights, few_trees: None
) -> None:
    detector = make(kind, False, random_resnet).fit(normal)
    numbers = detector.report.numbers
    assert numbers["held_out_normals"] == len(normal)
    rules = detector._head().rules()
    assert {f"held_out_ng_share_{rule}" for rule in rules} <= set(numbers)
    assert any("set by hand" in notice and "12 normal" in notice for notice in detector.report.notices)
    if kind == "clip_similarity":
        assert numbers["held_out_ng_share_similarity_1"] == 1.0
    if kind == "clip_classifier":
        assert 0 <= numbers["held_out_auroc_unseen_kind"] <= 1


def test_two_encoders_have_half_of_the_weight_each(random_resnet: BackboneWeights, batch: torch.Tensor) -> None:
    second = BackboneWeights("resnet10t", None, "random", "")
    detector = ClipSimilarity(random_resnet, LAYERS, second=second)
    joined = detector.features(batch[:1])
    first = functional.normalize(detector.features.encoders[0](batch[:1]).vectors, dim=1)
    torch.testing.assert_close(joined[:, : first.shape[1]], first / math.sqrt(2))
    assert joined.norm().item() == pytest.approx(1.0, abs=1e-5)
    tensors = {f"features.{name}": tensor for name, tensor in detector.features.state_dict().items()}
    again = ClipSimilarity.from_description(detector.describe(), {**tensors, "head.rows": joined})
    assert torch.equal(again.features(batch[:1]), joined)
    alone = ClipSimilarity(random_resnet, LAYERS, second=random_resnet)
    assert alone.second is None
    assert alone._notices() == ("Both encoders are resnet18, so its features stand alone.",)


def test_references_are_training_images_or_other_files_and_anything_else_is_refused(
    normal: ImageDataset, tiles: pd.DataFrame, batch: torch.Tensor, random_resnet: BackboneWeights
) -> None:
    first, other = Path(tiles["file"].iloc[0]), Path(tiles["file"].iloc[-1])
    detector = make("clip_similarity", False, random_resnet, clip_similarity_references=(first.name, str(other)))
    scores = detector.fit(normal).score(batch).scores
    np.testing.assert_allclose(scores[[0, 3]], 0.0, atol=1e-6)
    assert scores[1] > 1e-4
    assert detector.report.numbers["rows_learnt"] == 2
    assert detector.report.numbers["held_out_normals"] == len(normal) - 1
    with pytest.raises(InputError, match=r"clip_similarity_references names nowhere\.png"):
        make("clip_similarity", False, random_resnet, clip_similarity_references=("nowhere.png",)).fit(normal)


@pytest.mark.parametrize(("anomalies", "masked"), [("both", 2), ("drawn", 4), ("colour_and_blur", 0)])
def test_the_classifier_makes_the_anomalies_that_the_plan_asks_for(
    anomalies: str, masked: int, batch: torch.Tensor, random_resnet: BackboneWeights
) -> None:
    detector = make("clip_classifier", False, random_resnet, clip_classifier_anomalies=anomalies)
    assert isinstance(detector, ClipClassifier)
    made = list(detector._anomalies(batch[0], 0))
    assert len(made) == 4
    assert sum(mask is not None for _, mask in made) == masked
    for image, mask in made:
        assert not torch.equal(image, batch[0])
        if mask is not None:
            assert torch.equal(image[:, ~mask], batch[0][:, ~mask])


def test_an_unreadable_image_is_passed_over_and_none_at_all_is_an_error(
    tiles: pd.DataFrame, tmp_path: Path, random_resnet: BackboneWeights
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    files = [Path(file) for file in tiles["file"].iloc[:4]]
    images = ImageDataset([broken, *files], Preprocessing((64, 64)), shapes=[(64, 64)] * 5)
    detector = make("clip_knn", False, random_resnet).fit(images)
    assert detector.report.numbers["rows_learnt"] == 4
    assert list(images.unreadable) == [0]
    with pytest.raises(InputError, match="None of the 1 training images can be read"):
        make("clip_knn", True, random_resnet).fit(ImageDataset([broken], Preprocessing((64, 64)), shapes=[(64, 64)]))


def test_the_vector_of_an_image_is_that_of_the_encoder_and_large_sets_are_chosen_from(
    normal: ImageDataset, batch: torch.Tensor, random_resnet: BackboneWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = make("clip_knn", False, random_resnet)
    torch.testing.assert_close(detector.features(batch[:1]), detector.features.encoders[0](batch[:1]).vectors)
    assert create_encoder(random_resnet).__class__ is detector.features.encoders[0].__class__
    monkeypatch.setattr(NearestHead, "most_rows", 50)
    monkeypatch.setattr(LofHead, "most_rows", 50)
    for kind in ("clip_knn", "clip_lof"):
        assert make(kind, True, random_resnet).fit(normal).report.numbers["rows_learnt"] == 50
