"""File names made from labels and paths that people wrote."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vad_lib.artifacts import heatmap_name, safe_label, unique_name

ANY_TEXT = st.text(max_size=300)


@given(ANY_TEXT, ANY_TEXT)
@pytest.mark.spec("V11.10", "V8.12")
def test_no_label_and_no_path_leaves_the_folder_or_breaks_the_file_system(label: str, path: str) -> None:
    name = heatmap_name(path, label, "NG", set())
    assert "/" not in name
    assert "\\" not in name
    assert "\0" not in name
    assert name.isprintable()
    assert not name.startswith((".", "-"))
    assert len(name.encode()) <= 255
    assert name.lower().endswith((".png", ".jpg", ".jpeg"))


@given(st.lists(st.one_of(ANY_TEXT, st.sampled_from(["a/x.png", "b/x.png", "A/X.PNG", "x.png"])), max_size=30))
@pytest.mark.spec("V8.13")
def test_no_two_names_are_the_same_even_for_file_systems_without_letter_case(paths: list[str]) -> None:
    taken: set[str] = set()
    names = [unique_name(path, taken) for path in paths]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(names)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("good", "good"),
        ("broken large", "broken-large"),
        ("../x", "x"),
        ("a/b", "a-b"),
        ("..", "unlabelled"),
        ("", "unlabelled"),
        ("불량", "불량"),
        ("C:\\temp", "C-temp"),
        ("a\nb", "a-b"),
        ("0.5", "0.5"),
    ],
)
def test_labels_stay_readable(label: str, name: str) -> None:
    assert safe_label(label) == name


@pytest.mark.spec("V11.10", "V12.06")
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("WIN_20240521_11_59_25_Pro.jpg", "abnormal_OK_WIN_20240521_11_59_25_Pro.jpg"),
        ("./good/image0.png", "abnormal_OK_image0.png"),
        ("a/b.JPEG", "abnormal_OK_b.JPEG"),
        ("a/b.bmp", "abnormal_OK_b.bmp.png"),
        ("a/b", "abnormal_OK_b.png"),
        ("..", "abnormal_OK_image.png"),
    ],
)
def test_heatmaps_keep_the_whole_original_name(path: str, name: str) -> None:
    assert heatmap_name(path, "abnormal", "OK", set()) == name


def test_a_taken_name_gets_its_folder_and_then_a_number() -> None:
    taken: set[str] = set()
    paths = ["a/x.png", "b/x.png", "c/b/x.png", "b/x.png", "b/x.png"]
    assert [unique_name(path, taken) for path in paths] == ["x.png", "b-x.png", "c-b-x.png", "x~2.png", "x~3.png"]


def test_names_that_are_too_long_stay_apart_and_keep_their_extension() -> None:
    taken: set[str] = set()
    names = [unique_name(f"{'불' * 300}{end}.jpg", taken, prefix="good_NG_") for end in ("", "a", "b", "c")]
    assert len(set(names)) == 4
    assert all(name.endswith(".jpg") and len(name.encode()) <= 255 for name in names)


def test_many_equal_names_are_told_apart_quickly() -> None:
    taken: set[str] = set()
    names = [unique_name("x.png", taken) for _ in range(3000)]
    assert names[-1] == "x~3000.png"
    assert len(set(names)) == 3000
