"""No fit holds more than a few batches of images, however many there are."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.detectors.tile_images import as_dataset, write_tiles
from vad_lib.detectors import images as reading
from vad_lib.detectors.fastflow.detector import FastFlow
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.patchcore import bank_plan
from vad_lib.detectors.patchcore.detector import PatchCore
from vad_lib.encoders.weight_file import BackboneWeights

BATCH = 2
COUNT = 40


class LiveImages:
    """Counts decoded images that are in memory, alone or in batches."""

    def __init__(self) -> None:
        self.now = self.most = self.decoded = 0
        self._lock = threading.Lock()

    def watch(self, tensor: torch.Tensor, images: int) -> None:
        self._add(images)
        weakref.finalize(tensor, self._add, -images)

    def _add(self, images: int) -> None:
        with self._lock:
            self.now += images
            self.most = max(self.most, self.now)


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> LiveImages:
    found = LiveImages()
    prepare, stack = ImageDataset._prepare, reading._batch_of

    def counted(self: ImageDataset, *arguments: object) -> tuple[torch.Tensor, str]:
        image, sha256 = prepare(self, *arguments)  # type: ignore[arg-type]
        found.watch(image, 1)
        found.decoded += 1
        return image, sha256

    def counted_batch(*arguments: object) -> reading.Batch:
        batch = stack(*arguments)  # type: ignore[arg-type]
        found.watch(batch.images, len(batch.images))
        return batch

    monkeypatch.setattr(ImageDataset, "_prepare", counted)
    monkeypatch.setattr(reading, "_batch_of", counted_batch)
    return found


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return write_tiles(tmp_path_factory.mktemp("many"), COUNT, side=32)


MOST = 6 * BATCH
"""One batch in use, one read ahead, one being stacked from its images, and what the collector has not taken yet."""


@pytest.mark.parametrize("method", ["exact", "streaming"])
def test_patchcore_holds_a_few_batches_of_images(
    many: pd.DataFrame, random_resnet: BackboneWeights, live: LiveImages, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_plan, "CHUNK_ROWS", 10 * 16)
    PatchCore(random_resnet, batch_size=BATCH, memory_bank=method).fit(as_dataset(many, 32))  # type: ignore[arg-type]
    assert live.decoded == COUNT
    assert BATCH <= live.most <= MOST


@pytest.mark.parametrize("budget", [0, 2**30])
def test_fastflow_holds_a_few_batches_of_images_and_features_only_within_their_budget(
    many: pd.DataFrame, random_resnet: BackboneWeights, live: LiveImages, budget: int
) -> None:
    detector = FastFlow(
        random_resnet,
        flow_steps=1,
        input_size=(32, 32),
        max_epochs=2,
        batch_size=BATCH,
        monitor_metric="loss",
        feature_budget=budget,
    )
    detector.fit(as_dataset(many, 32))
    assert live.decoded == (2 * COUNT if budget == 0 else COUNT)  # nothing kept: read again in each epoch
    assert BATCH <= live.most <= MOST


def test_files_are_read_ahead_by_one_batch_and_no_more(tmp_path: Path, live: LiveImages) -> None:
    rows = write_tiles(tmp_path, 12)
    batches = as_dataset(rows).batches(BATCH)
    next(batches)
    for _ in range(100):
        if live.decoded > 2 * BATCH:
            break
        threading.Event().wait(0.01)
    assert live.decoded == 2 * BATCH
    batches.close()  # type: ignore[attr-defined]
