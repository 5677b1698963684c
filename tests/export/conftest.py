"""Fixtures of the tests of exported models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.exported_models import fitted_model
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.models import InspectionModel


@pytest.fixture(scope="session")
def real_resnet(shared_data: Path) -> BackboneWeights:
    """resnet18 with ImageNet's weights."""
    return resolve_backbone_weights("resnet18", shared_data / "weights")


@pytest.fixture(scope="session")
def patchcore(real_resnet: BackboneWeights, shared_data: Path) -> InspectionModel:
    """At 96 x 128 pixels."""
    return fitted_model("patchcore", real_resnet, shared_data, (96, 128))


@pytest.fixture(scope="session")
def fastflow(real_resnet: BackboneWeights, shared_data: Path) -> InspectionModel:
    """At 96 x 96 pixels."""
    return fitted_model("fastflow", real_resnet, shared_data, (96, 96))
