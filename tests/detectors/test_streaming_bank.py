"""A bank from one pass over the images: bounded, close to the exact one, the same whatever dies meanwhile, and said."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st

from tests.detectors import bank_in_process
from tests.detectors.tile_images import as_dataset, write_tiles
from vad_lib.atomic_files import write_whole
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.patchcore import bank_plan, checkpoints
from vad_lib.detectors.patchcore.bank_plan import GIB, plan_bank
from vad_lib.detectors.patchcore.detector import PatchCore
from vad_lib.detectors.registry import load_detector
from vad_lib.detectors.storage import read_description
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import InputError, PlanError, TrainingStopped
from vad_lib.preprocessing import Preprocessing


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of three tiles, so that a dozen tiles are a stream."""
    monkeypatch.setattr(bank_plan, "CHUNK_ROWS", bank_in_process.CHUNK_ROWS)


def streaming(weights: BackboneWeights, **arguments: object) -> PatchCore:
    settings = {"coreset_sampling_ratio": 0.1, "seed": 1, "memory_bank": "streaming", **arguments}
    return PatchCore(weights, **settings)  # type: ignore[arg-type]


def rows_of(detector: PatchCore) -> torch.Tensor:
    assert detector.bank_ is not None
    return detector.bank_.rows


@given(
    images=st.integers(1, 60_000),
    patches=st.integers(1, 4096),
    channels=st.sampled_from([64, 384, 1536]),
    ratio=st.floats(1e-5, 1.0),
    budget=st.integers(2**20, 2**36),
    cap=st.integers(1, 300_000),
)
def test_a_plan_keeps_its_budget_and_its_cap(
    images: int, patches: int, channels: int, ratio: float, budget: int, cap: int
) -> None:
    try:
        plan = plan_bank(images, patches, channels, ratio, budget_bytes=budget, cap_rows=cap)
    except PlanError:
        reject()  # not even the bank fits
    assert plan.expected_bytes <= budget
    assert plan.rows == min(cap, max(1, int(images * patches * ratio)))
    assert plan.method == ("exact" if plan.exact_bytes <= budget else "streaming")
    if plan.method == "streaming":
        assert plan.rows <= plan.summary_rows <= plan.patches
        assert plan.chunks * plan.chunk_images >= images


def test_fifty_thousand_images_are_planned_within_eight_gib() -> None:
    for channels in (384, 1536):
        plan = plan_bank(50_000, 1024, channels, 0.1, budget_bytes=8 * GIB)
        assert (plan.method, plan.rows) == ("streaming", 100_000)
        assert plan.exact_bytes > 150 * GIB
        assert plan.expected_bytes < 4 * GIB


