"""Fixtures of the detectors' tests: small real images, and backbones with or without real weights."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.detectors.tile_images import write_tiles
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.encoders.weights import resolve_backbone_weights

TRACED = (
    "test_it_is_exported_with_the_same_decisions_or_refused_in_a_sentence",
    "test_a_compiled_backend_scores_alike_or_torch_does_and_the_reason_is_told",
)
TRACED_QUICKLY = ("patchcore", "fastflow", "clip_knn", "toy")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what traces a network of a detector for ten seconds and more."""
    for item in items:
        if getattr(item, "originalname", "") in TRACED:
            kind = item.callspec.params["trained"]  # type: ignore[attr-defined]
            if kind not in TRACED_QUICKLY:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Validated rows of 12 normal and 4 defective tiles of 64 x 64 pixels."""
    return write_tiles(tmp_path_factory.mktemp("tiles"), 12, 4)


@pytest.fixture(scope="session")
def random_resnet() -> BackboneWeights:
    """resnet18 without pretrained weights: enough wherever the quality of the features does not matter."""
    return BackboneWeights("resnet18", None, "random", "")


@pytest.fixture(scope="session")
def real_resnet(shared_data: Path) -> BackboneWeights:
    """resnet18 with ImageNet's weights."""
    return resolve_backbone_weights("resnet18", shared_data / "weights")
