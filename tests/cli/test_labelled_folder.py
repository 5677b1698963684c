"""Tables written for folders of images."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from vad_dagster.cli.lines import add_line
from vad_lib.errors import InputError
from vad_lib.labelled_folder import label_folder, renew_table
from vad_lib.lines import Home
from vad_lib.plan.reading import read_plan


def _fill(folder: Path, *paths: str) -> Path:
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32)).save(file)
    return folder


def test_a_bare_folder_of_images_is_all_normal(tmp_path: Path) -> None:
    labelled = label_folder(_fill(tmp_path, "a.png", "b.jpg"))
    table = pd.read_csv(tmp_path / "ground_truth.csv")
    assert list(table.itertuples(index=False, name=None)) == [("./a.png", "good"), ("./b.jpg", "good")]
    assert (labelled.ok_class, labelled.split_column) == ("good", "")


@pytest.mark.spec("V2.03")
def test_sub_folders_are_labels_and_the_normal_one_is_known_by_its_name_in_any_case(tmp_path: Path) -> None:
    labelled = label_folder(_fill(tmp_path, "Normal/1.png", "scratch/1.png", "dent/deep/1.png"))
    assert labelled.ok_class == "Normal"
    assert set(pd.read_csv(tmp_path / "ground_truth.csv").label) == {"Normal", "scratch", "deep"}


def test_masks_are_no_images_to_train_on(tmp_path: Path) -> None:
    label_folder(_fill(tmp_path, "train/good/1.png", "test/crack/1.png", "ground_truth/crack/1_mask.png"))
    table = pd.read_csv(tmp_path / "ground_truth.csv")
    assert list(table.image_path) == ["./test/crack/1.png", "./train/good/1.png"]
    assert list(table.train_val_split) == ["valid", "train"]


@pytest.mark.parametrize(
    "mask", ["a_mask.png", "a_GT.png", "a_label.jpg", "a-mask.PNG", "a.gt.png", "a_seg.png", "a_Ground_Truth.png"]
)
def test_masks_beside_images_are_left_out_and_told(tmp_path: Path, mask: str) -> None:
    labelled = label_folder(
        _fill(tmp_path, "good/a.png", f"good/{mask}", "good/b_mask.png", "cut/a.png", f"cut/{mask}")
    )
    table = pd.read_csv(tmp_path / "ground_truth.csv")
    assert list(table.image_path) == ["./cut/a.png", "./good/a.png", "./good/b_mask.png"]  # there is no b
    assert any("Left out as masks" in notice and f"cut/{mask} of cut/a.png" in notice for notice in labelled.notices)


def test_whatever_lies_below_a_folder_of_a_normal_name_is_normal(tmp_path: Path) -> None:
    _fill(tmp_path, "good/a.png", "good/second_shift/a.png", "good/2024/05/a.png", "ng/a.png", "line2/OK/b.png")
    with pytest.raises(InputError, match=r"several normal names: OK, good\. Say which .*--ok-class"):
        label_folder(tmp_path)
    (tmp_path / "line2" / "OK").rename(tmp_path / "line2" / "good")
    assert label_folder(tmp_path).ok_class == "good"
    assert dict(pd.read_csv(tmp_path / "ground_truth.csv").label.value_counts()) == {"good": 4, "ng": 1}


def test_of_two_normal_names_the_person_says_which_holds(tmp_path: Path) -> None:
    _fill(tmp_path, "good/a.png", "pass/early/a.png", "pass/b.png")
    assert label_folder(tmp_path, ok_class="pass").ok_class == "pass"
    assert list(pd.read_csv(tmp_path / "ground_truth.csv").label) == ["good", "pass", "pass"]


def test_below_the_folder_that_the_person_names_everything_is_normal(tmp_path: Path) -> None:
    _fill(tmp_path, "fine/monday/a.png", "fine/b.png", "dent/a.png")
    label_folder(tmp_path, ok_class="fine")
    assert dict(pd.read_csv(tmp_path / "ground_truth.csv").label.value_counts()) == {"fine": 2, "dent": 1}


def test_without_a_telling_name_the_normal_folder_has_to_be_said(tmp_path: Path) -> None:
    _fill(tmp_path, "bottle_a/1.png", "bottle_b/1.png")
    with pytest.raises(InputError, match="ok-class"):
        label_folder(tmp_path)
    with pytest.raises(InputError, match="bottle_a, bottle_b"):
        label_folder(tmp_path, ok_class="bottle_c")
    assert label_folder(tmp_path, ok_class="bottle_b").ok_class == "bottle_b"


@pytest.mark.parametrize("name", ["mine.csv", "MINE.CSV", "train/mine.csv"])
def test_a_table_that_is_there_is_used_as_it_is(tmp_path: Path, name: str) -> None:
    _fill(tmp_path, "a.png", "train/b.png")
    (tmp_path / name).write_text("image_path,label\na.png,fine\n")
    labelled = label_folder(tmp_path)
    assert labelled.ok_class == ""
    assert not (tmp_path / "ground_truth.csv").exists()


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").touch()
    with pytest.raises(InputError, match=r"no \.png"):
        label_folder(tmp_path)


def test_a_folder_of_normal_images_gets_a_plan_that_calls_nearly_all_good_parts_ok(tmp_path: Path) -> None:
    images = _fill(tmp_path / "images", *(f"{number}.png" for number in range(60)))
    line = Home(tmp_path / "home").line("only")
    notes = add_line(line, images=images)
    plan = read_plan(line.plan_file, line.base_folder)
    assert plan.train.percentile == 0.99
    assert plan.readiness.validation_split_rate == 0.3  # 18 of 60 and not 6 find the threshold
    assert any("All images are normal" in note for note in notes)


def test_a_folder_with_defective_images_keeps_the_defaults_of_the_plan(tmp_path: Path) -> None:
    images = _fill(tmp_path / "images", "good/1.png", "good/2.png", "scratch/1.png")
    line = Home(tmp_path / "home").line("mixed")
    notes = add_line(line, images=images)
    plan = read_plan(line.plan_file, line.base_folder)
    assert (plan.train.percentile, plan.readiness.validation_split_rate) == (0.8, 0.1)
    assert not any("All images are normal" in note for note in notes)


def test_normal_images_below_train_and_test_keep_their_split(tmp_path: Path) -> None:
    images = _fill(tmp_path / "images", "train/good/1.png", "train/good/2.png", "test/good/3.png")
    labelled = label_folder(images)
    assert labelled.choices == {"ok_class": "good", "train_validate_column": "train_val_split", "percentile": 0.99}


def test_images_that_came_and_went_are_renewed_in_a_table_that_was_written_here(tmp_path: Path) -> None:
    label_folder(_fill(tmp_path, "good/1.png", "good/2.png", "ng/1.png"))
    assert renew_table(tmp_path) is None
    _fill(tmp_path, "good/3.png", "good/monday/4.png")
    (tmp_path / "ng" / "1.png").unlink()
    found = renew_table(tmp_path)
    assert found is not None
    assert (found.rule, found.severity, found.count) == ("renewed_table", "warn", 3)
    assert "2 images were added to ground_truth.csv and 1 that are gone" in found.message
    table = pd.read_csv(tmp_path / "ground_truth.csv")
    assert list(table.image_path) == ["./good/1.png", "./good/2.png", "./good/3.png", "./good/monday/4.png"]
    assert set(table.label) == {"good"}
    assert renew_table(tmp_path) is None
    _fill(tmp_path, "good/5.png")
    assert renew_table(tmp_path) is not None  # again and again


def test_a_table_that_a_person_changed_is_left_as_it_is_and_new_images_are_told(tmp_path: Path) -> None:
    label_folder(_fill(tmp_path, "good/1.png", "ng/1.png"))
    file = tmp_path / "ground_truth.csv"
    file.write_text(file.read_text().replace(",ng", ",dent"))
    written = file.read_bytes()
    assert renew_table(tmp_path) is None
    _fill(tmp_path, "good/2.png")
    found = renew_table(tmp_path)
    assert found is not None
    assert "1 images are in no row" in found.message
    assert "--replace" in found.advice
    assert file.read_bytes() == written


def test_images_of_another_table_and_tables_of_a_person_are_not_touched_by_the_renewal(tmp_path: Path) -> None:
    label_folder(_fill(tmp_path / "a", "good/1.png"))
    _fill(tmp_path / "a", "labels/x.png")
    (tmp_path / "a" / "labels.csv").write_text("image_path,label\n./labels/x.png,NG\n")
    assert renew_table(tmp_path / "a") is None
    _fill(tmp_path / "b", "good/1.png", "good/2.png")
    (tmp_path / "b" / "ground_truth.csv").write_text("image_path,label\n./good/1.png,good\n")
    label_folder(tmp_path / "b")
    assert renew_table(tmp_path / "b") is None
