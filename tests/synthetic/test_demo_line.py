"""The images of the demo line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, UnidentifiedImageError

from vad_lib.errors import InputError
from vad_lib.synthetic import DEFECT_KINDS, contact_sheet, make_demo_drop, make_demo_line


def _contents(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def line_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("line")
    make_demo_line(folder, 3, train_normal=100, valid_normal=10, valid_of_each_kind=2)
    return folder


def test_enough_normal_images_train_and_every_defect_is_in_validation(line_folder: Path) -> None:
    table = pd.read_csv(line_folder / "train" / "train.csv")
    assert list(table.columns) == ["image_path", "label", "train_val_split"]
    train = table[table.train_val_split == "train"]
    assert len(train) == 100
    assert set(train.label) == {"good"}
    assert set(table[table.train_val_split == "valid"].label) == {"good", *DEFECT_KINDS}
    assert all((line_folder / "train" / path).is_file() for path in table.image_path)


def test_the_same_seed_writes_the_same_bytes_and_another_seed_other_ones(line_folder: Path, tmp_path: Path) -> None:
    sizes = {"train_normal": 100, "valid_normal": 10, "valid_of_each_kind": 2}
    make_demo_line(tmp_path / "same", 3, **sizes)
    assert _contents(tmp_path / "same") == _contents(line_folder)
    make_demo_line(tmp_path / "other", 4, **sizes)
    assert _contents(tmp_path / "other").keys() == _contents(line_folder).keys()
    images, others = _contents(line_folder / "train"), _contents(tmp_path / "other" / "train")
    assert images.pop("train.csv") == others.pop("train.csv")
    assert not set(images.values()) & set(others.values())


def test_every_defective_image_has_a_mask_of_its_size_and_a_row(line_folder: Path) -> None:
    manifest = pd.read_csv(line_folder / "manifest.csv")
    assert len(manifest) == 2 * len(DEFECT_KINDS)
    for row in manifest.itertuples():
        with Image.open(line_folder / row.file) as image, Image.open(line_folder / row.mask) as mask:
            assert mask.size == image.size
            pixels = np.asarray(mask)
        assert set(np.unique(pixels)) == {0, 255}
        assert (pixels > 0).sum() == row.area


def test_a_drop_mixes_good_defective_and_broken_files_and_says_which_is_which(tmp_path: Path) -> None:
    table = make_demo_drop(tmp_path / "drop", 1, normal=6, defective=5, broken=1)
    assert sorted(p.name for p in (tmp_path / "drop").iterdir()) == sorted(Path(f).name for f in table.file)
    counts = table.label.value_counts()
    assert (counts["good"], counts["broken"], len(table)) == (6, 1, 12)
    for row in table.itertuples():
        assert bool(row.mask) == (row.label in DEFECT_KINDS)
        if row.label == "broken":
            with pytest.raises((OSError, UnidentifiedImageError)), Image.open(row.file) as image:
                image.load()
        else:
            with Image.open(row.file) as image:
                image.load()


def test_two_drops_share_no_image(tmp_path: Path) -> None:
    make_demo_drop(tmp_path / "a", 1, broken=0)
    make_demo_drop(tmp_path / "b", 2, broken=0)
    assert not set(_contents(tmp_path / "a").values()) & set(_contents(tmp_path / "b").values())


def test_a_contact_sheet_has_a_place_for_each_file_and_survives_a_broken_one(tmp_path: Path) -> None:
    files = [Path(f) for f in make_demo_drop(tmp_path / "d", normal=3, defective=1, broken=1).file]
    assert contact_sheet(files, columns=2, side=32).size == (64, 96)


def test_an_unknown_photograph_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="brick, grass, gravel"):
        make_demo_line(tmp_path, texture="marble")
