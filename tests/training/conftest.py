"""A line's data after the real readiness step, small enough to fit in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.detectors.tile_images import write_tiles
from vad_lib.ground_truth import read_input
from vad_lib.plan.arguments import InputArguments, ReadinessArguments, TrainArguments
from vad_lib.progress import silent
from vad_lib.readiness import prepare_training_data
from vad_lib.readiness.dataset import ValidatedDataset


def prepare(
    folder: Path,
    *,
    normal: int = 20,
    anomalous: int = 8,
    then: Callable[[Path], None] | None = None,
    **kinds: object,
) -> ValidatedDataset:
    """Write tiles and a table, change the files by ``then``, and take them through the input and readiness steps."""
    rows = write_tiles(folder, normal, anomalous, **kinds)  # type: ignore[arg-type]
    for file in rows["file"] if then is not None else ():
        then(Path(file))
    table = pd.DataFrame({"image_path": rows["image_path"], "label": rows["label"]})
    table.to_csv(folder / "train.csv", index=False)
    given = read_input(folder, InputArguments(), pipeline="train")
    readiness = ReadinessArguments(validation_split_rate=0.3, num_minor_threshold=2)
    return prepare_training_data(given, readiness, TrainArguments(), silent)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ValidatedDataset:
    """14 normal training tiles; 6 normal and 8 defective ones for validation."""
    return prepare(tmp_path_factory.mktemp("line"))


@pytest.fixture
def random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow networks without pretrained weights: these tests are about steps, not about quality."""
    monkeypatch.setenv("VAD_ALLOW_RANDOM_WEIGHTS", "1")