def test_a_budget_that_not_even_the_bank_fits_in_is_refused_with_what_would_do() -> None:
    with pytest.raises(PlanError, match=r"100,000 rows cannot be chosen within 0.10 GiB.*Raise patchcore_memory"):
        plan_bank(5_000, 1024, 384, 0.1, budget_bytes=GIB // 10)


def test_memory_does_not_grow_with_the_number_of_images_once_the_cap_is_reached() -> None:
    needs = [plan_bank(images, 1024, 1536, 0.1, method="streaming").expected_bytes for images in (5_000, 50_000)]
    assert needs[1] < 1.1 * needs[0]


@pytest.mark.spec("V14.34")
@pytest.mark.usefixtures("small_chunks")
def test_a_stream_has_the_rows_of_the_ratio_and_covers_as_it_says(
    tiles: pd.DataFrame, random_resnet: BackboneWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So few patches would be measured in a projection, as wide ones are.
    monkeypatch.setattr("vad_lib.detectors.patchcore.streaming.streaming_projection", lambda points, channels: 0)
    detector = streaming(random_resnet).fit(as_dataset(tiles[:12]))
    record = detector.bank_record
    assert (record["method"], record["chunk_images"], record["patches"]) == ("streaming", 3, 12 * 64)
    assert record["rows"] == len(rows_of(detector)) == int(12 * 64 * 0.1)
    images = as_dataset(tiles[:12])
    patches = torch.cat([detector.embedder(images[number][None])[0][0] for number in range(12)])
    farthest = float(torch.cdist(patches.double(), rows_of(detector).double()).min(1).values.max())
    assert record["covering_radius"] <= farthest * (1 + 1e-5)
    assert farthest <= record["covering_radius_bound"] * (1 + 1e-5)
    exact = PatchCore(random_resnet, coreset_sampling_ratio=0.1, seed=1).fit(as_dataset(tiles[:12]))
    # A greedy selection is at most twice the best radius; the stream must not be twice the greedy one.
    assert farthest < 2 * exact.bank_record["covering_radius"]
    # Every row is a patch of an image, and none is there twice.
    assert torch.cdist(rows_of(detector).double(), patches.double()).min(1).values.max() < 1e-4
    assert len(torch.unique(rows_of(detector), dim=0)) == record["rows"]


@pytest.mark.spec("V14.10")
@pytest.mark.usefixtures("small_chunks")
def test_the_seed_alone_decides_which_rows_a_stream_keeps(tiles: pd.DataFrame, random_resnet: BackboneWeights) -> None:
    first = rows_of(streaming(random_resnet).fit(as_dataset(tiles[:12])))
    torch.rand(7)
    again = rows_of(streaming(random_resnet, batch_size=5).fit(as_dataset(tiles[:12])))
    other = rows_of(streaming(random_resnet, seed=2).fit(as_dataset(tiles[:12])))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.usefixtures("small_chunks")
def test_wide_patches_are_measured_in_the_projection(
    tiles: pd.DataFrame, random_resnet: BackboneWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def note(points: int, channels: int) -> int:
        asked.append((points, channels))
        return 40

    monkeypatch.setattr("vad_lib.detectors.patchcore.streaming.streaming_projection", note)
    detector = streaming(random_resnet).fit(as_dataset(tiles[:12]))
    assert asked == [(12 * 64, 384)]
    assert rows_of(detector).shape == (int(12 * 64 * 0.1), 384)
    # What is proven in a projection is not proven of the patches.
    assert "covering_radius_bound" not in detector.bank_record
    assert "Every training patch is within" not in detector.report.notices[0]


def test_auto_is_exact_where_that_fits_and_streams_where_not_and_says_so(
    tmp_path: Path, tiles: pd.DataFrame, random_resnet: BackboneWeights
) -> None:
    images = as_dataset(tiles[:12])
    exact = PatchCore(random_resnet, coreset_sampling_ratio=0.05, seed=1).fit(images)
    assert exact.bank_record["method"] == "exact"
    assert exact.report.notices == ()
    needed = exact.bank_record["exact_bytes"]
    small = PatchCore(random_resnet, coreset_sampling_ratio=0.05, seed=1, memory_budget_gib=0.8 * needed / GIB)
    small.fit(as_dataset(tiles[:12]))
    assert small.bank_record["method"] == "streaming"
    assert "streaming" in small.report.notices[0]
    assert "covering_radius" in small.report.numbers
    small.save(tmp_path / "model")
    assert read_description(tmp_path / "model")["detector"]["memory_bank"] == small.bank_record
    assert load_detector(tmp_path / "model").describe() == small.describe()


def test_exact_is_refused_before_any_image_is_read_where_it_does_not_fit(
    tiles: pd.DataFrame, random_resnet: BackboneWeights
) -> None:
    detector = PatchCore(random_resnet, memory_bank="exact", memory_budget_gib=0.0001)
    with pytest.raises(PlanError, match=r"patchcore_memory_bank is exact, but .* Set patchcore_memory_bank: auto"):
        detector.fit(as_dataset(tiles[:12]))
    assert detector.bank_ is None


@pytest.mark.spec("V14.34")
def test_a_cap_keeps_the_first_rows_of_the_exact_bank(tiles: pd.DataFrame, random_resnet: BackboneWeights) -> None:
    whole = PatchCore(random_resnet, coreset_sampling_ratio=0.2, seed=1).fit(as_dataset(tiles[:6]))
    capped = PatchCore(random_resnet, coreset_sampling_ratio=0.2, seed=1, bank_cap_rows=30).fit(as_dataset(tiles[:6]))
    assert torch.equal(rows_of(capped), rows_of(whole)[:30])
    assert "patchcore_bank_cap_rows" in capped.report.notices[0]


@pytest.mark.usefixtures("small_chunks")
def test_unreadable_images_are_left_out_of_a_stream_and_none_at_all_is_refused(
    tmp_path: Path, random_resnet: BackboneWeights
) -> None:
    rows = write_tiles(tmp_path, 8)
    for number in (1, 6):
        Path(rows["file"][number]).write_bytes(b"no image")
    images = as_dataset(rows)
    detector = streaming(random_resnet).fit(images)
    assert sorted(images.unreadable) == [1, 6]
    assert detector.bank_record["patches"] == 6 * 64
    assert len(rows_of(detector)) == int(6 * 64 * 0.1)
    for file in rows["file"]:
        Path(file).write_bytes(b"no image")
    with pytest.raises(InputError, match="None of the 8 training images"):
        streaming(random_resnet).fit(as_dataset(rows))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.spec("P6.01")
def test_a_killed_fit_goes_on_and_gives_the_same_bank(tmp_path: Path, tiles: pd.DataFrame) -> None:
    rows = tiles[:12]
    rows.to_parquet(tmp_path / "rows.parquet")
    work = tmp_path / "work"
    arguments = [str(tmp_path / "rows.parquet"), str(work), "3", str(torch.get_num_threads())]
    command = [sys.executable, "-m", bank_in_process.__name__, *arguments]
    assert subprocess.run(command, check=False, cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
    assert len(list(work.rglob("chunk_*.safetensors"))) == 3  # the last one is half a file
    resumed = bank_in_process.stream(rows, work)
    whole = bank_in_process.stream(rows, tmp_path / "other_work")
    assert (resumed.bank_record["resumed_chunks"], whole.bank_record["resumed_chunks"]) == (2, 0)
    assert torch.equal(rows_of(resumed), rows_of(whole))
    assert not (work / "memory_bank").exists()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("change", ["image", "seed", "ratio", "size", "damage"])
def test_what_was_done_for_another_fit_or_is_damaged_is_never_taken(
    tmp_path: Path, random_resnet: BackboneWeights, change: str
) -> None:
    rows = write_tiles(tmp_path / "images", 9)
    work = tmp_path / "work"

    def stop_at_the_third(file: Path, data: bytes) -> None:
        if "000002" in file.name:
            raise TrainingStopped
        write_whole(file, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "write_whole", stop_at_the_third)
        with pytest.raises(TrainingStopped):
            streaming(random_resnet, work_folder=work).fit(as_dataset(rows))
    chunks = sorted(work.rglob("chunk_*.safetensors"))
    assert len(chunks) == 2
    arguments: dict[str, object] = {"work_folder": work}
    side = 64
    if change == "image":
        last = rows["file"].iloc[-1]
        Path(rows["file"][0]).write_bytes(Path(last).read_bytes())
    elif change == "seed":
        arguments["seed"] = 2
    elif change == "ratio":
        arguments["coreset_sampling_ratio"] = 0.2
    elif change == "size":
        side = 48
    else:
        chunks[0].write_bytes(chunks[0].read_bytes()[:5000])
    detector = streaming(random_resnet, **arguments).fit(as_dataset(rows, side))
    assert detector.bank_record["resumed_chunks"] == (1 if change == "damage" else 0)
    fresh = streaming(random_resnet, **{**arguments, "work_folder": None}).fit(as_dataset(rows, side))
    assert torch.equal(rows_of(detector), rows_of(fresh))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "ratio"), [("mvtec_bottle", 128, 0.01), ("magnetic_tile", 128, 0.01)])
def test_real_images_are_told_apart_as_well_as_by_the_exact_bank(
    shared_data: Path, real_resnet: BackboneWeights, name: str, size: int, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.metrics import roc_auc_score

    monkeypatch.setattr(bank_plan, "CHUNK_ROWS", 32 * 256)  # as many chunks as a large set has

    def dataset(files: list[Path]) -> ImageDataset:
        return ImageDataset(files, Preprocessing((size, size)), shapes=[(size, size)] * len(files))

    train = sorted((shared_data / name / "train" / "good").iterdir())
    test = sorted((shared_data / name / "test").glob("*/*"))
    labels = [file.parent.name != "good" for file in test]
    found = {}
    for method in ("exact", "streaming"):
        detector = PatchCore(real_resnet, coreset_sampling_ratio=ratio, memory_bank=method)  # type: ignore[arg-type]
        detector.fit(dataset(train))
        scores = np.full(len(test), np.nan)
        for batch in dataset(test).batches(8):
            scores[batch.indices] = detector.score(batch.images, with_maps=False).scores
        found[method] = roc_auc_score(labels, scores)
    assert abs(found["exact"] - found["streaming"]) < 0.005
