"""Measuring many images at once, and finding those that are there twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw, ImageFilter
from skimage import data as pictures

from vad_lib.errors import TrainingStopped
from vad_lib.images.checking import FACT_TYPES, check_images, variance_of_laplacian
from vad_lib.images.duplicates import exact_duplicates, look_alike, near_between, near_duplicates, nearest_hashes
from vad_lib.progress import ProgressUpdate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    brick = Image.fromarray(pictures.brick()).resize((128, 128))
    brick.save(folder / "brick.png")
    brick.save(folder / "copy.png")
    brick.filter(ImageFilter.GaussianBlur(2)).save(folder / "blurred.png")
    brick.convert("RGB").save(folder / "recompressed.jpg", quality=85)
    Image.fromarray(pictures.grass()).resize((128, 128)).save(folder / "grass.png")
    brick.point(lambda value: value // 3).save(folder / "dark.png")
    (folder / "text.png").write_text("no image")
    return folder


NAMES = ["brick.png", "copy.png", "blurred.png", "recompressed.jpg", "grass.png", "dark.png", "text.png"]


@pytest.fixture(scope="module")
def facts(folder: Path) -> pd.DataFrame:
    return check_images([folder / name for name in NAMES])


def test_every_file_gets_its_row_in_order_and_a_bad_one_a_reason(facts: pd.DataFrame, folder: Path) -> None:
    assert facts["file"].tolist() == [str(folder / name) for name in NAMES]
    assert facts["readable"].tolist() == [True] * 6 + [False]
    assert facts["reason"].iloc[6] == "not a PNG, JPEG, BMP, TIFF or WebP image (it is text)"
    assert facts.loc[6, ["sha256", "width", "phash"]].isna().all()
    assert facts["channels"].tolist()[:6] == [1, 1, 1, 3, 1, 1]


@pytest.mark.spec("V10.07", "V10.08")
def test_blur_and_darkness_are_measured(facts: pd.DataFrame) -> None:
    brick, _, blurred, recompressed, _, dark, _ = facts.to_dict("records")
    assert blurred["sharpness"] < brick["sharpness"] / 10
    assert dark["brightness"] == pytest.approx(brick["brightness"] / 3, abs=0.003)
    assert dark["contrast"] == pytest.approx(brick["contrast"] / 3, abs=0.003)
    assert recompressed["brightness"] == pytest.approx(brick["brightness"], abs=0.002)


def test_an_empty_list_gives_an_empty_table_with_all_columns() -> None:
    table = check_images([])
    assert len(table) == 0
    assert list(table.columns) == list(FACT_TYPES)


def test_progress_counts_every_image_and_can_stop_the_work(folder: Path) -> None:
    files = [folder / name for name in NAMES]
    updates: list[ProgressUpdate] = []
    check_images(files, updates.append)
    assert (updates[-1].done, updates[-1].total) == (7, 7)

    def stop(_: ProgressUpdate) -> None:
        raise TrainingStopped("asked to")

    with pytest.raises(TrainingStopped):
        check_images(files, stop)


def test_results_do_not_depend_on_the_number_of_threads(folder: Path, facts: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(check_images([folder / name for name in NAMES], workers=1), facts)


def test_checking_images_imports_no_torch() -> None:
    code = (
        "import sys, vad_lib.images.checking, vad_lib.ground_truth, vad_lib.readiness; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_equal_bytes_are_exact_duplicates(facts: pd.DataFrame) -> None:
    found = exact_duplicates(facts)
    assert found.index.tolist() == [0, 1]
    assert found["copy_of"].tolist() == [0, 0]


def test_a_recompressed_copy_is_a_near_duplicate_and_another_texture_is_not(facts: pd.DataFrame) -> None:
    found = near_duplicates(facts)
    assert found["near_to"][3] == 0
    assert 4 not in found.index
    assert 1 not in found.index  # equal bytes are the other rule's


def test_variance_of_laplacian_equals_the_convolution() -> None:
    from scipy.ndimage import laplace

    grey = pictures.camera()[:50, :70]
    assert variance_of_laplacian(grey) == pytest.approx(laplace(grey.astype(float))[1:-1, 1:-1].var())
    assert np.isnan(variance_of_laplacian(grey[:2]))


hashes = hnp.arrays(np.uint64, st.integers(1, 40), elements=st.integers(0, 2**64 - 1))


@given(hashes, st.integers(1, 7))
def test_nearest_hashes_equals_counting_bits_one_by_one(values: np.ndarray, block: int) -> None:
    keys = np.arange(len(values))
    nearest, distance = nearest_hashes(values, values, keys, keys, block=block)
    for index, value in enumerate(values):
        others = [(int(value) ^ int(other)).bit_count() if i != index else 65 for i, other in enumerate(values)]
        assert distance[index] == min(others)
        assert others[nearest[index]] == min(others)


def test_20000_hashes_are_compared_in_seconds() -> None:
    values = np.random.default_rng(0).integers(0, 2**63, 20000, dtype=np.uint64)
    values[19999] = values[3]
    keys = np.arange(20000)
    nearest, distance = nearest_hashes(values, values, keys, keys)
    assert (nearest[19999], distance[19999]) == (3, 0)


def small_part(folder: Path, number: int, *, scratched: bool = False) -> Path:
    """Write a small ring on an even ground, 400 x 400 pixels, with noise of its own."""
    random = np.random.default_rng(number)
    picture = Image.new("L", (400, 400), 190)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((150, 150, 250, 250), fill=110)
    draw.ellipse((180, 180, 220, 220), fill=190)
    if scratched:
        x, y = (int(place) for place in random.integers(158, 190, 2))
        draw.line((x, y, x + 18, y + 10), fill=160, width=2)
    noisy = np.asarray(picture) + random.normal(0, 2, (400, 400))
    file = folder / f"{number}.png"
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file)
    return file


def test_a_small_part_with_a_scratch_is_no_near_duplicate_of_one_without(tmp_path: Path) -> None:
    good = small_part(tmp_path, 0)
    scratched = [small_part(tmp_path, number, scratched=True) for number in range(1, 9)]
    assert not any(look_alike(good, file) for file in scratched)
    references, queries = ({"file": list(map(str, files))} for files in ([good], scratched))
    same_hash = "0" * 16  # as a hash of so even a picture may be
    found = near_between(
        pd.DataFrame(queries).assign(phash=same_hash).set_index(np.arange(1, 9)),
        pd.DataFrame(references).assign(phash=same_hash),
    )
    assert found.empty


@pytest.mark.parametrize("photograph", ["camera", "coins", "rocket"])
def test_a_copy_of_a_photograph_is_found_however_it_was_stored(photograph: str, tmp_path: Path) -> None:
    original = Image.fromarray(getattr(pictures, photograph)()).convert("RGB")
    original.save(tmp_path / "original.png")
    original.save(tmp_path / "strong.jpg", quality=70)
    original.point(lambda value: min(255, round(value * 1.03) + 3)).save(tmp_path / "brighter.png")
    original.resize((original.width * 3 // 4, original.height * 3 // 4)).save(tmp_path / "smaller.png")
    for copy in ("strong.jpg", "brighter.png", "smaller.png"):
        assert look_alike(tmp_path / "original.png", tmp_path / copy), copy
