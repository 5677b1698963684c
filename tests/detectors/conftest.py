"""Fixtures of the detectors' tests: small real images, and backbones with or without real weights."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.detectors.tile_images import write_tiles
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.encoders.weights import resolve_backbone_weights


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
