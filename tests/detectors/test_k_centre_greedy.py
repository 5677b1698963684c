"""The fast selection takes the very points that the plain one takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import vad_lib.detectors.k_centre_greedy as module
from tests.detectors.tile_images import as_dataset
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.k_centre_greedy import coreset_indices, select_k_centres
from vad_lib.detectors.patchcore.network import PatchEmbedder
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import TrainingStopped
from vad_lib.preprocessing import Preprocessing
from vad_lib.randomness import seeded


def select_plainly(points: torch.Tensor, count: int, start: int) -> list[int]:
    """The greedy rule as the paper says it."""
    order = [start]
    nearest = torch.linalg.norm(points - points[start], dim=1)
    while len(order) < count:
        order.append(int(torch.max(nearest, dim=0).indices))
        nearest = torch.minimum(nearest, torch.linalg.norm(points - points[order[-1]], dim=1))
    return order


def embed(images: ImageDataset, weights: BackboneWeights) -> torch.Tensor:
    embedder = PatchEmbedder(weights, ("layer2", "layer3"))
    vectors = [embedder(batch.images)[0].flatten(0, 1) for batch in images.batches(4)]
    return torch.cat(vectors).clone()


@pytest.mark.parametrize("ratio", [0.02, 0.3])
def test_the_coreset_of_real_features_is_anomalibs_in_the_same_order(
    tiles: pd.DataFrame, random_resnet: BackboneWeights, ratio: float
) -> None:
    from anomalib.models.components import KCenterGreedy

    embedding = embed(as_dataset(tiles, 96), random_resnet)
    with seeded(3):
        theirs = KCenterGreedy(embedding, ratio).select_coreset_idxs()
    with seeded(3):
        ours = coreset_indices(embedding, ratio).tolist()
    assert len(ours) == int(len(embedding) * ratio) > 40
    assert ours == theirs


def test_the_coreset_of_bottles_with_real_weights_is_anomalibs(shared_data: Path, real_resnet: BackboneWeights) -> None:
    from anomalib.models.components import KCenterGreedy

    files = sorted((shared_data / "mvtec_bottle" / "train" / "good").iterdir())[:6]
    embedding = embed(ImageDataset(files, Preprocessing((256, 256)), shapes=[(320, 320)] * 6), real_resnet)
    with seeded(42):
        theirs = KCenterGreedy(embedding, 0.05).select_coreset_idxs()
    with seeded(42):
        ours = coreset_indices(embedding, 0.05).tolist()
    assert ours == theirs


# Few distinct small integers: nearly every step has ties, and many points are copies.
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.integers(-2, 2)),
    st.integers(2, 5),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_ties_and_copies_are_settled_as_the_plain_rule_settles_them(
    values: np.ndarray, pool: int, data: st.DataObject
) -> None:
    points = torch.from_numpy(values)
    count = data.draw(st.integers(1, len(points)))
    start = data.draw(st.integers(0, len(points) - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "POOL", pool)
        patch.setattr(module, "BLOCK", 8)
        patch.setattr(module, "CENTRES", 4)
        ours = select_k_centres(points, count, start).tolist()
    distinct = len(np.unique(values, axis=0))
    assert ours == select_plainly(points, min(count, distinct), start)


def test_values_far_from_zero_do_not_blur_the_selection() -> None:
    points = torch.from_numpy(np.random.default_rng(0).normal(1000.0, 0.5, (3000, 24)).astype(np.float32))
    assert select_k_centres(points, 300, 5).tolist() == select_plainly(points, 300, 5)


def test_a_selection_can_be_stopped_and_reports_its_progress() -> None:
    points = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    seen = []

    def stop(update: object) -> None:
        seen.append(update)
        raise TrainingStopped

    with pytest.raises(TrainingStopped):
        select_k_centres(points, 500, 0, stop)
    assert seen
