"""Hand-written tables and bare folders, as people make them."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vad_lib.errors import InputError, UnsafePathError
from vad_lib.ground_truth import InputTable, read_input
from vad_lib.plan.arguments import InputArguments, OperationArguments

ARGUMENTS = InputArguments()
TABLE = "image_path,label\n./a.png,good\n./b.png,bad\n"


def read(folder: Path, **arguments: str) -> InputTable:
    return read_input(folder, InputArguments(**arguments), pipeline="train")


@pytest.mark.spec("V2.01", "V2.04", "V7.02", "V7.04", "V9.02")
def test_the_table_is_passed_on_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image_path,label,operator\n./a.png, good ,007\n./b.png,NA,\n./c.png,,None\n")
    found = read(tmp_path)
    assert found.table.to_dict("list") == {
        "image_path": ["./a.png", "./b.png", "./c.png"],
        "label": [" good ", "NA", None],
        "operator": ["007", None, "None"],
    }
    assert (found.label_column, found.source_files, found.made_from_images) == ("label", ("train.csv",), False)


def test_numeric_labels_stay_text(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image_path,label\na.png,0\nb.png,1\nc.png,01\n")
    assert read(tmp_path).table["label"].tolist() == ["0", "1", "01"]


@pytest.mark.spec("V14.02")
@pytest.mark.parametrize(
    ("written", "argument"),
    [("utf-8-sig", "utf-8"), ("utf-8", "UTF8"), ("utf-16", "utf-16"), ("cp949", "cp949"), ("cp1252", "cp1252")],
)
def test_byte_order_marks_and_other_encodings_are_understood(tmp_path: Path, written: str, argument: str) -> None:
    label = "양호" if written == "cp949" else "gut für"
    (tmp_path / "train.csv").write_bytes(f"image_path,label\r\n./ä.png,{label}\r\n".replace("ä", "a").encode(written))
    table = read(tmp_path, encoding=argument).table
    assert list(table.columns) == ["image_path", "label"]
    assert table["label"].tolist() == [label]


@pytest.mark.spec("V14.02")
def test_a_wrong_encoding_names_the_file_the_byte_and_what_would_fit(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes("image_path,label\n./a.png,양호\n".encode("cp949"))
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert "train.csv is not utf-8 text: byte 25 (0xBE, line 2)" in str(caught.value)
    assert "cp949" in str(caught.value)
    assert "encoding" in str(caught.value)


@pytest.mark.spec("V2.08")
def test_tables_of_equal_columns_are_joined_and_others_refused(tmp_path: Path) -> None:
    (tmp_path / "b10.csv").write_text("label,image_path\ngood,c.png\n")
    (tmp_path / "b2.csv").write_text(TABLE)
    (tmp_path / ".hidden.csv").write_text("nonsense")
    found = read(tmp_path)
    assert found.source_files == ("b2.csv", "b10.csv")
    assert found.table["image_path"].tolist() == ["./a.png", "./b.png", "c.png"]
    assert list(found.table.columns) == ["image_path", "label"]
    (tmp_path / "other.csv").write_text("image_path,kind\nd.png,x\n")
    with pytest.raises(InputError, match=r"b2.csv has the columns .*other.csv has .*kind"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("image_path,label\n", "only a header"),
        ("image_path,label\na,b.png,good\n", "line 2 has 3 fields"),
        ('image_path,label\n"a.png,good\n', "line 2 is not csv"),
        ("image_path,label,label\na,b,c\n", "'label' twice"),
    ],
)
def test_a_broken_table_is_refused_with_its_place(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "train.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_semicolons_empty_lines_short_lines_and_nameless_columns_are_understood(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('\n;image_path;label\n0;"a;1, ""b"".png";good\n\n1;b.png\n')
    assert read(tmp_path).table.to_dict("list") == {
        "Unnamed: 0": ["0", "1"],
        "image_path": ['a;1, "b".png', "b.png"],
        "label": ["good", None],
    }


@pytest.mark.parametrize(
    "content",
    [
        "sep=;\r\nimage_path;label\r\na.png;good\r\n",
        '"sep=;"\nimage_path;label\na.png;good\n',
        "SEP=|\n\nimage_path|label\na.png|good\n",
        "sep=\t\nimage_path\tlabel\na.png\tgood\n",
        "# written by station 4; shift, 2\n#\n\nimage_path,label\na.png,good\n",
        "# a, comment\nimage_path;label\na.png;good\n",
        ";;;\nimage_path;label\na.png;good\n",
    ],
)
def test_what_spreadsheets_and_tools_write_above_the_header_is_passed_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "train.csv").write_bytes(content.encode())
    assert read(tmp_path).table.to_dict("list") == {"image_path": ["a.png"], "label": ["good"]}


def test_the_separator_is_the_one_under_which_the_wanted_columns_appear(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('"size, in mm; about";image_path;"what, if any"\n"1,5";a.png;good\n')
    found = read(tmp_path, y_column="what, if any").table
    assert found.to_dict("list") == {"size, in mm; about": ["1,5"], "image_path": ["a.png"], "what, if any": ["good"]}
    (tmp_path / "train.csv").write_text('"size, in mm";path;label\n1;a.png;good\n')
    assert list(read(tmp_path).table.columns) == ["size, in mm", "path", "label"]  # none fits: readiness names them
    (tmp_path / "train.csv").write_text("#,image_path,label\n0,a.png,good\n")
    assert list(read(tmp_path).table.columns) == ["#", "image_path", "label"]


def test_lines_are_counted_from_the_top_of_the_file_whatever_stands_above_the_header(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(b"sep=,\r\n# x\r\nimage_path,label\r\na,b.png,good\r\n")
    with pytest.raises(InputError, match="line 4 has 3 fields"):
        read(tmp_path)


@pytest.mark.timeout(20)
def test_a_table_with_a_hundred_thousand_columns_is_refused_at_once(tmp_path: Path) -> None:
    header = ",".join(["image_path", "label", *(f"c{position}" for position in range(100_000))])
    (tmp_path / "train.csv").write_text(f"{header}\na.png,good\n")
    with pytest.raises(InputError, match=r"train.csv has 100,002 columns, and at most 16,384 are read"):
        read(tmp_path)


def test_training_without_a_table_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "a.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no csv file.*image_path,label.*vad line add"):
        read(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "none")
    with pytest.raises(InputError, match="is a file"):
        read(tmp_path / "good" / "a.png")


def test_files_that_a_camera_writes_beside_images_are_no_finding_where_the_plan_ignores_them(tmp_path: Path) -> None:
    for name in ("a.png", "a.XML", "b.json", "c.bmp2"):
        (tmp_path / name).write_bytes(b"x")
    ignored = OperationArguments(ignored_suffixes=["xml", "*.JSON"]).ignored_suffixes  # type: ignore[arg-type]
    found = read_input(tmp_path, ARGUMENTS, pipeline="inference", ignored_suffixes=ignored)
    assert [finding.examples for finding in found.findings] == [({"path": "c.bmp2"},)]
    assert len(read_input(tmp_path, ARGUMENTS, pipeline="inference").findings[0].examples) == 3


@pytest.mark.parametrize("suffix", [".png", "JPG", "", "a/b", "*"])
def test_endings_of_images_or_of_nothing_cannot_be_ignored(suffix: str) -> None:
    with pytest.raises(ValueError, match="ignored_suffixes"):
        OperationArguments(ignored_suffixes=[suffix])  # type: ignore[arg-type]


def test_masks_are_kept_as_masks_and_not_as_images(tmp_path: Path) -> None:
    for name in ("cut/a.png", "cut/a_mask.png", "cut/b.png", "ground_truth/cut/b_mask.png", "masks/other.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    masks = {"cut/a_mask.png": "cut/a.png", "ground_truth/cut/b_mask.png": "cut/b.png"}
    found = read_input(tmp_path, ARGUMENTS, pipeline="inference")
    assert list(found.table["image_path"]) == ["cut/a.png", "cut/b.png", "masks/other.png"]
    assert (found.masks, [finding.rule for finding in found.findings]) == (masks, ["masks"])
    found.save(tmp_path / "kept")
    assert InputTable.load(tmp_path / "kept").masks == masks


def test_rows_that_name_masks_are_told(tmp_path: Path) -> None:
    for name in ("a.png", "a_GT.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "train.csv").write_text("image_path,label\n./a.png,good\na_GT.png,good\n")
    told = {finding.rule: finding for finding in read(tmp_path).findings}
    assert (told["mask_rows"].severity, told["mask_rows"].count) == ("warn", 1)
    assert "a_GT.png of a.png" in told["mask_rows"].message


@pytest.mark.spec("V8.12")
def test_a_table_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.csv").write_text(TABLE)
    (tmp_path / "data" / "train.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(UnsafePathError, match="link to a place outside"):
        read(tmp_path / "data")


def test_a_pipe_named_csv_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.csv")
    with pytest.raises(InputError, match="not a regular file"):
        read(tmp_path)


@pytest.mark.spec("V2.05", "V2.09", "V2.10", "V8.10")
def test_a_bare_folder_becomes_a_table_of_its_images_at_any_depth(tmp_path: Path) -> None:
    for name in (
        "10.png",
        "2.JPG",
        "good/a.jpeg",
        "good/.hidden.png",
        ".git/b.png",
        "__MACOSX/c.png",
        "d.gif",
        "e.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    found = read_input(tmp_path, ARGUMENTS, pipeline="inference")
    assert found.table.to_dict("list") == {"image_path": ["2.JPG", "10.png", "good/a.jpeg"]}
    assert (found.label_column, found.made_from_images) == (None, True)
    (other,) = found.findings
    assert (other.rule, other.severity, other.count) == ("other_formats", "warn", 3)
    assert {example["path"] for example in other.examples} == {"d.gif", "e.txt", "folder.png/"}


@pytest.mark.spec("V2.06", "V2.07")
def test_a_table_at_inference_is_used_with_or_without_labels(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text(TABLE)
    assert read_input(tmp_path, ARGUMENTS, pipeline="inference").label_column == "label"
    (tmp_path / "test.csv").write_text("image_path,time\na.png,1\n")
    assert read_input(tmp_path, ARGUMENTS, pipeline="inference").label_column is None


def test_an_empty_inference_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"no \.png, \.jpg, .* or \.webp image"):
        read_input(tmp_path, ARGUMENTS, pipeline="inference")


def test_images_that_the_table_does_not_name_are_counted(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(TABLE)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "more.csv").write_text(TABLE)
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"x")
    found = {finding.rule: finding for finding in read(tmp_path).findings}
    assert found["images_without_row"].examples == ({"path": "c.png"},)
    assert found["tables_in_subfolders"].count == 1


def test_a_name_that_is_not_utf_8_is_listed_and_passed_over(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (tmp_path / "a.png").write_bytes(b"x")
    found = read_input(tmp_path, ARGUMENTS, pipeline="inference")
    assert found.table["image_path"].tolist() == ["a.png"]
    assert found.findings[0].rule == "undecodable_names"


names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0\\", exclude_categories=("Cs",)), min_size=1, max_size=20
).filter(
    lambda name: (
        unicodedata.is_normalized("NFC", name) and not name.startswith((".", "~$")) and len(name.encode()) < 200
    )
)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(names, min_size=1, max_size=5, unique=True))
def test_any_file_name_survives_listing_saving_and_loading(
    tmp_path_factory: pytest.TempPathFactory, stems: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("names")
    for stem in stems:
        (folder / f"{stem}.png").write_bytes(b"x")
    found = read_input(folder, ARGUMENTS, pipeline="inference")
    assert set(found.table["image_path"]) == {f"{stem}.png" for stem in stems}
    found.save(folder / ".saved")
    loaded = InputTable.load(folder / ".saved")
    pd.testing.assert_frame_equal(loaded.table, found.table)


def test_an_input_table_survives_saving_and_a_damaged_one_says_so(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image_path,label\na.png,\n'b\".png,x\n")
    (tmp_path / "x.txt").write_text("x")
    found = read(tmp_path)
    found.save(tmp_path / "saved")
    loaded = InputTable.load(tmp_path / "saved")
    pd.testing.assert_frame_equal(loaded.table, found.table)
    assert loaded.findings == found.findings
    assert loaded.data_folder == found.data_folder
    (tmp_path / "saved" / "input.json").write_text('{"format_version": 99}')
    with pytest.raises(InputError, match="format 99"):
        InputTable.load(tmp_path / "saved")


def test_rows_of_given_files_are_found_and_others_made(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text(TABLE)
    found = read_input(tmp_path, ARGUMENTS, pipeline="inference")
    part = found.for_files([tmp_path / "new" / "c.png", "b.png"])
    assert part.table.to_dict("list") == {"image_path": ["new/c.png", "./b.png"], "label": [None, "bad"]}
    with pytest.raises(UnsafePathError):
        found.for_files(["../elsewhere.png"])


@pytest.mark.spec("V8.04")
@pytest.mark.parametrize("written", [".\\good\\a.png", " ./good/a.png ", "good//a.png"])
def test_paths_written_by_hand_name_their_files_everywhere(tmp_path: Path, written: str) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "a.png").write_bytes(b"x")
    (tmp_path / "test.csv").write_text(f"image_path,label\n{written},fine\n")
    found = read_input(tmp_path, ARGUMENTS, pipeline="inference")
    assert found.findings == ()
    assert found.for_files(["good/a.png"]).table.to_dict("list") == {"image_path": [written], "label": ["fine"]}


@pytest.mark.spec("V8.14", "V13.03")
def test_the_published_sample_is_read(shared_data: Path) -> None:
    folder = shared_data / "vad_sample" / "sample_data"
    train = read(folder / "train")
    assert train.table["label"].value_counts().to_dict() == {"good": 111, "abnormal": 10}
    assert train.findings == ()
    inference = read_input(folder / "inference", ARGUMENTS, pipeline="inference")
    assert len(inference.table) == 20


@pytest.mark.parametrize("table", [None, "image_path,label\n"])
def test_without_images_the_table_is_empty_where_that_is_allowed_and_an_error_elsewhere(
    tmp_path: Path, table: str | None
) -> None:
    if table:
        (tmp_path / "train.csv").write_text(table)
    found = read_input(tmp_path, ARGUMENTS, pipeline="train", may_be_empty=True)
    assert (len(found.table), list(found.table.columns)) == (0, ["image_path", "label"])
    assert [(one.rule, one.severity) for one in found.findings] == [("no_training_images", "info")]
    if not table:
        with pytest.raises(InputError, match="holds no csv file, and training needs one"):
            read(tmp_path)


def test_images_without_a_table_are_an_error_even_where_none_are_needed(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="can write one for the 1 images there"):
        read_input(tmp_path, ARGUMENTS, pipeline="train", may_be_empty=True)
